"""The steps of ``make gpu-bench`` one after the other, and the file they fill."""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = 1
BAD = {"failed", "not_settled"}


class NotRun(Exception):
    """A step cannot be run here; the words say why."""


class Failed(Exception):
    """A step was run and what came out is wrong; ``result`` is what was seen."""

    def __init__(self, why: str, result: Any = None) -> None:
        super().__init__(why)
        self.result = result


class NotSettled(Failed):
    """A step was run, and what it was to show is neither shown nor refuted; ``result`` has its numbers."""


@dataclass(kw_only=True)
class Bench:
    """What a step has to work with."""

    device: str
    quick: bool
    folder: Path  # scratch
    timeout_s: float
    python: str = sys.executable
    said: list[str] = field(default_factory=list)

    def hwbench(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command of hwbench; raises NotRun where this hwbench has no such command."""
        words = [str(argument) for argument in arguments]
        done = self.call(self.python, "-m", "hwbench", *words)
        if done.returncode == 2 and "No such command" in done.stderr + done.stdout:
            verbs = itertools.takewhile(lambda word: not word.startswith("-"), words)
            raise NotRun(f"this hwbench has no command `{' '.join(list(verbs)[:2])}`")
        return done

    def call(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, its output as text; raises Failed where it takes too long."""
        words = [str(word) for word in command]
        try:
            return subprocess.run(
                words, cwd=self.folder, capture_output=True, text=True, timeout=self.timeout_s, check=False,
                stdin=subprocess.DEVNULL, env={**os.environ, "HWBENCH_GPU": self.device, "NO_COLOR": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Failed(f"`{' '.join(words[:4])}` took longer than {self.timeout_s:g} s") from error


Step = Callable[[Bench], Any]


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command that failed says."""
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error")]
    return (told or lines or [f"it ended with {done.returncode}"])[-1][:500]


def one(name: str, step: Step, bench: Bench) -> dict[str, Any]:
    """Run one step and return its entry: what came out, or why nothing did."""
    began = time.monotonic()
    try:
        entry = {"name": name, "status": "done", "result": step(bench)}
    except NotRun as error:
        entry = {"name": name, "status": "not_run", "why": str(error)}
    except Failed as error:
        status = "not_settled" if isinstance(error, NotSettled) else "failed"
        entry = {"name": name, "status": status, "why": str(error), "result": error.result}
    except Exception as error:  # noqa: BLE001 - a bug in one step must not take the results of the others along
        entry = {"name": name, "status": "failed", "why": f"{type(error).__name__}: {error}"}
    return {**entry, "seconds": round(time.monotonic() - began, 1), "quick": bench.quick}


def facts(target: Any) -> dict[str, Any]:
    """Return what the numbers are of: device, driver, host, versions."""
    import msgspec

    from hwbench.devices import environment

    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()  # fmt: skip
    return {
        "device": msgspec.to_builtins(target.device),
        "environment": msgspec.to_builtins(environment.capture()),
        "machine": platform.machine(),
        "commit": commit or "unknown",
    }


def kept(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the steps that a file has from before, if it is of the same GPU and driver; raises Failed if not."""
    if not path.exists():
        return []
    before = json.loads(path.read_text())
    same = [before["about"]["device"]["fingerprint"], before["about"]["device"]["gpu"]["driver_version"]]
    if same != [about["device"]["fingerprint"], about["device"]["gpu"]["driver_version"]]:
        raise Failed(
            f"{path} is of another GPU or driver ({before['about']['device']['title']}): give another --output"
        )
    return list(before["steps"])


def write(path: Path, about: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    """Write the file, whole or not at all."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    text = json.dumps({"schema_version": SCHEMA, "written_at": now, "about": about, "steps": steps}, indent=1)
    beside = path.with_suffix(".tmp")
    beside.write_text(text + "\n")
    beside.replace(path)


def chosen(only: list[str], names: list[str]) -> list[str]:
    """Return the names that begin with one of ``only``; all where nothing was chosen."""
    return [name for name in names if not only or any(name.startswith(word) for word in only)]


def run(wanted: Any) -> int:
    """Run what was asked for; return the exit code."""
    from bench_steps import MEASURES, STEPS

    if wanted.list:
        print("\n".join(STEPS))
        return 0
    from hwbench.errors import HwbenchError
    from hwbench.inventory import find_target

    try:
        target = find_target(wanted.device)
        if target.device.kind not in {"nvidia", "jetson"}:
            print(f"gpu-bench: '{wanted.device}' is no NVIDIA GPU ({target.device.title})", file=sys.stderr)
            return 3
    except HwbenchError as error:
        print(f"gpu-bench: {error.message}", file=sys.stderr)
        return error.exit_code
    about = facts(target)
    try:
        steps = kept(wanted.output, about)
    except Failed as error:
        print(f"gpu-bench: {error}", file=sys.stderr)
        return 1
    return _all(wanted, about, steps, STEPS, MEASURES)


def _all(
    wanted: Any, about: dict[str, Any], steps: list[dict[str, Any]], every: dict[str, Step], measures: frozenset[str]
) -> int:
    names = chosen(wanted.only, list(every))
    broken = ""
    failed = False
    with tempfile.TemporaryDirectory(prefix="hwbench-gpu-bench-") as folder:
        for name in names:
            bench = Bench(device=wanted.device, quick=wanted.quick, folder=Path(folder), timeout_s=wanted.step_timeout)
            if broken and name in measures:
                entry = {
                    "name": name,
                    "status": "not_run",
                    "why": f"verification failed: {broken}",
                    "quick": wanted.quick,
                }
            else:
                print(f"{name} ...", flush=True)
                entry = one(name, every[name], bench)
            print(f"{name}: {entry['status']}{': ' + entry['why'] if 'why' in entry else ''}", flush=True)
            steps = [step for step in steps if step["name"] != name] + [entry]
            steps.sort(key=lambda step: list(every).index(step["name"]) if step["name"] in every else len(every))
            write(wanted.output, about, steps)
            failed |= entry["status"] in BAD
            if entry["status"] in BAD and name not in measures:
                broken = name
    print(f"written: {wanted.output}")
    return 1 if failed else 0
