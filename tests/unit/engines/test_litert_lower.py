"""Lowering to LiteRT, from an ONNX file to a .tflite that LiteRT runs; the truth is onnxruntime's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import litert_nets
import numpy as np
import pytest

from hwbench.errors import EngineError, Unsupported
from hwbench.protocols import LowerRequest
from hwbench.records.quantization import PrecisionPlan

pytest.importorskip("litert_torch", reason="needs the extra mobile-convert")
pytest.importorskip("litert_quantizer", reason="needs the extra mobile-convert")
onnxruntime = pytest.importorskip("onnxruntime", reason="the truth")

from hwbench.engines import litert_lower  # noqa: E402
from hwbench.engines.litert_convert import convert  # noqa: E402
from hwbench.engines.litert_graph import FileGraph  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the converter warns of torch's own future
]


class Net:
    """A network that has been brought in, with ranges, inputs and the true outputs."""

    def __init__(self, made, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.imported = litert_nets.bring_in(made, folder)
        files = self.imported.files
        self.path = Path(files.folder) / files.runtime_graph
        self.feeds = dict(np.load(Path(files.folder) / files.inputs))
        self.ranges = litert_nets.calibration(self.path, self.feeds)
        session = onnxruntime.InferenceSession(self.path)
        names = [value.name for value in session.get_outputs()]
        self.truth = dict(zip(names, session.run(None, self.feeds), strict=True))
        self.times = 0

    def lower(self, plan: PrecisionPlan):
        self.times += 1
        folder = self.folder / str(self.times)
        folder.mkdir()
        request = LowerRequest(
            model=self.imported.model,
            files=self.imported.files,
            plan=plan,
            calibration=self.ranges if plan.needs_ranges else None,
            device=None,
            folder=folder,
        )
        lowered = litert_lower.lower(request)
        return lowered, Written((folder / lowered.files[0]).read_bytes())


class Written:
    """A file, run and looked into."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.graph = FileGraph(content)

    def run(self, feeds):
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(model_content=self.content).get_signature_runner()(**feeds)

    def partitions(self) -> int:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=self.content)
        interpreter.allocate_tensors()
        return sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())

    def of(self, layer: str):
        """Return the operator with a weight that does a layer's work."""
        return next(op for op in self.graph.ops if layer in self.layers(op) and self.graph.weight_of(op) is not None)

    def layers(self, op) -> list[str]:
        return self.graph.name(op.output).removesuffix("_dequant").partition("|")[2].split(";;")

    def types(self, layer: str) -> tuple[str, str, str]:
        """Return the types of a layer's input, weight and output."""
        op = self.of(layer)
        used = (self.graph._graph.operators[op.index].inputs[0], self.graph.weight_of(op), op.output)
        return tuple(self.graph._kind(tensor) for tensor in used)

    def scales(self, tensor: int):
        return self.graph._graph.tensors[tensor].quantization.scale


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Return networks by name, each converted once for a file with fences and once for one without."""
    made: dict[str, Net] = {}
    converted = {}
    convert = litert_lower.convert

    def once(path, feeds, *, keep_inputs):
        if (path, keep_inputs) not in converted:
            converted[path, keep_inputs] = convert(path, feeds, keep_inputs=keep_inputs)
        return converted[path, keep_inputs]

    patch = pytest.MonkeyPatch()
    patch.setattr(litert_lower, "convert", once)

    def get(name: str) -> Net:
        if name not in made:
            made[name] = Net(getattr(litert_nets, name)(), tmp_path_factory.mktemp("nets") / name)
        return made[name]

    yield get
    patch.undo()


@pytest.fixture(scope="module")
def int8(nets):
    made = {}

    def get(name: str):
        if name not in made:
            made[name] = nets(name).lower(PrecisionPlan(default="int8"))
        return made[name]

    return get


FLOAT = PrecisionPlan(default="float", floating="fp32")


@pytest.mark.parametrize("name", ["cnn", "encoder", "tokens"])
def test_the_float_file_computes_what_the_network_does_and_takes_what_it_takes(nets, name):
    net = nets(name)
    lowered, file = net.lower(FLOAT)
    found = file.run(net.feeds)  # by the hub's names, in the hub's types and layout, or this raises
    assert found.keys() == net.truth.keys()
    for output, truth in net.truth.items():
        assert found[output].dtype == truth.dtype
        np.testing.assert_allclose(found[output], truth, rtol=0, atol=1e-5 * np.abs(truth).max())
    assert lowered.arithmetic == "fp32"
    assert lowered.layers == ()


def test_int8_rounds_by_our_ranges_and_leaves_nothing_on_the_way(nets, int8):
    lowered, file = int8("cnn")
    net = nets("cnn")
    kinds = Counter(op.kind for op in file.graph.ops)
    assert (kinds["QUANTIZE"], kinds["DEQUANTIZE"]) == (1, 1)  # at the ends: inputs and outputs stay float
    assert kinds["PADV2"] == 0  # XNNPACK has only zero padding in int8
    assert file.partitions() == 1
    assert {layer.got for layer in lowered.layers} == {"int8"}
    assert lowered.arithmetic == "int8"
    told = net.ranges.tensors["r1"]
    (scale,) = file.scales(file.of("first").output)
    assert scale == pytest.approx((max(told.high, 0) - min(told.low, 0)) / 255, rel=1e-5)
    truth = net.truth["logits"]
    assert np.abs(file.run(net.feeds)["logits"] - truth).max() < 0.05 * np.abs(truth).max()


def test_a_depthwise_convolution_has_a_scale_for_each_channel(int8):
    _, file = int8("cnn")
    scales = file.scales(file.graph.weight_of(file.of("depthwise")))
    assert len(scales) == 8
    assert max(scales) / min(scales) > 100


def test_what_goes_into_a_concatenation_has_one_scale(int8):
    _, file = int8("cnn")
    join = next(op for op in file.graph.ops if op.kind == "CONCATENATION")
    assert len({float(file.scales(tensor)[0]) for tensor in (*join.inputs, join.output)}) == 1


def test_the_residual_addition_runs_in_int8(int8):
    _, file = int8("cnn")
    add = next(op for op in file.graph.ops if op.kind == "ADD")
    assert {file.graph._kind(tensor) for tensor in (*add.inputs, add.output)} == {"INT8"}


def test_softmax_gelu_and_norms_stay_in_floating_point(nets, int8):
    lowered, file = int8("encoder")
    net = nets("encoder")
    for op in file.graph.ops:
        if op.kind in {"SOFTMAX", "GELU", "BATCH_MATMUL", "MEAN", "RSQRT", "SQUARED_DIFFERENCE"}:
            assert all(file.graph.is_float(tensor) for tensor in (*op.inputs, op.output)), op
    assert {"SOFTMAX", "GELU"} <= {op.kind for op in file.graph.ops}
    got = {layer.layer: layer.got for layer in lowered.layers}
    assert got == dict.fromkeys(("query", "key", "value", "out", "up", "down"), "int8") | {
        "scores": "float",
        "mixed": "float",
    }
    assert all(layer.why for layer in lowered.layers if layer.got == "float")
    assert file.partitions() == 1
    found = file.run(net.feeds)
    for output, truth in net.truth.items():
        assert np.abs(found[output] - truth).max() < 0.05 * np.abs(truth).max()


def test_a_product_after_a_norm_reads_what_its_range_is_of(nets, int8):
    """The converter would fold the norm's scale into the product, which then reads a tensor that has no range."""
    told = nets("encoder").ranges.tensors["n"]
    _, file = int8("encoder")
    (scale,) = file.scales(file.graph._graph.operators[file.of("query").index].inputs[0])
    assert scale == pytest.approx((told.high - told.low) / 255, rel=1e-5)


