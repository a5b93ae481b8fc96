"""A torch module as an ONNX graph: the same numbers, names that lead back, nothing of the machine it was made on.

Exports take seconds, so each network is exported once for all tests on it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from hwbench.children import run_child
from hwbench.engines.onnxruntime import OnnxRuntime
from hwbench.engines.openvino import OpenVino
from hwbench.engines.torch_eager import TorchEager
from hwbench.errors import ModelError, UsageError
from hwbench.graph.importer import import_model
from hwbench.graph.spec import parse_spec
from hwbench.graph.torch_export import OPSET, export
from hwbench.graph.torch_source import TorchModel, load_torch
from hwbench.protocols import BuildRequest
from hwbench.records.model import ImportJob, ImportResult
from hwbench.testing import example_cpu

NETS = '''
import torch
from torch import nn

class Block(nn.Module):
    """A residual block: convolution without a bias, BatchNorm with statistics of its own."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm1d(width)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)) + x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layer1 = nn.Sequential(Block(16), Block(16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(16, 3)

    def forward(self, ids, scale):
        x = self.layer1(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.dropout(x).mean(1)), x * scale

def net():
    made = Net()
    for block in made.layer1:
        block.bn.running_mean.normal_()
        block.bn.running_var.uniform_(0.5, 2)
        nn.init.uniform_(block.bn.weight, 0.5, 2)
    return made.train(), (torch.arange(12).reshape(2, 6), torch.full((2, 1, 1), 0.5))

class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, image, scale=None):
        hidden = self.first(image)
        return {"logits": self.second(hidden), "hidden": hidden if scale is None else hidden * scale}

def linear():
    return Linear()

def linear_with_example():
    return Linear(), {"image": torch.ones(2, 4)}

class Branchy(nn.Module):
    def forward(self, image):
        return image + 1 if image.sum() > 0 else image - 1

def branchy():
    return Branchy(), torch.ones(2, 3)

