"""The wheel: everything hwbench needs is in it, nothing else is, and it works without the checkout."""

import importlib.util
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from command import environment

ROOT = Path(__file__).resolve().parents[1]
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build it; without an environment of its own where the build backend is installed already."""
    folder = tmp_path_factory.mktemp("wheel")
    here = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    run = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", *here, "--outdir", str(folder), str(ROOT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install it into a folder of its own; its dependencies are those of the tests."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    run = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return target


def test_it_holds_what_hwbench_reads(names):
    needed = [
        "hwbench/py.typed",
        "hwbench/models/digits_cnn.npz",
        "hwbench/cli/main.py",
        *(f"hwbench/_profiles/{path.name}" for path in (ROOT / "profiles").glob("*.toml")),
        *(
            path.relative_to(ROOT).as_posix()
            for folder in ("report/templates", "report/assets")
            for path in (ROOT / "hwbench" / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ),
    ]
    assert set(needed) <= set(names)
    assert sum(name.startswith("hwbench/_profiles/") and name.endswith(".toml") for name in names) > 20
    assert any(name.startswith("hwbench/_kernels/") for name in names)
    assert any(name.startswith("hwbench/report/templates/") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_it_holds_nothing_else(names):
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"hwbench", "hwbench_nn"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".onnx", ".pt"))]


def test_its_entry_points_are_those_of_the_project(wheel, names):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (file,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    parser = ConfigParser(delimiters=("=",))
    parser.optionxform = str
    with zipfile.ZipFile(wheel) as archive:
        parser.read_string(archive.read(file).decode())
    assert dict(parser["console_scripts"]) == project["scripts"]
    for group, points in project["entry-points"].items():
        assert dict(parser[group]) == points


def run_installed(installed, cwd, *arguments):
    """Run the installed copy; the interpreter's own packages come after it, the checkout not at all."""
    script = (
        "import sys; import hwbench, pathlib; "
        f"assert pathlib.Path(hwbench.__file__).is_relative_to({str(installed)!r}), hwbench.__file__; "
        "from hwbench.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=cwd, env=environment(cwd / "home", path=[installed]),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_it_runs_with_its_own_profiles(installed, tmp_path):
    run = run_installed(installed, tmp_path, "devices")
    assert run.returncode == 0, run.stderr
    for words in ("onnxruntime", "jetson-orin-nano-8gb", "raspberry-pi-5"):
        assert words in run.stdout
    assert run_installed(installed, tmp_path, "devices", "raspberry-pi-5").returncode == 0
    assert "digits_cnn" in run_installed(installed, tmp_path, "models").stdout


def test_its_data_folders_are_inside_the_package(installed, tmp_path):
    script = "from hwbench.resources import data_folder; print(data_folder('profiles')); print(data_folder('kernels'))"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(tmp_path, path=[installed]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    folders = [str(installed / "hwbench" / name) for name in ("_profiles", "_kernels")]
    assert run.stdout.split() == folders
