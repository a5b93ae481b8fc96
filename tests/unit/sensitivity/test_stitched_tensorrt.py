"""TensorRT's precisions in the stitched network, held against the graph that its lowering writes."""

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="patches are put into the torch view")
pytest.importorskip("onnxruntime", reason="runs the graphs")

import tensorrt_lowering as low  # noqa: E402
from tensorrt_lowering import net  # noqa: E402

from hwbench.compress.api import compress  # noqa: E402
from hwbench.data.samples import Samples  # noqa: E402
from hwbench.errors import Unsupported, UsageError  # noqa: E402
from hwbench.fake_quant.grids import FloatGrid  # noqa: E402
from hwbench.fake_quant.runtimes import rounding  # noqa: E402
from hwbench.graph.onnx_file import infer_shapes  # noqa: E402
from hwbench.plan.designs import precision_plan, steps_of  # noqa: E402
from hwbench.plan.sites import space_of  # noqa: E402
from hwbench.records.planning import TWO_FOUR, Design, Zeros  # noqa: E402
from hwbench.sensitivity.network import Network  # noqa: E402
from hwbench.sensitivity.patches import Composer  # noqa: E402
from hwbench.sensitivity.score import judged  # noqa: E402
from hwbench.sensitivity.stitch import Stitch  # noqa: E402

FLAVOURS = {"int8-weights": "tensorrt-rtx"}
OFF = 2e-6  # of the largest output: sums in another order


def linear(op="Gemm"):
    shape, attributes = ((24, 64), [{"transB": 1}]) if op == "Gemm" else ((64, 24), [])
    given = "x w b" if op == "Gemm" else "x w"
    weights = {"w": graphs.random_array(*shape) / 8}
    return net(
        [(op, given, "y", *attributes)],
        weights | ({"b": graphs.random_array(24, seed=1)} if op == "Gemm" else {}),
        {"x": [6, 64]},
        {"y": [6, 24]},
    )


