"""``make gpu-bench``: on a machine with an NVIDIA GPU, verify, then measure, then write one JSON for the docs.

    python tests/gpu/bench.py                          # everything: two hours or so
    python tests/gpu/bench.py --only parity overhead   # these steps; what else the file has is kept
    python tests/gpu/bench.py --quick                  # short windows: to see that it works, not to publish

It uses the environment that it is started in and installs nothing. What is missing (a package, a tool, a command of
hwbench) is named in the file as the reason why a step was not run. The file is written after every step, so a run may
be cut short and gone on with. Without a GPU it says in one line what is missing, ends with 3 and writes nothing.

Exit codes: 0 all that could be run was; 1 a step failed, or settled nothing; 3 no GPU, or hwbench itself cannot start
here. `make` turns any of them but 0 into its own 2.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("msgspec", "typer", "rich", "psutil", "numpy", "onnx", "onnx_ir", "onnxscript", "jinja2")
_AGAIN = "HWBENCH_GPU_BENCH"
_CURE = "`make gpu-bench PYTHON=.venv/bin/python` takes the environment that `make profile` made"


def missing_packages(version: tuple[int, int] = sys.version_info[:2]) -> list[str]:
    """Return the packages without which hwbench does not start; Python 3.10 has no reader of TOML of its own."""
    needed = (*NEEDED, "tomli") if version < (3, 11) else NEEDED
    return [name for name in needed if importlib.util.find_spec(name) is None]


def read_toml(text: str, version: tuple[int, int] = sys.version_info[:2]) -> dict[str, Any]:
    """Return what a TOML file holds."""
    reader = importlib.import_module("tomllib" if version >= (3, 11) else "tomli")
    return dict(reader.loads(text))


def write_metadata(folder: Path) -> Path:
    """Write what an installer would have: the entry points of the checkout, by which hwbench finds its plugins."""
    project = read_toml((ROOT / "pyproject.toml").read_text())["project"]
    meta = folder / "hwbench_nn-0.0.0.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.0.0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    (meta / "entry_points.txt").write_text("\n".join(lines))
    return folder


def installed() -> bool:
    """Say whether plugins of hwbench are registered here."""
    from importlib.metadata import entry_points

    return bool(entry_points(group="hwbench.engines"))


def start_again(arguments: list[str]) -> int:
    """Run this program again with hwbench and its plugins importable; return how it ended."""
    with tempfile.TemporaryDirectory(prefix="hwbench-meta-") as folder:
        paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/gpu")]
        if not installed():
            paths.append(str(write_metadata(Path(folder))))
        before = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([*paths, *([before] if before else [])])
        command = [sys.executable, str(Path(__file__).resolve()), *arguments]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": path, _AGAIN: "1"}, check=False).returncode


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Verify and measure hwbench on an NVIDIA GPU.")
    parser.add_argument("--device", default="cuda:0", help="as hwbench counts: `hwbench devices`")
    parser.add_argument("--output", type=Path, default=Path("gpu-bench.json"))
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="these steps, by name or its beginning")
    parser.add_argument("--quick", action="store_true", help="short windows: to see that it works")
    parser.add_argument("--step-timeout", type=float, default=3600.0, metavar="S", help="of each step")
    parser.add_argument("--list", action="store_true", help="list the steps and end")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    lacking = missing_packages()
    if lacking or sys.version_info < (3, 10):
        what = "Python 3.10 or newer" if sys.version_info < (3, 10) else f"packages {', '.join(lacking)}"
        print(f"gpu-bench: hwbench cannot start in {sys.executable} without {what}; {_CURE}", file=sys.stderr)
        return 3
    if _AGAIN not in os.environ:
        return start_again(arguments)
    from bench_run import run  # importable now

    return run(parse(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
