import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from litert_files import random_values, request_of
from test_litert import write_split

from hwbench.engines import litert_profile
from hwbench.engines.litert import LiteRt, LiteRtBuiltin
from hwbench.engines.litert_align import align, kind_of
from hwbench.engines.litert_capi import Event
from hwbench.engines.litert_file import read_tflite
from hwbench.engines.litert_members import Members, members_of
from hwbench.engines.litert_partitions import Split
from hwbench.errors import EngineError
from hwbench.protocols import LayerProfile
from hwbench.records.model import Layer
from hwbench.testing.tflite import Node, Tensor, small_net, write_float, write_tflite


class TestAlign:
    """Sequences as LiteRT 2.3 gives them for the networks named."""

    def test_one_operator_a_node(self):
        tags = ["Convolution (NHWC, F32) IGEMM", "Max Pooling (NHWC, F32)", "Softmax (NC, F32)"]
        assert align(tags, ["CONV_2D", "MAX_POOL_2D", "SOFTMAX"]) == [0, 1, 2]

    def test_a_residual_block_clamps_after_the_addition(self):
        conv = "Convolution (NHWC, QC8) IGEMM"
        assert align([conv, conv, "Add (ND)", "Clamp (NC)", conv], ["CONV_2D", "CONV_2D", "ADD", "CONV_2D"]) == [
            0, 1, 2, 2, 3,
        ]  # fmt: skip

    def test_a_convolution_of_one_pixel_is_a_product(self):
        tags = ["Convolution (NHWC, QC8) DWConv", "Fully Connected (NC, QS8, QC8W) GEMM"]
        assert align(tags, ["DEPTHWISE_CONV_2D", "CONV_2D"]) == [0, 1]

    def test_a_padding_goes_into_the_convolution_behind_it(self):
        conv = "Convolution (NHWC, F32) IGEMM"
        assert align([conv, conv], ["PAD", "CONV_2D", "PAD", "CONV_2D"]) == [1, 3]

    def test_quantising_on_the_way_belongs_to_the_product(self):
        tags = ["Convert (NC, F32, QD8)", "Convolution (NHWC, QD8, F32, QC8W)", "Add (ND)"]
        assert align(tags, ["CONV_2D", "ADD"]) == [0, 0, 1]

    def test_a_conversion_that_the_file_asks_for_is_its_own(self):
        tags = ["Convert (NC, F32, QS8)", "Convolution (NHWC, QC8) IGEMM", "Convert (NC, QS8, F32)"]
        assert align(tags, ["QUANTIZE", "CONV_2D", "DEQUANTIZE"]) == [0, 1, 2]

    def test_weights_that_are_dequantised_once_have_no_operator(self):
        ops = ["DEQUANTIZE", "DEQUANTIZE", "CONV_2D", "DEQUANTIZE", "FULLY_CONNECTED"]
        assert align(["Convolution (NHWC, F32) IGEMM", "Fully Connected (NC, F32) GEMM"], ops) == [2, 4]

    def test_an_activation_of_its_own(self):
        assert align(["Add (ND)", "Clamp (NC)"], ["ADD", "RELU"]) == [0, 1]

    def test_what_fits_nothing_belongs_to_nothing(self):
        assert align(["Softmax (NC, F32)", "Add (ND)"], ["ADD"]) == [None, 0]

    def test_an_operator_that_is_not_known_takes_the_place_it_has(self):
        assert align(["Add (ND)", "Novelty (NC)", "Softmax (NC)"], ["ADD", "NOVELTY", "SOFTMAX"]) == [0, 1, 2]

    def test_nothing(self):
        assert align([], ["ADD"]) == []
        assert align(["Add (ND)"], []) == [None]

    def test_kinds(self):
        assert kind_of("Batch Matrix Multiply (NC, F32) GEMM") == "batch matrix multiply"
        assert kind_of("Static Reshape (NC)") == "static reshape"


def event(tag, index, elapsed_us, *, delegated=True):
    return Event(tag=tag, delegated=delegated, index=index, elapsed_us=elapsed_us)


