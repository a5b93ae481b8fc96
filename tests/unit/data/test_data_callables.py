import sys

import pytest

from hwbench.data.callables import load_callable
from hwbench.errors import UsageError


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The current folder, which nothing but the code under test makes importable, as with PYTHONSAFEPATH=1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_in_the_current_folder(elsewhere):
    (elsewhere / "hwb_samples.py").write_text("def make():\n    return 1\n")
    sys.path[:] = [folder for folder in sys.path if folder]  # "" is the current folder
    assert load_callable("hwb_samples:make")() == 1


def test_a_file_imports_what_lies_beside_it(elsewhere):
    (elsewhere / "inner").mkdir()
    (elsewhere / "inner/hwb_beside.py").write_text("VALUE = 2\n")
    (elsewhere / "inner/hwb_file.py").write_text("from hwb_beside import VALUE\n\ndef make():\n    return VALUE\n")
    assert load_callable("inner/hwb_file.py:make")() == 2


def test_a_dataclass_with_late_annotations(elsewhere):
    (elsewhere / "hwb_late.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Made:\n    size: int = 3\n"
    )
    assert load_callable("hwb_late.py:Made")().size == 3


def test_a_file_called_like_a_loaded_module_does_not_take_its_place(elsewhere):
    (elsewhere / "pytest.py").write_text("def make():\n    return 4\n")
    assert load_callable("pytest.py:make")() == 4
    assert sys.modules["pytest"] is pytest


def test_a_file_that_fails_is_not_left_behind(elsewhere):
    (elsewhere / "hwb_fails.py").write_text("1 / 0\n")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        load_callable("hwb_fails.py:make")
    assert "hwb_fails" not in sys.modules
    with pytest.raises(UsageError, match="cannot be imported"):
        load_callable("hwb_nowhere:make")
