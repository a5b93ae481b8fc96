"""The repairs on networks as they come: the function stays, and what is skipped is skipped for a reason."""

import numpy as np
import onnx_ir as ir
import pytest
from command import shared_data

from hwbench.graph.importer import import_model
from hwbench.graph.onnx_file import fix_axes, graph_inputs, infer_shapes
from hwbench.quantize.equalize import equalize
from hwbench.records.model import ImportJob

ort = pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")


def output(model, x):
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def unchanged(model):
    """Equalise, and require the output on random inputs to be the same but for rounding."""
    shape = [int(size) for size in graph_inputs(model)[0].shape]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before = output(model, x)
    outcome = equalize(model)
    np.testing.assert_allclose(output(model, x), before, atol=2e-5 * np.abs(before).max())
    return outcome


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("cifar10/resnet20.onnx", 18),  # the two convolutions of each of nine blocks
        ("cifar10/mlperf_tiny_resnet8.onnx", 6),
        ("kws/kws_dscnn.onnx", 9),  # one chain of pointwise and depthwise convolutions, with padding by itself between
        ("imagenet/efficientnet_lite0.onnx", 4),  # ReLU6 stands between the others
        ("imagenet/squeezenet_v1.0_deep_compressed.onnx", 2),  # the others are read by two branches
    ],
)
def test_trained_networks(path, changed):
    model = ir.load(shared_data(path))
    fix_axes(model, {}, 2)

    outcome = unchanged(infer_shapes(model))

    assert len(outcome.changed) == changed
    assert all(item.reason for item in outcome.skipped)


@pytest.mark.slow
def test_mobilenet_v2_of_the_built_in_models(tmp_path):
    """ReLU6 stands behind all but the projections, and a residual branch leaves from all but two of those."""
    pytest.importorskip("torch", reason="the built-in models are torch modules")
    job = ImportJob(model="zoo:mobilenet_v2", batch_size=1, shapes={}, input_data=None, seed=0)
    files = import_model(job, tmp_path).files

    outcome = unchanged(ir.load(tmp_path / files.runtime_graph))

    assert outcome.changed == ("blocks.0.project.0", "blocks.1.expand.0", "blocks.16.project.0", "head.0")
    assert sum("Clip" in item.reason for item in outcome.skipped) > 20
