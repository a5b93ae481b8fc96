"""Trained networks of others, as they publish them, on labelled data: read, split, timed, and right."""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from litert_files import random_values, request_of

from hwbench.engines.litert import LiteRt

DATA = Path(os.environ.get("HWBENCH_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real networks and data are not here")

# file, multiply-adds, arithmetic, nodes, nodes in each partition of XNNPACK
FILES = [
    ("cifar10/mlperf_tiny_pretrainedResnet.tflite", 12_501_632, "fp32", 16, [16]),
    ("cifar10/mlperf_tiny_pretrainedResnet_quant.tflite", 12_501_632, "int8", 16, [12, 2]),
    ("kws/kws_ref_model.tflite", 2_656_768, "int8", 13, [9, 2]),
    ("kws/kws_ref_model_dynamic_range.tflite", 2_656_768, "int8-dynamic", 13, [13]),
    ("vww/vww_96_float.tflite", 7_489_664, "fp32", 31, [31]),
    ("vww/vww_96_int8.tflite", 7_489_664, "int8", 31, [27, 2]),
    ("imagenet/mobilenet_v1_0.25_128_quant.tflite", 13_570_304, "int8", 31, [27, 2]),
    ("imagenet/mobilenet_v2_1.0_224_quant.tflite", 300_775_552, "int8", 66, [62, 2]),
]


@pytest.mark.parametrize(("name", "macs", "arithmetic", "nodes", "parts"), FILES, ids=[file[0] for file in FILES])
def test_is_read_split_and_timed(name, macs, arithmetic, nodes, parts, tmp_path):
    request = request_of(DATA / name, tmp_path)
    assert (request.model.macs, request.model.arithmetic) == (macs, arithmetic)
    runner = LiteRt().load(request).compile()
    partitions = runner.built().partitions
    assert (partitions.nodes, [len(part) for part in partitions.parts]) == (nodes, parts)
    assert all(node.op in {"AVERAGE_POOL_2D", "SOFTMAX"} for node in partitions.left)
    profile = runner.profile_layers(random_values(request.model.inputs), 5)
    timed = [name for times in profile.units for name in times.unit.members]
    assert sorted(timed) == sorted(layer.name for layer in request.model.layers)


def share_right(name, inputs, labels, tmp_path):
    request = request_of(DATA / name, tmp_path)
    runner = LiteRt().load(request).compile()
    (given,), (result,) = request.model.inputs, request.model.outputs
    right = 0
    for values, label in zip(inputs, labels, strict=True):
        bound = runner.bind({given.name: values[None]})
        bound.run()
        right += int(bound.outputs()[result.name].argmax() == label)
        del bound
    return right / len(labels)


@pytest.mark.parametrize(("suffix", "expected"), [("", 0.8694), ("_quant", 0.8674)])
def test_resnet_8_on_cifar_10(suffix, expected, tmp_path):
    """The published figures of these 5000 images, which another program found with LiteRT."""
    with np.load(DATA / "cifar10" / "test_A.npz") as data:
        images, labels = data["x"], data["y"]
    inputs = images.astype(np.float32) if not suffix else (images.astype(np.int16) - 128).astype(np.int8)
    name = f"cifar10/mlperf_tiny_pretrainedResnet{suffix}.tflite"
    assert share_right(name, inputs, labels, tmp_path) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("suffix", "expected"), [("", 0.898), ("_dynamic_range", 0.898)])
def test_ds_cnn_on_speech_commands(suffix, expected, tmp_path):
    with np.load(DATA / "kws" / "kws01_A.npz") as data:
        features, labels, scale, zero = data["x"], data["y"], float(data["scale"]), float(data["zero_point"])
    inputs = features if not suffix else ((features.astype(np.float32) - zero) * scale).astype(np.float32)
    found = share_right(f"kws/kws_ref_model{suffix}.tflite", inputs.reshape(-1, 49, 10, 1), labels, tmp_path)
    assert found == pytest.approx(expected, abs=5e-4)
