import inspect
import re

import pytest

from hwbench import errors
from hwbench.errors import HwbenchError


def below(cls):
    return [found for child in cls.__subclasses__() for found in (child, *below(child))]


CLASSES = below(HwbenchError)


def test_text_is_the_message_and_then_the_hint():
    error = errors.UsageError("no engine is called 'x'", hint="registered: y")
    assert str(error) == "no engine is called 'x'\n  registered: y"
    assert (error.message, error.hint) == ("no engine is called 'x'", "registered: y")


def test_no_hint_leaves_no_trace():
    assert str(errors.DeviceError("gone")) == "gone"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_is_found_by_its_name(cls):
    assert errors.by_name(cls.__name__) is cls


@pytest.mark.parametrize("name", ["HwbenchError", "ValueError", "", "__class__"])
def test_an_unknown_name_is_the_base(name):
    assert errors.by_name(name) is HwbenchError


def test_the_tree_in_the_docstring_is_the_tree():
    tree = dict(re.findall(r"── (\w+)\s+(\d+)", inspect.getdoc(errors)))
    assert tree == {cls.__name__: str(cls.exit_code) for cls in CLASSES if cls.__module__ == errors.__name__}


@pytest.mark.parametrize("cls", [HwbenchError, *CLASSES], ids=lambda cls: cls.__name__)
def test_every_error_ends_with_a_code_of_its_own_kind(cls):
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert cls.exit_code in codes - {errors.EXIT_OK}
    assert cls.__doc__


def test_no_two_outcomes_share_an_exit_code():
    codes = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert len(codes) == len(set(codes))
