"""The shape of the code: who may import whom, how large a file may be, and that every error is accounted for."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hwbench
from hwbench import errors

PACKAGE = Path(hwbench.__file__).parent
ROOT = PACKAGE.parent


def test_the_import_contracts_hold():
    pytest.importorskip("importlinter")
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_short_and_says_what_it_is(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    assert text.startswith('"""'), "a module begins with what it is for"
    assert "from __future__ import annotations" in text or not text.split('"""', 2)[2].strip()


def error_classes():
    """Every error class of hwbench, wherever it is defined; all modules but the optional ones are imported."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "hwbench."):
        if not module.name.startswith(("hwbench.graph.torch", "hwbench.models", "hwbench.__main__")):
            importlib.import_module(module.name)
    found, waiting = [], [errors.HwbenchError]
    while waiting:
        found.append(waiting.pop())
        waiting += [cls for cls in found[-1].__subclasses__() if cls.__module__.startswith("hwbench.")]
    return found


def test_every_error_has_an_exit_code_and_a_place_in_the_tree():
    tree = inspect.getdoc(errors)
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    classes = error_classes()
    assert len(classes) >= 9
    for cls in classes:
        assert cls.exit_code in codes, cls
        assert cls.__name__ in tree, f"{cls.__name__} is not in the docstring of hwbench.errors"
        assert cls.__module__ == "hwbench.errors", f"{cls.__name__} is defined in {cls.__module__}"


def test_nothing_prints_but_the_command_line():
    found = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "cli" and any(
            line.lstrip().startswith(("print(", "sys.stdout.write(")) for line in path.read_text().splitlines()
        )
    ]  # fmt: skip
    assert sorted(found) == [
        "bundles/examples.py",
        "engines/tensorrt_example.py",
        "prediction/probe/program.py",
        "testing/engines.py",
    ], "scripts"
