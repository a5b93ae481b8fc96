"""Built-in and real networks, cut by a quarter: they run, they export, and equal the original with zeros."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import imported, run_ort
from structure_graphs import assert_close, cut_like_masked, inputs_of

from hwbench.models.zoo import ZOO
from hwbench.structure.groups import channel_groups

torch = pytest.importorskip("torch", reason="the view is torch's")

DATA = Path(os.environ.get("HWBENCH_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
FILES = {
    "CIFAR ResNet-20": "cifar10/resnet20.onnx",
    "CIFAR ResNet-56": "cifar10/resnet56.onnx",
    "ResNet-8": "cifar10/mlperf_tiny_resnet8.onnx",
    "DS-CNN": "kws/kws_dscnn.onnx",
    "EfficientNet-Lite0": "imagenet/efficientnet_lite0.onnx",
    "SqueezeNet": "imagenet/squeezenet_v1.0_deep_compressed.onnx",
}
LOADED = {
    "MiniLM": ("bert_encoder", "text/paraphrase-MiniLM-L3-v2.fp16.safetensors", "ids, torch.ones_like(ids)"),
    "stories260K": ("tiny_llama", "lm/stories260K.bin", "ids,"),
}


def must_hold(model: ir.Model, *, groups: int) -> None:
    """Cut by 25 %: equal to the masked original (in cut_like_masked), runs, and the view of it exports."""
    from hwbench.torch_view.build import to_torch

    found, _ = cut_like_masked(model)
    assert len(found) == groups
    inputs, view = inputs_of(model, 1), to_torch(model)
    given = tuple(torch.from_numpy(inputs[value.name]) for value in model.graph.inputs if not value.is_initializer())
    exported = torch.export.export(view, given).module()
    with torch.no_grad():
        assert_close([output.numpy() for output in exported(*given)], run_ort(model, inputs))


GROUPS = {
    "digits_cnn": 3, "resnet8": 6, "resnet20": 12, "ds_cnn": 5, "autoencoder": 9, "mobilenet_v2": 25, "resnet50": 37,
    "vit_tiny": 24, "bert_small": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_built_in_models(name, tmp_path):
    must_hold(imported(name, tmp_path, batch=1), groups=GROUPS[name])


@pytest.mark.parametrize(
    ("name", "groups"),
    [("CIFAR ResNet-20", 12), ("CIFAR ResNet-56", 30), ("ResNet-8", 6), ("DS-CNN", 5), ("EfficientNet-Lite0", 24),
     ("SqueezeNet", 25)],
)  # fmt: skip
def test_real_networks(name, groups, tmp_path):
    path = DATA / FILES[name]
    if not path.exists():
        pytest.skip(f"needs {FILES[name]} of the shared data")
    must_hold(imported(str(path), tmp_path, batch=1), groups=groups)


@pytest.mark.parametrize(("name", "groups"), [("MiniLM", 6), ("stories260K", 10)])
def test_real_transformers(name, groups, tmp_path):
    loader, file, given = LOADED[name]
    if not (DATA / file).exists():
        pytest.skip(f"needs {file} of the shared data")
    if name == "MiniLM":
        pytest.importorskip("safetensors", reason="reads the weights")
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DATA)!r})\nimport loaders\n\n\n"
        f"def net():\n    import torch\n\n    ids = torch.full((1, 24), 7)\n"
        f"    return loaders.{loader}({str(DATA / file)!r}), ({given})\n"
    )
    must_hold(imported(f"{tmp_path / 'net.py'}:net", tmp_path, batch=1), groups=groups)


def test_what_cannot_be_cut_is_told_with_its_reason_before_anything_is(tmp_path):
    model = imported("vit_tiny", tmp_path, batch=1)
    before = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    locked = channel_groups(model).locked
    assert locked["patches"].code == "statistics"
    assert "norm1" in locked["patches"].why
    assert locked["head"].code == "output"
    assert len(locked) == 26  # patches, head, and in twelve blocks what writes to the stream
    for name, array in before.items():
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), array)
