"""A torch module made from what the user named; nothing is exported here."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from hwbench.errors import ModelError
from hwbench.graph.spec import parse_spec
from hwbench.graph.torch_source import load_torch

NETS = '''
"""A user's file."""
from __future__ import annotations

import torch
from torch import nn

from helper_beside_nets import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, image, scale=None, /, *, flag=False):
        return self.dropout(self.linear(image))

class Two(Net):
    def forward(self, left, right):
        return self.linear(left), self.linear(right)

class Nested:
    class deeper:
        make = Net

net = Net().train()

def function():
    return Net().train()

def with_tuple():
    return Two(), (torch.ones(1, WIDTH), torch.zeros(1, WIDTH))

def with_list():
    return Two(), [torch.ones(1, WIDTH), torch.zeros(1, WIDTH)]

def with_dict():
    return Two(), {"right": torch.zeros(1, WIDTH), "left": torch.ones(1, WIDTH)}

def with_tensor():
    return Net(), torch.ones(1, WIDTH)

def too_many():
    return Net(), (torch.ones(1),) * 3

def no_tensors():
    return Two(), (torch.ones(1, WIDTH), [1, 2])

def three():
    return Net(), torch.ones(1), torch.ones(1)

def pair_without_module():
    return torch.ones(1), Net()

def returns_nothing():
    pass

def leaves():
    raise SystemExit("bye")

def needs_arguments(width):
    return Net()

def raises_an_error_of_two_lines():
    raise RuntimeError("first\\n" + "x" * 2000)

