"""OpenVINO files as they are."""

import msgspec
import numpy as np
import pytest

pytest.importorskip("openvino", reason="reads OpenVINO's files")
pytest.importorskip("onnxruntime", reason="the float truth is onnxruntime's")

from onnx_graphs import convnet, mlp, save
from openvino_lowering import case, cpu, relative_error

from hwbench.engines.openvino import OpenVino
from hwbench.errors import ModelError, UsageError
from hwbench.protocols import BuildRequest, Builds, ReadsArtefacts
from hwbench.records.model import Artefact
from hwbench.records.quantization import PrecisionPlan
from hwbench.testing import example_cpu


def described(path, shapes=None, batch_size=None):
    return OpenVino().describe(path, shapes or {}, batch_size)


@pytest.fixture
def built(tmp_path):
    one = case(convnet(bias=True), tmp_path)
    return one, one.lower(PrecisionPlan(default="int8", floating="fp32"))


@pytest.fixture
def open_axes(tmp_path):
    """An IR of two Gemms with an open batch axis."""
    import openvino as ov

    ov.save_model(ov.Core().read_model(save(mlp("batch"), tmp_path)), tmp_path / "net.xml", compress_to_fp16=False)
    return tmp_path / "net.xml"


def test_the_engine_offers_both():
    engine = OpenVino()
    assert isinstance(engine, Builds)
    assert isinstance(engine, ReadsArtefacts)


def test_a_file_tells_its_ends_its_costs_and_its_arithmetic(built, tmp_path):
    one, _ = built
    facts = described(tmp_path / "ir" / "model.xml")
    network = one.result.model
    assert (facts.inputs, facts.outputs) == (network.inputs, network.outputs)
    assert facts.arithmetic == "int8"
    assert facts.files == ("model.xml", "model.bin")
    assert sum(layer.macs for layer in facts.layers) == network.macs
    assert facts.parameters == 6 * 4 * 9 + 6
    convolution = next(layer for layer in facts.layers if layer.op == "Convolution")
    # 4 x 5 x 5 in and 6 x 5 x 5 out in float, 216 weights of one byte and a scale of 4 for each of 6 channels
    assert convolution.moved_bytes == 4 * (100 + 150) + 216 + 6 * 4
    assert convolution.name == "conv/WithoutBiases"


def test_weights_unpacked_are_no_layers(built, tmp_path):
    facts = described(tmp_path / "ir" / "model.xml")
    assert [layer.op for layer in facts.layers] == ["FakeQuantize", "Convolution", "Add", "Relu"]


def test_a_float_file_is_float(open_axes):
    facts = described(open_axes, batch_size=3)
    assert (facts.arithmetic, facts.inputs[0].shape) == ("fp32", (3, 4))
    assert facts.parameters == 8 * 4 + 8 + 8 * 3
    assert sum(layer.macs for layer in facts.layers) == 3 * (4 * 8 + 8 * 3)


def test_open_axes_are_fixed_when_it_is_run(open_axes, tmp_path):
    facts = described(open_axes, {"x": (5, 4)})
    one = case(mlp(), tmp_path / "hub", {"x": np.ones((1, 4), np.float32)})
    model = msgspec.structs.replace(
        one.result.model,
        kind="engine",
        inputs=facts.inputs,
        outputs=facts.outputs,
        layers=facts.layers,
        artefact=Artefact(engine="openvino", sha256="0", files=facts.files, label="xml"),
    )
    files = msgspec.structs.replace(one.result.files, folder=str(tmp_path), runtime_graph="net.xml", merged={})
    request = BuildRequest(
        model=model,
        files=files,
        device=example_cpu(),
        precision="auto",
        threads=1,
        streams=1,
        profile_layers=False,
        workdir=tmp_path,
    )
    runner = OpenVino().load(request).compile()
    bound = runner.bind({"x": np.ones((5, 4), np.float32)})
    bound.run()
    out = bound.outputs()["y"]
    assert out.shape == (5, 3)
    assert relative_error(out[0], one.truth[0]["y"][0]) < 0.02  # auto may be bf16
    members = {name for unit in runner.built().layers for name in unit.members}
    assert {layer.name for layer in facts.layers if layer.op == "MatMul"} <= members


def test_an_open_batch_is_one(open_axes):
    assert described(open_axes).inputs[0].shape == (1, 4)


@pytest.mark.parametrize(
    ("shapes", "batch_size", "why"),
    [
        ({"z": (1, 4)}, None, "names 'z', which is no input"),
        ({"x": (1, 4, 1)}, None, "gives 'x' 3 axes, the model has 2"),
        ({"x": (1, 5)}, None, "gives axis 1 of 'x' the size 5, the file has 4"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(open_axes, shapes, batch_size, why):
    with pytest.raises(UsageError, match=why):
        described(open_axes, shapes, batch_size)


def test_a_fixed_batch_is_not_changed(built, tmp_path):
    with pytest.raises(UsageError, match="--batch-size gives axis 0 of 'x' the size 2, the file has 1"):
        described(tmp_path / "ir" / "model.xml", batch_size=2)


def test_an_open_axis_that_nothing_fixes_is_named(tmp_path):
    import openvino as ov
    from openvino import opset13 as ops

    x = ops.parameter([1, -1], np.float32, name="x")
    ov.save_model(ov.Model([ops.relu(x)], [x], "net"), tmp_path / "net.xml")
    with pytest.raises(ModelError, match="axis 1 of input 'x' is open"):
        described(tmp_path / "net.xml")
    assert described(tmp_path / "net.xml", {"x": (1, 7)}).inputs[0].shape == (1, 7)


def test_missing_weights_are_named(built, tmp_path):
    (tmp_path / "ir" / "model.bin").unlink()
    with pytest.raises(ModelError, match=r"needs its weights, and 'model\.bin' is not beside it"):
        described(tmp_path / "ir" / "model.xml")


@pytest.mark.parametrize("content", ["<html></html>", "", "PK\x03\x04"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "net.xml").write_text(content)
    with pytest.raises(ModelError, match=r"'net\.xml' is no OpenVINO model"):
        described(tmp_path / "net.xml")


def test_a_file_that_is_cut_off_is_refused(built, tmp_path):
    path = tmp_path / "ir" / "model.xml"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ModelError, match=r"'model\.xml' is a broken OpenVINO model"):
        described(path)


def test_weights_that_are_cut_off_are_refused(built, tmp_path):
    path = tmp_path / "ir" / "model.bin"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ModelError, match="broken OpenVINO model"):
        described(tmp_path / "ir" / "model.xml")


def test_no_file_at_all_is_said(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        described(tmp_path / "net.xml")


def test_what_is_built_for_another_engine_is_not_supported(built):
    one, lowered = built
    artefact = Artefact(engine="onnxruntime", sha256="0", files=lowered.files, label="int8")
    model = msgspec.structs.replace(one.result.model, artefact=artefact)
    reasons = OpenVino().supports(model, one.result.files, cpu()).reasons
    assert [reason.code for reason in reasons] == ["other_engine"]
    own = msgspec.structs.replace(model, artefact=msgspec.structs.replace(artefact, engine="openvino"))
    assert OpenVino().supports(own, one.result.files, cpu()).reasons == ()