def conv(**attributes):
    groups = attributes.get("group", 1)
    weights = {"w": graphs.random_array(32, 32 // groups, 3, 3) / 16, "b": graphs.random_array(32, seed=1)}
    return net([("Conv", "x w b", "y", attributes)], weights, {"x": [2, 32, 6, 6]}, {"y": [2, 32, 4, 4]})


def transposed():
    weights = {"w": graphs.random_array(32, 24, 3, 3) / 16}
    return net([("ConvTranspose", "x w", "y")], weights, {"x": [2, 32, 4, 4]}, {"y": [2, 24, 6, 6]})


def residual():
    """Two convolutions with a residual connection, one more behind an average, and a classifier."""
    padded = {"pads": [1, 1, 1, 1]}
    return net(
        [
            ("Conv", "x w1 b1", "first", padded),
            ("Relu", "first", "r1"),
            ("Conv", "r1 w2", "second", padded),
            ("Add", "second r1", "sum"),
            ("Relu", "sum", "r2"),
            ("Conv", "r2 w4", "third", {}),
            ("GlobalAveragePool", "third", "pool"),
            ("Flatten", "pool", "flat"),
            ("Gemm", "flat w3 b3", "y"),
        ],
        {
            "w1": graphs.random_array(32, 32, 3, 3) / 16,
            "b1": graphs.random_array(32, seed=1),
            "w2": graphs.random_array(32, 32, 3, 3, seed=2) / 16,
            "w4": graphs.random_array(64, 32, 1, 1, seed=5) / 5,
            "w3": graphs.random_array(64, 24, seed=3),
            "b3": graphs.random_array(24, seed=4),
        },
        {"x": [4, 32, 6, 6]},
        {"y": [4, 24]},
    )


class Bench:
    """A graph lowered and stitched with the same ranges."""

    def __init__(self, made, tmp_path, monkeypatch):
        self.made, self.folder = made, tmp_path
        self.hub = infer_shapes(ir.from_proto(made))
        source = low.lowered(made, tmp_path, floating="fp32")
        self.feeds, self.ranges = source.feeds, source.ranges
        self.truth = source.float_outputs()["y"]
        batch = len(next(iter(self.feeds.values())))
        self.network = Network(
            self.hub, Samples(inputs=self.feeds, labels=None, batch=batch), ranges=self.ranges, runtime="tensorrt",
            refit=False,
        )  # fmt: skip
        monkeypatch.setattr(self.network, "mean", lambda layer: None)  # lowering corrects no biases: calibration does
        self.space = space_of(self.hub, "0" * 64)
        self.composer = Composer(self.network, self.space)
        self.stitch = Stitch(self.network)
        self.count = 0

    def stitched(self, design):
        patch = self.composer.compose(design)
        with torch.no_grad(), self.stitch.flow.patched(patch):
            values = self.stitch.flow.run(self.stitch.batches[0].values, 0, patch)
        return self.stitch.flow.outputs(values)[0].numpy()

    def lowered(self, design, made=None, flavour="tensorrt"):
        self.count += 1
        folder = self.folder / f"again{self.count}"
        folder.mkdir()
        plan = precision_plan(self.space, design, [node.name for node in self.hub.graph])
        return low.lowered(
            made or self.made, folder, plan.default, layers=plan.layers, floating="fp32", feeds=self.feeds,
            ranges=self.ranges, flavour=flavour,
        )  # fmt: skip

    def close(self, design, *, off=OFF, made=None, flavour="tensorrt"):
        """Hold the two against each other; return what both lose."""
        wanted = self.lowered(design, made, flavour).outputs()["y"]
        assert np.abs(self.stitched(design) - wanted).max() <= off * np.abs(wanted).max()
        return float(np.linalg.norm(wanted - self.truth) / np.linalg.norm(self.truth))


@pytest.mark.parametrize(("made", "scheme", "least", "most"), [
    (linear(), "int8", 1e-3, 2e-2),
    (linear(), "fp8", 1e-2, 6e-2),
    (linear(), "int8-weights", 1e-3, 2e-2),
    (linear("MatMul"), "int4-weights", 3e-2, 2e-1),
    (linear(), "int4-weights", 3e-2, 2e-1),
    (conv(), "int8", 1e-3, 2e-2),
    (conv(), "fp8", 1e-2, 6e-2),
    (conv(group=2), "int8", 1e-3, 2e-2),
    (transposed(), "int8", 1e-3, 2e-2),
])  # fmt: skip
def test_a_layer_is_what_the_lowering_writes(made, scheme, least, most, tmp_path, monkeypatch):
    bench = Bench(made, tmp_path, monkeypatch)
    lost = bench.close(Design(schemes={"y": scheme}), flavour=FLAVOURS.get(scheme, "tensorrt"))
    assert least < lost < most


@pytest.mark.parametrize("schemes", [
    dict.fromkeys(("first", "second", "third", "y"), "int8"),
    dict.fromkeys(("first", "second", "third", "y"), "fp8"),
    {"first": "int8", "second": "int8"},
    {"second": "fp8"},
    {"y": "int4-weights"},
    {"third": "int8", "y": "int8"},
])  # fmt: skip
def test_a_net_is_what_the_lowering_writes(schemes, tmp_path, monkeypatch):
    """With the pairs at additions and averages; a float at half a step may fall on either side."""
    bench = Bench(residual(), tmp_path, monkeypatch)
    lost = bench.close(Design(schemes=schemes), off=2e-4)
    assert lost > 2e-3


def test_the_other_input_of_an_addition_is_rounded_too(tmp_path, monkeypatch):
    bench = Bench(residual(), tmp_path, monkeypatch)
    rounded = bench.composer.compose(Design(schemes={"second": "int8"})).rounded
    assert {name: [set(one.readers) for one in some] for name, some in rounded.items()} == {"r1": [{"second", "sum"}]}


def test_two_of_four_in_int8_is_rounded_after_it_is_pruned(tmp_path, monkeypatch):
    bench = Bench(residual(), tmp_path, monkeypatch)
    zeros = dict.fromkeys(("second", "y"), Zeros(format=TWO_FOUR, sparsity=0.5))
    design = Design(schemes=dict.fromkeys(("first", "second", "third", "y"), "int8"), zeros=zeros)
    made = compress(bench.hub, steps_of(bench.space, design, data=False)).model
    bench.close(design, off=2e-4, made=ir.to_proto(made))
    weight = bench.composer.compose(design).weights["second", 1]
    assert (np.count_nonzero(weight.reshape(32, 8, 4, 9), axis=2) <= 2).all()
    assert len(np.unique(weight[0])) > 16


def test_a_tensor_may_be_read_in_two_precisions(tmp_path, monkeypatch):
    """TensorRT for RTX takes both in one network."""
    bench = Bench(
        net(
            [("Gemm", "x w b", "one", {}), ("Gemm", "x v b", "two", {}), ("Add", "one two", "y")],
            {"w": graphs.random_array(64, 32) / 8, "v": graphs.random_array(64, 32, seed=2) / 8,
             "b": graphs.random_array(32, seed=1)},
            {"x": [6, 64]}, {"y": [6, 32]},
        ),
        tmp_path, monkeypatch,
    )  # fmt: skip
    design = Design(schemes={"one": "int8", "two": "fp8"})
    assert len(bench.composer.compose(design).rounded["x"]) == 2
    assert bench.close(design, flavour="tensorrt-rtx") > 1e-2


class TestWhatTensorRtDoesNotTake:
    def test_a_scheme_that_it_has_not_is_refused(self, tmp_path, monkeypatch):
        bench = Bench(linear(), tmp_path, monkeypatch)
        with pytest.raises(UsageError, match="no int8-dynamic"):
            bench.composer.compose(Design(schemes={"y": "int8-dynamic"}))

    def test_fp8_needs_ranges(self, tmp_path, monkeypatch):
        bench = Bench(linear(), tmp_path, monkeypatch)
        monkeypatch.setattr(bench.network, "ranges", {})
        with pytest.raises(UsageError, match="fp8 needs ranges"):
            bench.composer.compose(Design(schemes={"y": "fp8"}))

    def test_what_the_lowering_leaves_in_floats_is_so_here(self, tmp_path, monkeypatch):
        bench = Bench(conv(group=2), tmp_path, monkeypatch)
        assert not bench.composer.compose(Design(schemes={"y": "int4-weights"})).weights

    def test_what_a_plan_names_and_cannot_have_is_no_network(self, tmp_path, monkeypatch):
        bench = Bench(residual(), tmp_path, monkeypatch)
        design = Design(schemes={"first": "int4-weights", "second": "int8", "third": "int8"})
        with pytest.raises(Unsupported, match="cannot build layer 'first' in int4-weights"):
            bench.composer.compose(design)
        assert judged(bench.stitch, bench.composer, design, "it", None).broken.code == "cannot_be_made"


def test_e4m3_is_the_nearest_of_all_its_numbers():
    numbers = torch.from_numpy(np.random.default_rng(0).normal(size=4096).astype(np.float32) * 100)
    grid = FloatGrid(scale=0.37, largest=448.0)
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    every = every[torch.isfinite(every)] * np.float32(0.37).item()
    off = (numbers.double()[:, None] - every).abs().min(1).values
    found = rounding("tensorrt").round(numbers, grid).double()
    assert ((found - numbers.double()).abs() <= off + 1e-4).all()
    assert found.abs().max() <= grid.ends[1] * (1 + 1e-6)