boom = lambda: 1 / 0
number = 42
'''


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """The user's file, importable and forgotten again afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "helper_beside_nets.py").write_text("WIDTH = 4\n")
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    yield path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def load(path, attribute):
    return load_torch(parse_spec(f"{path}:{attribute}"))


@pytest.mark.parametrize("attribute", ["net", "Net", "function", "Nested.deeper.make"])
def test_a_module_a_class_and_a_function_are_the_same_to_the_user(nets, attribute):
    loaded = load(nets, attribute)

    assert type(loaded.module).__name__ == "Net"
    assert loaded.example is None
    assert loaded.argument_names == ["image", "scale"]


@pytest.mark.parametrize("attribute", ["net", "function", "with_tensor"])
def test_a_module_in_training_mode_is_put_in_eval(nets, attribute):
    loaded = load(nets, attribute)

    assert not any(module.training for module in loaded.module.modules())
    image = torch.ones(1, 4)
    torch.testing.assert_close(loaded.module(image), loaded.module(image))


@pytest.mark.parametrize("attribute", ["with_tuple", "with_list", "with_dict"])
def test_example_inputs_go_by_the_names_of_forward(nets, attribute):
    loaded = load(nets, attribute)

    assert {name: float(tensor.sum()) for name, tensor in loaded.example.items()} == {"left": 4, "right": 0}
    args, kwargs = loaded.arguments(loaded.example)
    left, right = loaded.module(*args, **kwargs)
    torch.testing.assert_close(left - right, loaded.module.linear.weight.sum(1)[None])


def test_one_example_tensor_is_the_first_argument(nets):
    assert list(load(nets, "with_tensor").example) == ["image"]


def test_an_argument_that_is_positional_only_is_passed_so(nets):
    loaded = load(nets, "with_tensor")

    args, kwargs = loaded.arguments(loaded.example)

    assert loaded.module(*args, **kwargs).shape == (1, 3)


def test_the_same_weights_at_every_call(nets):
    first, second = (load(nets, "function").module.state_dict() for _ in range(2))

    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("boom", "boom' raised ZeroDivisionError: division by zero"),
        ("leaves", "leaves' raised SystemExit: bye"),
        ("needs_arguments", r"raised TypeError: .*missing 1 required positional argument"),
        ("returns_nothing", "returns_nothing' gave a NoneType, not a torch.nn.Module"),
        ("three", "three' gave a tuple, not a torch.nn.Module"),
        ("pair_without_module", "gave a Tensor, not a torch.nn.Module"),
        ("number", "number' is a int, neither a module nor a callable"),
        ("too_many", "3 example inputs were given and forward takes 2: image, scale"),
        ("no_tensors", "example input 'right' is a list, not a tensor"),
    ],
)
def test_a_factory_that_gives_no_model_says_what_it_did(nets, attribute, words):
    with pytest.raises(ModelError, match=words):
        load(nets, attribute)


def test_a_long_message_is_cut(nets):
    with pytest.raises(ModelError, match="raised RuntimeError: first") as caught:
        load(nets, "raises_an_error_of_two_lines")

    assert len(caught.value.message) < 800
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("attribute", ["make", "Nested.shallow", "net.nothing"])
def test_a_missing_name_lists_those_there_are(nets, attribute):
    with pytest.raises(ModelError, match=rf"nets.py' has no '{attribute}'") as caught:
        load(nets, attribute)

    assert "function" in str(caught.value.hint)
    assert "number" not in str(caught.value.hint)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def f(:\n", "SyntaxError"),
        ("raise ValueError('at import')\n", "ValueError: at import"),
        ("import sys\nsys.exit('usage: nets.py DATA')\n", "SystemExit: usage: nets.py DATA"),
        ("\0", "SyntaxError|ValueError"),
    ],
)
def test_a_file_that_does_not_import_says_why(nets, source, words):
    nets.write_text(source)

    with pytest.raises(ModelError, match=words):
        load(nets, "net")

    assert "nets" not in sys.modules


def test_a_file_called_like_a_loaded_module_does_not_take_its_place(nets):
    path = nets.with_name("torch.py")
    path.write_text(NETS)

    assert type(load(path, "net").module).__name__ == "Net"
    assert sys.modules["torch"] is torch


def test_a_package_is_found_from_the_working_folder(nets, monkeypatch):
    package = nets.parent / "my_package" / "inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from my_package.inner.net import make\n")
    (package / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(2, 2)\n")
    monkeypatch.chdir(nets.parent)

    for text in ("my_package.inner.net:make", "my_package.inner:make"):
        assert isinstance(load_torch(parse_spec(text)).module, nn.Linear)


def test_a_package_that_is_not_there():
    with pytest.raises(ModelError, match=r"importing 'no_such.package' failed: ModuleNotFoundError"):
        load_torch(parse_spec("no_such.package:make"))


def test_a_library_class_can_be_named():
    with pytest.raises(ModelError, match=r"'torch.nn:Linear' raised TypeError"):
        load_torch(parse_spec("torch.nn:Linear"))


def test_a_zoo_model_has_inputs_of_the_batch_asked_for():
    loaded = load_torch(parse_spec("zoo:resnet8"), batch_size=3)

    assert {name: tuple(tensor.shape) for name, tensor in loaded.example.items()} == {"image": (3, 3, 32, 32)}
    assert not loaded.module.training


# .pt2


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A program with one positional input and one keyword input."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, image, *, bias):
            return self.linear(image) + bias

    module = Net().eval()
    example = torch.ones(2, 4)
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(torch.export.export(module, (example,), {"bias": torch.full((3,), 7.0)}), path)
    return path, module


def test_a_pt2_comes_back_with_its_inputs_and_numbers(saved):
    path, module = saved

    loaded = load_torch(parse_spec(str(path)))

    assert {name: tuple(tensor.shape) for name, tensor in loaded.example.items()} == {"image": (2, 4), "bias": (3,)}
    assert loaded.program is not None
    args, kwargs = loaded.arguments(loaded.example)
    torch.testing.assert_close(loaded.module(*args, **kwargs), module(torch.ones(2, 4), bias=torch.full((3,), 7.0)))


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_pt2_that_was_cut_short(saved, tmp_path, share):
    data = saved[0].read_bytes()
    path = tmp_path / "cut.pt2"
    path.write_bytes(data[: int(len(data) * share)])

    with pytest.raises(ModelError, match=r"cut.pt2' is not a torch.export package this torch can read"):
        load_torch(parse_spec(str(path)))


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_pt2_that_is_something_else(saved, tmp_path, weights):
    path = tmp_path / "other.pt2"
    if weights:
        torch.save(saved[1].state_dict(), path)
    else:
        path.write_text("I am no archive")

    with pytest.raises(ModelError, match=r"other.pt2' is not a torch.export package"):
        load_torch(parse_spec(str(path)))


def test_a_pt2_with_an_input_that_is_no_tensor(tmp_path):
    class Net(nn.Module):
        def forward(self, image, times):
            return image * times

    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(Net(), (torch.ones(2), 3)), path)

    with pytest.raises(ModelError, match="inputs that are not plain tensors"):
        load_torch(parse_spec(str(path)))
