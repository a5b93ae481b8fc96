"""A callable named with keyword arguments: ``net.py:make(width=0.5)``."""

import pytest

from hwbench.errors import ModelError, UsageError
from hwbench.graph.spec import parse_spec, with_arguments

NET = """
import torch
module = torch.nn.Linear(2, 2)
def make(width=4, bias=True, name="x"):
    return torch.nn.Linear(3, width, bias=bias), torch.zeros(1, 3)
"""


@pytest.fixture
def net(tmp_path):
    folder = tmp_path / "with (brackets)"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    return f"{folder / 'net.py'}:make"


def test_arguments_are_literals(net):
    spec = parse_spec(f"{net}(width=8, bias=False, name='a, b')")
    assert spec.arguments == {"width": 8, "bias": False, "name": "a, b"}
    assert spec.where == net.removesuffix(":make")
    assert spec.name == "net.make(width=8,bias=False,name=a, b)"
    assert parse_spec(net).arguments == {}
    again = parse_spec(with_arguments(f"{net}(width=8)", {"bias": False}))
    assert again.arguments == {"width": 8, "bias": False}


@pytest.mark.parametrize("given", ["(8)", "(width=open)", "(**{})", "(width=)", "(width=1, width=2)"])
def test_other_arguments_are_refused(net, given):
    with pytest.raises(UsageError, match="no keyword arguments"):
        parse_spec(net + given)


def test_what_takes_none_is_given_none(net):
    with pytest.raises(UsageError, match="takes no arguments"):
        with_arguments("digits_cnn", {"width": 1})
    with pytest.raises(UsageError, match="width already"):
        with_arguments(f"{net}(width=8)", {"width": 4})


def test_the_callable_gets_them(net):
    pytest.importorskip("torch")
    from hwbench.graph.torch_source import load_torch

    assert load_torch(parse_spec(f"{net}(width=8, bias=False)")).module.weight.shape == (8, 3)
    with pytest.raises(ModelError, match="depth"):
        load_torch(parse_spec(f"{net}(depth=8)"))
    with pytest.raises(ModelError, match="a module already"):
        load_torch(parse_spec(f"{net.removesuffix('make')}module(width=1)"))