def test_an_output_that_an_int8_layer_reads_on_is_still_float(int8):
    _, file = int8("encoder")
    assert [file.graph._kind(tensor) for tensor in file.graph.outputs] == ["FLOAT32", "FLOAT32"]


def test_a_bias_beyond_32_bits_is_kept(nets, int8):
    _, file = int8("loud_bias")
    net = nets("loud_bias")
    np.testing.assert_allclose(file.run(net.feeds)["y"], net.truth["y"], atol=0.05)


def test_each_layer_has_its_own_scheme(nets):
    plan = PrecisionPlan(
        default="int8",
        layers={"first": "float", "classifier": "float", "branch": "int8-dynamic", "pointwise": "int8-weights"},
    )
    lowered, file = nets("cnn").lower(plan)
    assert file.types("first") == ("FLOAT32", "FLOAT32", "FLOAT32")
    assert file.types("classifier") == ("FLOAT32", "FLOAT32", "FLOAT32")
    assert file.types("depthwise") == ("INT8", "INT8", "INT8")
    assert file.types("branch") == ("FLOAT32", "INT8", "FLOAT32")
    pointwise = next(op for op in file.graph.ops if "pointwise" in file.layers(op) and op.kind == "CONV_2D")
    assert {file.graph._kind(tensor) for tensor in pointwise.inputs} == {"FLOAT32"}  # dequantised weights
    assert {layer.layer: layer.got for layer in lowered.layers}["branch"] == "int8-dynamic"


