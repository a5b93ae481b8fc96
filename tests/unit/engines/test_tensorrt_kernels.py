"""Sparse kernels in what TensorRT is given: the graph computes what the pruned network does; who takes plugins."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_graphs import random_array
from sparse_reference import reference_ops

pytest.importorskip("onnxruntime", reason="imports the graphs")

import tensorrt_lowering as low

from hwbench.engines import tensorrt_kernels
from hwbench.engines.tensorrt_kernels import cannot_be_had, kernels_to_load, offer_kernels, why_dense
from hwbench.errors import EngineError, Unsupported
from hwbench.sparse.apply import NO_PLUGINS
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import load_manifest

HOPPER = (9, 0)


def two_products():
    """A network whose first product is pruned for vw16."""
    weight = random_array(128, 64, seed=3) / 8
    pruned = np.where(FORMATS["vw16"].mask(np.abs(weight.T), 0.5), weight.T, 0).T.astype(np.float32)
    return low.net(
        [("MatMul", "x w1", "h"), ("Relu", "h", "r"), ("MatMul", "r w2", "y")],
        {"w1": pruned, "w2": random_array(64, 32, seed=4) / 8},
        {"x": [4, 128]},
        {"y": [4, 32]},
    ), pruned


@pytest.mark.parametrize("floating", ["fp32", "fp16", "bf16"])
def test_the_graph_with_a_kernel_computes_what_the_network_does(tmp_path, floating):
    net, pruned = two_products()
    case = low.lowered(net, tmp_path, "float", floating=floating, kernels={"h": "vw16"}, capability=HOPPER)
    assert case.typed.kernels == {"h": "vw16"}
    assert any("h: kernel vw16" in note for note in case.typed.notes)
    packed = FORMATS["vw16"].pack(pruned.T)
    made = SimpleNamespace(kernels={"h": load_manifest()["vw16"]}, packed={"h": packed})
    evaluator = ReferenceEvaluator(onnx.load(case.path), new_ops=reference_ops(made))
    assert {type.elem_type for type in (evaluator.output_types[0].tensor_type,)} == {onnx.TensorProto.FLOAT}
    (found,) = evaluator.run(None, case.feeds)
    (wanted,) = low.run(net, case.feeds).values()
    step = 2.0**-7 if floating == "bf16" else 2.0**-10
    assert np.abs(found - wanted).max() <= 8 * step * np.abs(wanted).max()


@pytest.mark.parametrize(("plan", "floating"), [("float", "fp32"), ("float", "fp16"), ("int8", "fp16")])
def test_a_convolution_of_3x3_has_a_kernel_behind_its_patches(tmp_path, plan, floating):
    weight = random_array(32, 16, 3, 3, seed=3) / 12
    flat = weight.reshape(32, -1)
    pruned = np.where(FORMATS["vw16"].mask(np.abs(flat), 0.5), flat, 0).reshape(weight.shape).astype(np.float32)
    net = low.net(
        [("Conv", "x w1", "h"), ("Relu", "h", "r"), ("Conv", "r w2", "y")],
        {"w1": pruned, "w2": random_array(8, 32, 1, 1, seed=4) / 6},
        {"x": [1, 16, 6, 5]},
        {"y": [1, 8, 4, 3]},
    )
    case = low.lowered(
        net, tmp_path, plan, floating=floating, kernels={"h": "vw16"}, layers={"h": "float"}, capability=HOPPER
    )
    assert case.typed.kernels == {"h": "vw16"}
    assert any("its patches (12 x 144) move" in note for note in case.typed.notes)
    packed = FORMATS["vw16"].pack(pruned.reshape(32, -1))
    made = SimpleNamespace(kernels={"h": load_manifest()["vw16"]}, packed={"h": packed})
    (found,) = ReferenceEvaluator(onnx.load(case.path), new_ops=reference_ops(made)).run(None, case.feeds)
    (wanted,) = low.run(net, case.feeds).values()
    assert np.abs(found - wanted).max() <= (0.05 if plan == "int8" else 8 * 2.0**-10) * np.abs(wanted).max()


def test_a_layer_with_a_kernel_beside_int8(tmp_path):
    net, _ = two_products()
    case = low.lowered(net, tmp_path, "int8", kernels={"h": "vw16"}, layers={"h": "float"}, capability=HOPPER)
    assert case.typed.kernels == {"h": "vw16"}
    assert case.got == {"y": "int8"}


def test_rtx_keeps_the_layer_dense_and_says_so(tmp_path):
    net, _ = two_products()
    case = low.lowered(net, tmp_path, "float", floating="fp16", kernels={"h": "vw16"}, no_kernels=NO_PLUGINS)
    assert case.typed.kernels == {}
    assert any("h stays dense, not vw16: TensorRT-RTX has no plugins" in note for note in case.typed.notes)
    assert {node.domain for node in case.model.graph.node} <= {"", "ai.onnx"}


def version(*names, plugin=None, monkeypatch):
    """A TensorRT that has ``names``, and a module of plugins or none."""
    monkeypatch.setattr(tensorrt_kernels, "_plugin_module", lambda api: plugin)
    network = SimpleNamespace(**({"add_plugin_v3": None} if names else {}))
    trt = SimpleNamespace(INetworkDefinition=network, **dict.fromkeys(names))
    return SimpleNamespace(is_rtx=False, trt=trt, title="TensorRT X")


def test_a_version_without_plugins_is_told_of_and_never_offered_one(monkeypatch):
    old = version(monkeypatch=monkeypatch)
    assert why_dense(old).code == "no_plugins"
    with pytest.raises(Unsupported, match="TensorRT X has no plugins"):
        offer_kernels(old, ["vw16"], (13, 0), pytest.fail)
    assert offer_kernels(old, [], (13, 0), pytest.fail) == {}


def test_ahead_of_time_the_engine_needs_nothing_when_it_is_loaded(monkeypatch):
    plugin = SimpleNamespace(aot_impl=None, KernelLaunchParams=None)
    new = version("IPluginV3OneRuntime", plugin=plugin, monkeypatch=monkeypatch)
    told = []
    monkeypatch.setattr(tensorrt_kernels, "define_plugins", lambda *given: told.append(given))
    settings = offer_kernels(new, ["vw16", "s24", "vw16"], (12, 8), pytest.fail)
    assert settings == {"kernels": "s24 vw16", "plugins": "ahead-of-time"}
    assert [kernel.name for kernel in told[0][1]] == ["s24", "vw16"]
    assert kernels_to_load(settings) == ()


def test_in_python_they_are_needed_again_when_it_is_loaded(monkeypatch):
    older = version("IPluginV3OneRuntime", monkeypatch=monkeypatch)
    told = []
    monkeypatch.setattr(tensorrt_kernels, "register_classes", lambda *given: told.append(given))
    settings = offer_kernels(older, ["bsr16"], (12, 6), lambda: "the context")
    assert settings == {"kernels": "bsr16", "plugins": "python-v3"}
    assert kernels_to_load(settings) == ("bsr16",)
    assert told[0][0] is older.trt


@pytest.mark.parametrize("ahead", [True, False])
def test_a_kernel_that_cannot_be_compiled_for_the_driver_is_known_before_the_build(monkeypatch, tmp_path, ahead):
    """Its layer stays dense and is told of; the others have theirs."""
    asked = []

    def compiled(variant, *_):
        asked.append(variant.kernel)
        if variant.kernel == "vw16":
            raise EngineError("movmatrix needs PTX 7.8", hint="a newer driver")
        return b"image"

    monkeypatch.setattr(tensorrt_kernels, "ptx_for", lambda driver: compiled)
    monkeypatch.setattr(tensorrt_kernels, "image_of", compiled)
    plugin = SimpleNamespace(aot_impl=None, KernelLaunchParams=None) if ahead else None
    trt = version("IPluginV3OneRuntime", plugin=plugin, monkeypatch=monkeypatch)
    lacks = cannot_be_had(trt, HOPPER, (11, 4))
    assert lacks(load_manifest()["s24"]) is None
    net, _ = two_products()
    case = low.lowered(net, tmp_path, "float", floating="fp16", kernels={"h": "vw16"}, lacks=lacks, capability=HOPPER)
    assert case.typed.kernels == {}
    note = next(note for note in case.typed.notes if note.startswith("h stays dense"))
    assert "vw16 cannot be had for a driver of CUDA 11.4: movmatrix needs PTX 7.8" in note
    lacks(load_manifest()["vw16"])
    assert asked == ["s24", "vw16"]