class Guarded(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.first = nn.Linear(4, 4)
        nn.init.constant_(self.first.bias, bias)

    def forward(self, image):
        return self.first(image) if image.sum().item() > 0 else image

def guarded():
    return Guarded(0.0), torch.ones(1, 4)

def guarded_otherwise():
    return Guarded(1.0), torch.ones(1, 4)

class Unknown(nn.Module):
    def forward(self, image):
        return torch.linalg.eigh(image)[0]

def unknown():
    return Unknown(), torch.eye(3)

def wrong_shape():
    return Linear(), torch.ones(2, 5)

def half():
    return Linear().bfloat16(), torch.ones(1, 4, dtype=torch.bfloat16)
'''


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    path = tmp_path_factory.mktemp("source of nets") / "exported_nets.py"
    path.write_text(NETS)
    before = list(sys.path)
    yield path
    sys.path[:] = before
    for name, loaded in list(sys.modules.items()):
        if getattr(loaded, "__file__", None) == str(path):
            del sys.modules[name]


def job(path, attribute, **changes):
    settings = {"batch_size": None, "shapes": {}, "input_data": None, "seed": 0} | changes
    return ImportJob(model=f"{path}:{attribute}" if attribute else str(path), **settings)


@pytest.fixture(scope="module")
def imported(nets, tmp_path_factory):
    return import_model(job(nets, "net"), tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def module(nets):
    return load_torch(parse_spec(f"{nets}:net")).module


@pytest.fixture(scope="module")
def linear(nets, tmp_path_factory):
    return import_model(job(nets, "linear_with_example", batch_size=3), tmp_path_factory.mktemp("linear"))


def run(result, file):
    folder = Path(result.files.folder)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
    with np.load(folder / result.files.inputs) as inputs:
        return session.run(None, dict(inputs))


# The graph


@pytest.mark.parametrize("file", ["model.onnx", "lowered.onnx"])
def test_the_outputs_are_torchs(imported, module, file):
    with np.load(Path(imported.files.folder) / "inputs.npz") as inputs, torch.inference_mode():
        expected = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})

    for found, wanted in zip(run(imported, file), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_the_inputs_are_the_example_by_name(imported):
    described = {spec.name: (spec.dtype, spec.shape) for spec in imported.model.inputs}

    assert described == {"ids": ("int64", (2, 6)), "scale": ("float32", (2, 1, 1))}
    assert imported.model.input_origin == "example"
    assert imported.model.batch_size == 2
    with np.load(Path(imported.files.folder) / "inputs.npz") as inputs:
        np.testing.assert_array_equal(inputs["ids"], np.arange(12).reshape(2, 6))


def test_two_outputs_keep_their_order(imported):
    assert [spec.shape for spec in imported.model.outputs] == [(2, 3), (2, 6, 16)]
    assert len({spec.name for spec in imported.model.outputs}) == 2


def test_layers_bear_the_paths_of_their_modules(imported):
    by_name = {layer.name: layer for layer in imported.model.layers}

    for path, op in {
        "embed": "Gather",
        "layer1.0.conv": "Conv",
        "layer1.0.bn": "BatchNormalization",
        "layer1.1.conv": "Conv",
        "layer1.1.relu": "Relu",
        "head": "Gemm",
    }.items():
        assert (by_name[path].op, by_name[path].module) == (op, path)
    assert by_name["layer1.0/Add"].module == "layer1.0"
    assert by_name["attention/Softmax"].module == "attention"
    assert len(by_name) == len(imported.model.layers)


def test_the_weights_are_the_modules_and_keep_their_names(imported, module):
    graph = ir.load(Path(imported.files.folder) / "model.onnx").graph
    state = module.state_dict()

    for name in ("embed.weight", "layer1.0.conv.weight", "layer1.1.bn.running_var", "head.weight", "head.bias"):
        np.testing.assert_array_equal(graph.initializers[name].const_value.numpy(), state[name].numpy())


def test_the_parameters_are_the_modules(imported, module):
    assert imported.model.parameters == sum(parameter.numel() for parameter in module.parameters())


def test_the_saved_state_is_the_modules(imported, module):
    state = torch.load(Path(imported.files.folder) / imported.files.torch_state, weights_only=True)

    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())


def test_batch_norms_stay_in_the_hub_and_fold_in_what_runtimes_get(imported):
    assert imported.files.merged == {"layer1.0.bn": "layer1.0.conv", "layer1.1.bn": "layer1.1.conv"}
    assert imported.files.runtime_graph == "lowered.onnx"
    ops = {file: [node.op_type for node in ir.load(Path(imported.files.folder) / file).graph] for file in FILES}
    assert ops["model.onnx"].count("BatchNormalization") == 2
    assert ops["lowered.onnx"].count("BatchNormalization") == 0


FILES = ("model.onnx", "lowered.onnx")


def test_no_convolution_has_a_bias_that_the_module_does_not_have(imported):
    convolutions = [
        node for node in ir.load(Path(imported.files.folder) / "model.onnx").graph if node.op_type == "Conv"
    ]

    assert [len(node.inputs) for node in convolutions] == [2, 2]


def test_dropout_is_gone(imported):
    assert not {"Dropout", "RandomUniformLike"} & {layer.op for layer in imported.model.layers}


def test_the_opset(imported):
    assert imported.model.opset == OPSET


@pytest.mark.parametrize("file", FILES)
def test_no_path_and_no_stack_trace_is_in_the_file(imported, nets, file):
    data = (Path(imported.files.folder) / file).read_bytes()

    for word in (str(Path.cwd()), str(nets.parent), "nets.py", "/home", 'File "', "site-packages", "stack_trace"):
        assert word.encode() not in data


def test_another_process_makes_the_same_hub(imported, nets, tmp_path):
    again = run_child(
        "hwbench.graph.importer",
        job(nets, "net"),
        ImportResult,
        folder=tmp_path,
        what="the second import",
        failure=ModelError,
        timeout_s=60,
        env={"PYTHONHASHSEED": "7"},
    )

    assert again.model.hub_sha256 == imported.model.hub_sha256
    assert again.model == imported.model


# Other inputs than the example's


def test_a_dict_of_outputs_and_another_batch_size(linear):
    assert [(spec.shape) for spec in linear.model.outputs] == [(3, 2), (3, 4)]
    assert linear.model.batch_size == 3


def test_shapes_make_up_for_a_missing_example(nets, tmp_path):
    result = import_model(job(nets, "linear", shapes={"image": (5, 4)}, seed=1), tmp_path)

    assert result.model.inputs[0].shape == (5, 4)
    assert result.model.input_origin == "random"


def test_a_file_makes_up_for_a_missing_example(nets, tmp_path):
    image = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", image=image, label=np.zeros(5))

    result = import_model(job(nets, "linear", input_data=str(tmp_path / "x.npz")), tmp_path / "out")

    assert [(spec.name, spec.dtype, spec.shape) for spec in result.model.inputs] == [("image", "float32", (5, 4))]
    assert result.model.input_origin == "file"
    with np.load(tmp_path / "out" / "inputs.npz") as inputs:
        np.testing.assert_array_equal(inputs["image"], image)


@pytest.mark.parametrize(
    ("attribute", "changes", "why"),
    [
        ("linear", {}, "gives no example inputs"),
        ("linear", {"shapes": {"picture": (1, 4)}}, "--shapes names picture; forward takes image, scale"),
        ("linear_with_example", {"shapes": {"picture": (1, 4)}}, "'picture', which is no input"),
        ("linear_with_example", {"shapes": {"image": (4,)}}, "1 axes, its example has 2"),
    ],
)
def test_inputs_that_do_not_fit(nets, tmp_path, attribute, changes, why):
    with pytest.raises(UsageError, match=why):
        import_model(job(nets, attribute, **changes), tmp_path)


@pytest.mark.parametrize(
    ("attribute", "arrays", "changes", "why"),
    [
        ("linear", {"picture": np.zeros((1, 4))}, {}, "none of the arguments of forward: image, scale"),
        ("linear_with_example", {"picture": np.zeros((1, 4))}, {}, "has no array 'image'"),
        ("linear_with_example", {"image": np.zeros((1, 4))}, {}, "as float64, the model takes float32"),
        ("linear_with_example", {"image": np.zeros((1, 4), np.float32)}, {"batch_size": 2}, "differ"),
        ("linear_with_example", {"image": np.zeros((1, 4), np.float32)}, {"shapes": {"image": (2, 4)}}, "differ"),
    ],
)
def test_a_file_of_inputs_that_do_not_fit(nets, tmp_path, attribute, arrays, changes, why):
    np.savez(tmp_path / "x.npz", **arrays)

    with pytest.raises(UsageError, match=why):
        import_model(job(nets, attribute, input_data=str(tmp_path / "x.npz"), **changes), tmp_path / "out")


# What cannot be exported


@pytest.mark.parametrize(
    ("attribute", "words", "line"),
    [
        ("branchy", "data-dependent expression", "in forward: return image + 1 if image.sum() > 0 else image - 1)"),
        ("unknown", r"No ONNX function found for .*linalg_eigh", ""),
    ],
)
def test_what_cannot_be_exported_is_left_to_torch(nets, tmp_path, attribute, words, line):
    result = import_model(job(nets, attribute), tmp_path)

    reason = result.files.no_graph
    assert reason.code == "not_exported"
    assert re.search(words, reason.why)
    assert line in reason.why
    assert len(reason.why) < 1000
    for noise in ("Traceback", 'File "', "\x1b", "submit a PR", "stack trace", str(nets)):
        assert noise not in reason.why
    (warning,) = result.model.warnings
    assert reason.why in warning
    (layer,) = result.model.layers
    assert (layer.macs.code, layer.moved_bytes.code) == ("not_exported", "not_exported")
    assert result.model.uncounted == (attribute.capitalize(),)
    assert (tmp_path / result.files.runtime_graph).exists()
    assert not (tmp_path / "model.onnx").exists()


def test_only_the_torch_engines_run_what_cannot_be_exported(nets, tmp_path):
    result = import_model(job(nets, "branchy"), tmp_path)

    for engine in (OnnxRuntime(), OpenVino()):
        assert engine.supports(result.model, result.files, example_cpu()).reasons == (result.files.no_graph,)
    eager = TorchEager()
    assert eager.supports(result.model, result.files, example_cpu()).usable
    request = BuildRequest(
        model=result.model, files=result.files, device=example_cpu(), precision="fp32",
        threads=torch.get_num_threads(), streams=1,
        profile_layers=False, workdir=tmp_path,
    )  # fmt: skip
    with np.load(tmp_path / "inputs.npz") as archive:
        inputs = {name: archive[name] for name in archive.files}
    outputs = eager.load(request).compile().bind(inputs).outputs()
    assert [(spec.name, spec.shape) for spec in result.model.outputs] == [("output_0", (2, 3))]
    np.testing.assert_array_equal(outputs["output_0"], inputs["image"] + 1)


def test_the_same_module_has_the_same_identity_and_other_weights_another(nets, tmp_path):
    first, again = (import_model(job(nets, "guarded"), tmp_path / name).model for name in ("1", "2"))
    assert first == again
    other = import_model(job(nets, "guarded_otherwise"), tmp_path / "3").model
    assert other.hub_sha256 != first.hub_sha256
    assert first.weight_bytes == 4 * (16 + 4)
    assert first.parameters == 20


def test_a_forward_that_fails_is_told_with_its_line(nets, tmp_path):
    with pytest.raises(
        ModelError, match=r"forward failed on its inputs: RuntimeError: .*nets\.py, line \d+, in forward: "
    ) as caught:
        import_model(job(nets, "wrong_shape"), tmp_path)
    assert "hidden = self.first(image)" in str(caught.value)


def test_an_example_without_a_numpy_type_is_told(nets, tmp_path):
    with pytest.raises(ModelError, match=r"'image' .torch.bfloat16. does not convert to numpy"):
        import_model(job(nets, "half"), tmp_path)


# .pt2


def test_a_pt2_becomes_the_graph_of_its_module(nets, tmp_path):
    loaded = load_torch(parse_spec(f"{nets}:linear_with_example"))
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(loaded.module, (), loaded.example), path)

    result = import_model(job(path, None), tmp_path / "out")

    assert [(spec.name, spec.shape) for spec in result.model.inputs] == [("image", (2, 4))]
    assert (result.model.kind, result.files.torch_source, result.files.torch_state) == ("pt2", str(path), None)
    assert {layer.name for layer in result.model.layers} == {"first", "second"}
    with torch.inference_mode():
        expected = loaded.module(**loaded.example)
    for found, wanted in zip(run(result, "model.onnx"), expected.values(), strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="keeps the shapes it was exported with"):
        import_model(job(path, None, batch_size=7), tmp_path / "again")


# Without the importer


def test_zero_biases_that_belong_to_the_module_stay():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, bias=False)).eval()
    nn.init.zeros_(module[0].bias)
    image = torch.ones(1, 3, 5, 5)

    graph = export(TorchModel(module=module, example={"input": image}), {"input": image}).graph

    assert [[value.name for value in node.inputs[1:]] for node in graph] == [["0.weight", "0.bias"], ["1.weight"]]


def test_a_shared_module_has_one_weight_and_two_layers():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(torch.relu(self.linear(x)))

    x = torch.ones(1, 4)

    graph = export(TorchModel(module=Shared().eval(), example={"x": x}), {"x": x}).graph

    names = [node.name for node in graph]
    assert len(set(names)) == len(names) == 3
    assert all(name.startswith("linear/") or name == "Relu" for name in names)
    assert set(graph.initializers) == {"linear.weight", "linear.bias"}