def test_four_bits_go_to_products_and_eight_to_convolutions(nets):
    lowered, file = nets("encoder").lower(PrecisionPlan(default="int4-weights"))
    assert file.types("up") == ("FLOAT32", "INT4", "FLOAT32")
    assert lowered.notes
    lowered, _ = nets("cnn").lower(PrecisionPlan(default="int4-weights"))
    got = {layer.layer: layer for layer in lowered.layers}
    assert got["first"].got == "int8-weights"
    assert "4" in (got["first"].why or "")


def test_sixteen_bits_halve_the_file(nets):
    _, wide = nets("encoder").lower(FLOAT)
    lowered, file = nets("encoder").lower(PrecisionPlan(default="float", floating="fp16"))
    weights = sum(4 * file_size for file_size in (32 * 32 * 4, 32 * 64 * 2))
    assert len(wide.content) - len(file.content) > 0.4 * weights
    assert lowered.arithmetic == "fp32"
    assert lowered.notes


def test_writing_it_again_gives_the_same_bytes(nets, int8, monkeypatch):
    monkeypatch.setattr(litert_lower, "convert", convert)
    lowered, file = int8("cnn")
    assert lowered.same_bytes is True
    assert nets("cnn").lower(PrecisionPlan(default="int8"))[1].content == file.content


def test_a_named_layer_that_cannot_have_its_scheme_is_refused(nets):
    with pytest.raises(Unsupported, match=r"'scores' \(MatMul\) in int8-weights"):
        nets("encoder").lower(PrecisionPlan(default="float", layers={"scores": "int8-weights"}))


def test_a_named_layer_gets_what_the_default_leaves_alone(nets):
    lowered, file = nets("cnn").lower(PrecisionPlan(default="float", layers={"depthwise": "int8-dynamic"}))
    assert [(layer.layer, layer.got) for layer in lowered.layers] == [("depthwise", "int8-dynamic")]
    assert file.types("depthwise") == ("FLOAT32", "INT8", "FLOAT32")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (PrecisionPlan(default="float", floating="bf16"), "bf16"),
        (PrecisionPlan(default="float", floating="tf32"), "cannot build in tf32"),
        (PrecisionPlan(default="int8", layers={"depthwise": "fp8"}), "cannot build in fp8"),
        (PrecisionPlan(default="float", layers={"nobody": "int8"}), "nobody"),
    ],
)
def test_what_litert_has_not_is_refused_before_anything_is_converted(nets, plan, words):
    with pytest.raises(Unsupported, match=words):
        nets("cnn").lower(plan)


def test_a_file_that_computes_something_else_is_refused(nets, monkeypatch):
    from hwbench.engines import litert_convert

    def other(view, arguments):
        for parameter in view.parameters():
            parameter.data *= 1.01
        return true(view, arguments)

    true = litert_convert._converted
    monkeypatch.setattr(litert_lower, "convert", convert)
    monkeypatch.setattr(litert_convert, "_converted", other)
    with pytest.raises(EngineError, match="away from the network's"):
        nets("cnn").lower(FLOAT)