class TestUnits:
    @pytest.fixture
    def file(self, tmp_path):
        return read_tflite(write_split(tmp_path))

    @pytest.fixture
    def own(self):
        return Members(layers=(("first",), ("mod",), ("last",)), home=(0, 1, 2))

    def test_partitions_and_own_kernels_in_turn(self, file, own):
        run = [event("Add (ND)", 0, 3), event("FLOOR_MOD", 1, 5, delegated=False), event("Add (ND)", 0, 7)]
        units = litert_profile.units_of(file, Split(parts=((0,), (2,)), left=(1,)), own, [run, run])
        assert [(unit.unit.members, unit.times_s) for unit in units] == [
            (("first",), (3e-6, 3e-6)),
            (("mod",), (5e-6, 5e-6)),
            (("last",), (7e-6, 7e-6)),
        ]

    def test_operators_of_one_node_are_one_unit(self, file, own):
        run = [event("Add (ND)", 0, 3), event("Clamp (NC)", 1, 1), event("FLOOR_MOD", 1, 5, delegated=False)]
        (first, _) = litert_profile.units_of(file, Split(parts=((0,),), left=(1, 2)), own, [run])
        assert first.unit.kernel == "Add (ND) + Clamp (NC)"
        assert first.times_s == (4e-6,)

    def test_a_node_without_an_operator_joins_its_user(self, file, own):
        run = [event("FLOOR_MOD", 1, 5, delegated=False), event("Add (ND)", 0, 7)]
        (mod, _) = litert_profile.units_of(file, Split(parts=((2,),), left=(0, 1)), own, [run])
        assert mod.unit.members == ("first", "mod")

    def test_nodes_of_one_layer_are_one_unit(self, file):
        norm = Members(layers=(("norm",), (), ("last",)), home=(0, 0, 2))
        run = [event("A", 0, 3, delegated=False), event("B", 1, 5, delegated=False), event("C", 2, 7, delegated=False)]
        units = litert_profile.units_of(file, Split(parts=(), left=(0, 1, 2)), norm, [run])
        assert [(unit.unit.members, unit.times_s) for unit in units] == [(("norm",), (8e-6,)), (("last",), (7e-6,))]

    def test_an_operator_of_no_node_stands_alone(self, file, own):
        run = [event("Softmax (NC)", 0, 2), event("Add (ND)", 1, 3), event("FLOOR_MOD", 1, 5, delegated=False)]
        (extra, first, _) = litert_profile.units_of(file, Split(parts=((0,),), left=(1, 2)), own, [run])
        assert (extra.unit.members, extra.unit.precision.code) == ((), "inserted")
        assert first.unit.members == ("first",)

    def test_runs_that_differ_are_an_error(self, file, own):
        runs = [[event("Add (ND)", 0, 3)], [event("Mul (ND)", 0, 3)]]
        with pytest.raises(EngineError, match="other operators in one inference than in another"):
            litert_profile.units_of(file, Split(parts=((0,),), left=(1, 2)), own, runs)


class TestMembers:
    def test_of_a_network_go_by_the_names_of_tensors(self, tmp_path):
        path = tmp_path / "built.tflite"
        names = ("x", "L000|conv;;relu", "L001|norm", "L002|norm", "L003|fc")
        nodes = [
            Node(op="ADD", inputs=(names[place],) * 2, outputs=(names[place + 1],)) for place in range(len(names) - 1)
        ]
        write_tflite(path, [Tensor(name=name, shape=(1, 8)) for name in names], nodes, ("x",), (names[-1],))
        request = request_of(path, tmp_path)
        hub = ("conv", "relu", "norm", "fc")
        layers = tuple(
            Layer(
                name=name, op="Op", module=None, inputs=(before,), outputs=(name,), parameters=0, macs=1, moved_bytes=1
            )
            for before, name in zip(("x", *hub), hub, strict=False)
        )
        model = request.model.__class__(
            **{field: getattr(request.model, field) for field in request.model.__struct_fields__} | {"layers": layers}
        )
        members = members_of(read_tflite(path), model, request.files)
        assert members.layers == (("conv", "relu"), ("norm",), (), ("fc",))
        assert members.home == (0, 1, 1, 3)


@pytest.mark.parametrize("engine", [LiteRt(), LiteRtBuiltin()])
def test_the_profiler_sees_every_node(tmp_path, engine):
    request = request_of(write_split(tmp_path), tmp_path, profile_layers=True)
    runner = engine.load(request).compile()
    profile = runner.profile_layers(random_values(request.model.inputs), 8)
    assert isinstance(profile, LayerProfile)
    assert [times.unit.members for times in profile.units] == [("first",), ("mod",), ("last",)]
    assert len(profile.end_to_end_s) == 8


def test_times_follow_the_work(tmp_path):
    """One product of 400 times the work of the other takes most of the time."""
    chance = np.random.default_rng(0)
    small = chance.standard_normal((4, 512), dtype=np.float32)
    large = chance.standard_normal((1600, 512), dtype=np.float32)
    tensors = [
        Tensor(name="x", shape=(32, 512)),
        Tensor(name="w", shape=small.shape, values=small),
        Tensor(name="v", shape=large.shape, values=large),
        Tensor(name="small", shape=(32, 4)),
        Tensor(name="large", shape=(32, 1600)),
    ]
    nodes = [Node(op="FULLY_CONNECTED", inputs=("x", w), outputs=(y,)) for w, y in (("w", "small"), ("v", "large"))]
    path = write_tflite(tmp_path / "net.tflite", tensors, nodes, ("x",), ("small", "large"))
    request = request_of(path, tmp_path)
    profile = LiteRt().load(request).compile().profile_layers(random_values(request.model.inputs), 30)
    least = {times.unit.members: min(times.times_s) for times in profile.units}
    assert least["large",] > 10 * least["small",]
    assert sum(least.values()) < 1.2 * min(profile.end_to_end_s)


def test_another_release_is_not_called(tmp_path, monkeypatch):
    request = request_of(write_float(tmp_path / "net.tflite", small_net()), tmp_path)
    runner = LiteRt().load(request).compile()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.4.0")
    told = runner.profile_layers(random_values(request.model.inputs), 8)
    assert told.code == "unknown_version"
    assert "2.3" in told.cure


def test_an_open_axis_is_profiled_at_the_size_it_has(tmp_path):
    request = request_of(write_float(tmp_path / "net.tflite", small_net(), batch=-1), tmp_path, batch_size=4)
    profile = LiteRt().load(request).compile().profile_layers(random_values(request.model.inputs), 8)
    assert len(profile.units) == 3
