"""The built-in models: sizes as published, the same bits everywhere, and every exporter and runtime takes them."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwbench.errors import UsageError
from hwbench.models.bits import BitStream
from hwbench.models.zoo import ZOO, create

LARGE = ("mobilenet_v2", "resnet50", "vit_tiny", "bert_small")

# Learnable parameters, and multiply-adds, from the papers and the reference implementations.
PUBLISHED = {
    "resnet20": (269_722, 40.55e6),
    "mobilenet_v2": (3_504_872, 300e6),
    "resnet50": (25_557_032, 4.09e9),
    "vit_tiny": (5_717_416, 1.25e9),
    "bert_small": (28_763_648, 1.68e9),
    "resnet8": (78_186, 12.5e6),
    "ds_cnn": (23_756, 2.66e6),
    "autoencoder": (267_928, 0.264e6),
}

# Of the weights; they change only on purpose, since every stored result names the weights it ran.
DIGESTS = {
    "resnet8": "b99991229a28e0a5870441c5cad33e1d6edb0f8765c2aa3db3a9392970e71e1a",
    "resnet20": "1c14a4cde284e703a520ba2c994623d812711177a796c56b4764348e0d6bb3f5",
    "ds_cnn": "3163ecd3a6c97cec9554c1158f0d1647b956117f32a9110423233ab6423881c1",
    "autoencoder": "c2ea5540902410fce8c6e5d58c36069a2b3196f8527b81d630823b39a6737b06",
    "mobilenet_v2": "fa1da9336faba2f845bff09d35d9b2de9f2767fca1de1eb51b4feb8ad087ef79",
    "resnet50": "a1628d66ac97632853f79267b33581c270ec34ab28d821d558ba92679c88b5c3",
    "vit_tiny": "1f8da84691e1ce4a8dd3914e43c3c7c8e965a89d66a7ca0e783e11900f0cbd16",
    "bert_small": "8932889907cdc672a121f9c893dc86b175f351f7c2aec15baffc4966700f664c",
}


def by_size(names):
    """Mark the large models slow."""
    return [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in sorted(names)]


def on_meta(name):
    """Make the network and its inputs without storage: shapes are all that counting needs."""
    module, function = ZOO[name].factory.replace("trained_", "").split(":")
    with torch.device("meta"):
        network = getattr(importlib.import_module(module), function)().eval()
        inputs = {spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in ZOO[name].inputs}
    return network, inputs


def run(module, inputs):
    with torch.no_grad():
        outputs = module(**inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def digest(module):
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in module.state_dict().values())).hexdigest()


def relative_error(got, reference):
    return max(np.abs(y - r.numpy()).max() / r.abs().max().item() for y, r in zip(got, reference, strict=True))


@pytest.mark.parametrize("name", ZOO)
def test_parameters_are_as_listed(name):
    module, _ = on_meta(name)
    assert sum(parameter.numel() for parameter in module.parameters()) == ZOO[name].parameters


@pytest.mark.parametrize("name", ZOO)
def test_macs_are_as_listed(name):
    module, inputs = on_meta(name)
    # As plain matrix products: the counter does not know the CPU's fused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run(module, inputs)
    assert counter.get_total_flops() == 2 * ZOO[name].macs


@pytest.mark.parametrize("name", PUBLISHED)
def test_listed_sizes_are_the_published_ones(name):
    parameters, macs = PUBLISHED[name]
    assert ZOO[name].parameters == parameters
    assert ZOO[name].macs == pytest.approx(macs, rel=0.005)


@pytest.mark.parametrize(("name", "total"), [("resnet8", 78_666), ("ds_cnn", 24_908), ("autoencoder", 269_992)])
def test_mlperf_tiny_totals_count_running_statistics(name, total):
    state = on_meta(name)[0].state_dict()
    assert sum(value.numel() for key, value in state.items() if not key.endswith("num_batches_tracked")) == total


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_examples_fit_the_listed_inputs(name, batch_size):
    model = ZOO[name]
    module, function = model.example.split(":")
    example = getattr(importlib.import_module(module), function)(model.inputs, batch_size)
    listed = [(spec.name, (batch_size, *spec.shape[1:]), spec.dtype) for spec in model.inputs]
    assert [(key, tuple(x.shape), str(x.dtype).removeprefix("torch.")) for key, x in example.items()] == listed


@pytest.mark.parametrize("name", by_size(ZOO))
def test_outputs_are_finite_and_depend_on_the_input(name):
    module, inputs = create(name, batch_size=3)
    assert not module.training
    for output in run(module, inputs):
        assert output.isfinite().all()
        assert output.abs().max() < 1000  # far from where float16 ends
        assert (output[0] - output[1]).abs().max() > 0.05 * output.abs().max()
        assert output.std() > 0.1


@pytest.mark.parametrize("name", by_size(DIGESTS))
def test_weights_are_the_same_bits_everywhere(name):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert digest(create(name)[0]) == DIGESTS[name]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", by_size(set(DIGESTS) - {"vit_tiny", "bert_small"}))
def test_running_statistics_matter_and_fit_the_activations(name):
    module, inputs = create(name, batch_size=4)
    reference = run(module, inputs)[0]
    norms = [part for part in module.modules() if hasattr(part, "running_mean")]
    seen = {}
    for norm in norms:
        norm.register_forward_hook(lambda norm, args, y: seen.update({norm: (y.mean().item(), y.std().item())}))
    run(module, inputs)
    assert all(abs(mean) < 1 and 0.2 < deviation < 5 for mean, deviation in seen.values())
    for norm in norms:
        norm.reset_running_stats()
    assert (run(module, inputs)[0] - reference).abs().max() > 0.1 * reference.abs().max()


@pytest.mark.slow
def test_bert_ignores_padding_and_nothing_else():
    module, inputs = create("bert_small", batch_size=2)
    used = inputs["attention_mask"].bool()
    hidden, pooled = run(module, inputs)
    other = inputs | {"input_ids": torch.where(used, inputs["input_ids"], 2000)}
    assert torch.allclose(run(module, other)[0][used], hidden[used], atol=1e-5)
    for name, value in (("attention_mask", torch.ones_like(inputs["attention_mask"])), ("token_type_ids", 0 * used)):
        assert (run(module, inputs | {name: value.long()})[1] - pooled).abs().max() > 0.05
    alone = {name: value[1:, : int(used[1].sum())] for name, value in inputs.items()}
    assert torch.allclose(run(module, alone)[1], pooled[1:], atol=1e-5)


@pytest.mark.parametrize("name", by_size(ZOO))
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # inside torch's exporter
def test_exports_and_runs_elsewhere_with_the_same_outputs(name, tmp_path):
    onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    module, inputs = create(name, batch_size=2)
    reference = run(module, inputs)
    again = torch.export.export(module, (), kwargs=inputs).module()
    assert relative_error([output.detach().numpy() for output in run(again, inputs)], reference) < 1e-4
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(module, args=(), kwargs=inputs, dynamo=True, optimize=False, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == [spec.name for spec in ZOO[name].inputs]
    feed = {key: value.numpy() for key, value in inputs.items()}
    assert relative_error(session.run(None, feed), reference) < 1e-4
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert relative_error(list(compiled(feed).to_tuple()), reference) < 1e-4


@pytest.mark.parametrize(("asked", "meant"), [("resnet51", "resnet50"), ("mobilenetv2", "mobilenet_v2")])
def test_an_unknown_name_is_answered_with_close_ones(asked, meant):
    with pytest.raises(UsageError, match=f"no built-in model is called '{asked}'") as caught:
        create(asked)
    assert f"did you mean {meant}" in caught.value.hint


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(UsageError, match="a batch of 0"):
        create("resnet8", batch_size=0)


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_listing_imports_neither_torch_nor_numpy():
    heavy = python("import sys, hwbench.models.zoo; print({'torch', 'numpy', 'sklearn'} & set(sys.modules))")
    assert heavy.strip() == "set()"


def test_without_torch_the_cure_is_named():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from hwbench.errors import EngineError\nfrom hwbench.models.zoo import create\n"
        "try: create('resnet8')\nexcept EngineError as error: print(error)"
    )
    assert "pip install 'hwbench-nn[cpu]'" in python(code)


def test_bit_stream_is_pinned():
    bits = BitStream(0)
    assert bits.uniform((3,), -1.0, 1.0).tolist() == [0.27392327785491943, -0.4604266881942749, -0.9180530309677124]
    assert bits.integers((4,), 10, 20).tolist() == [13, 11, 14, 17]


def test_the_documented_table_is_the_zoo():
    text = (Path(__file__).parents[3] / "docs" / "zoo.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(ZOO)
    for row, model in zip(rows, ZOO.values(), strict=True):
        shapes = ", ".join("x".join(map(str, spec.shape)) for spec in model.inputs)
        assert row[2].split(" (")[0] == shapes
        assert row[3:6] == [f"{model.parameters:,}", f"{model.macs:,}", "yes" if model.trained else "no"]
