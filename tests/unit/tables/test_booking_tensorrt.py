"""What TensorRT's inspector and profiler tell, booked on clusters: fused units, regions, reformats, both spellings."""

from __future__ import annotations

import json

import pytest
import sampled_nets

from hwbench.engines.tensorrt_inspect import built_layers, read_units
from hwbench.engines.tensorrt_profile import gathered
from hwbench.plan.designs import uniform
from hwbench.records.base import Missing
from hwbench.records.measurement import LayerRun, UnitSamples
from hwbench.records.planning import Design
from hwbench.records.quantization import Lowered, LoweredLayer
from hwbench.tables.booking import booked, built_scheme
from hwbench.tables.variant import variant

MS = 1e-3
TYPED = {"network_flags": "STRONGLY_TYPED"}
WHOLE = Design()
OLD, NEW = "Format/Datatype", "Datatype"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return sampled_nets.subject(tmp_path_factory.mktemp("subject"))


def layer(name, kind, *, key=NEW, types=("Half", "Half"), tactic="sm90_xmma_f16", metadata=""):
    """A layer as the inspector has it: in 8.x a type is inside a sentence, in 10.x and 11.x it has a key of its own."""

    def told(word):
        return {key: f"Row major linear {word} format" if key == OLD else word}

    return {
        "Name": name, "LayerType": kind, "Inputs": [told(types[0])], "Outputs": [told(types[1])], "TacticName": tactic,
        "Metadata": "".join(f"[ONNX Layer: {each}]" for each in metadata.split()),
    }  # fmt: skip


def lowered(got=None, settings=None):
    layers = tuple(LoweredLayer(layer=name, asked=scheme, got=scheme) for name, scheme in (got or {}).items())
    no = Missing(code="timed", why="kernels are timed")
    return Lowered(files=("model.engine",), arithmetic="fp16", settings=settings or TYPED, layers=layers, same_bytes=no)


def book(subject, folder, layers, times_ms, *, design=WHOLE, settings=None):
    """Book a profile of four inferences, the second half of them 10 % slower, all layers alike."""
    made = variant(subject.hub, subject.imported, subject.space, design, subject.calibration, folder / "v")
    built = built_layers(read_units(json.dumps({"Layers": layers})), made.model.layers, made.files.merged)
    names = [each["Name"] for each in layers]
    inferences = [
        [(name, slow * time * MS) for name, time in zip(names, times_ms, strict=True)] for slow in (1, 1, 1.1, 1.1)
    ]
    whole = sum(times_ms) * MS
    profile = gathered(inferences, [whole, whole, 1.1 * whole, 1.1 * whole], built)
    units = tuple(UnitSamples(unit=each.unit, times_s=each.times_s) for each in profile.units)
    run = LayerRun(units=units, end_to_end_s=profile.end_to_end_s, method="m")
    found = booked(subject.space, design, made, lowered(design.schemes, settings), run, whole)
    assert not isinstance(found, Missing), found
    return {each.cluster: each for each in found.clusters}, found


QUIET = 3.1 / 3  # of the three inferences that took least one was slower


@pytest.mark.parametrize("key", [OLD, NEW])
def test_fused_units_go_to_their_cluster_and_reformats_to_the_borders(subject, tmp_path, key):
    layers = [
        layer(
            "Reformatting CopyNode for Input Tensor 0 to stem + stem.relu", "Reformat", key=key, types=("FP32", "FP16")
        ),
        layer("stem + stem.relu", "CaskConvolution", key=key, types=("FP16", "FP16")),
        layer("block.one + block.one.relu", "CaskConvolution", key=key, types=("FP16", "FP16")),
        layer("block.two + block/Add + block.relu", "CaskConvolution", key=key, types=("FP16", "FP16")),
        layer("pool", "CaskPooling", key=key, types=("FP16", "FP16")),
        layer("up + up.relu", "MatrixMultiply", key=key, types=("FP16", "FP16")),
        layer("wide + wide.relu", "MatrixMultiply", key=key, types=("FP16", "FP16")),
        layer("head", "MatrixMultiply", key=key, types=("FP16", "FP32")),
    ]
    times, found = book(subject, tmp_path, layers, [1, 10, 20, 30, 5, 4, 3, 2])
    told = {name: each.time_s / (QUIET * MS) for name, each in times.items()}
    # the pooling follows the last convolution, and is of its cluster
    assert told == pytest.approx({"stem": 10, "block.one": 20, "block.two": 35, "up": 4, "wide": 3, "head": 2})
    assert found.border.time_s == pytest.approx(QUIET * MS)
    assert found.border.units == 1
    assert times["block.two"].units == 2
    assert {each.shared for each in times.values()} == {1}
    assert {each.scheme for each in times.values()} == {"float"}
    # of one third at 1.1 and two thirds at 1, by hand: sqrt(((0.0667)^2 + 2 (0.0333)^2) / 2)
    assert times["stem"].spread_s == pytest.approx(10 * MS * 0.0577350269)
    assert times["stem"].kernel == "sm90_xmma_f16"


REGION = [
    layer("stem_myl0_0", "correlation", metadata="stem stem.relu"),
    layer("{ForeignNode[block.one...head]}", "Myelin", tactic=""),
]


def test_a_region_is_shared_out_by_work_and_adds_up(subject, tmp_path):
    times, found = book(subject, tmp_path, REGION, [10, 90])
    assert times["stem"].time_s == pytest.approx(10 * QUIET * MS)
    inside = {name: each for name, each in times.items() if name != "stem"}
    assert sum(each.time_s for each in inside.values()) == pytest.approx(90 * QUIET * MS)
    assert {each.shared for each in inside.values()} == {5}
    assert all(each.time_s > 0 for each in inside.values())
    assert sum(each.units for each in inside.values()) == 1
    # by hand, in bytes of fp32, or multiply-adds over 50: all of these move longer than they multiply
    convolution, relu = 4 * (2 * 16 * 144 + 9 * 16 * 16), 4 * 2 * 16 * 144
    wide, wide_relu = 4 * (256 + 256 * 256 + 256), 4 * 2 * 256
    assert times["wide"].time_s / times["block.one"].time_s == pytest.approx(
        (wide + wide_relu) / (convolution + relu), rel=1e-6
    )
    assert times["wide"].kernel is None
    assert found.units == 2


def test_a_region_divides_alike_whatever_its_precision(subject, tmp_path):
    float_times, _ = book(subject, tmp_path / "a", REGION, [10, 90])
    int8_times, _ = book(subject, tmp_path / "b", REGION, [10, 60], design=uniform(subject.space, "int8"))
    ratios = {int8_times[name].time_s / each.time_s for name, each in float_times.items() if name != "stem"}
    assert min(ratios) == pytest.approx(2 / 3)
    assert max(ratios) == pytest.approx(2 / 3)
    assert {each.scheme for each in int8_times.values()} == {"int8"}


def test_what_prepares_a_product_goes_where_the_product_runs(subject, tmp_path):
    """Myelin ends one layer and begins the next in one kernel: it is that of the product."""
    layers = [
        *(layer(f"{name}_myl0_0", "correlation", metadata=name) for name in ("stem", "block.one", "block.two", "up")),
        layer("__myl_ReluMulSum_myl0_4", "kgen", metadata="up.relu wide wide.relu"),
        layer("head_myl0_5", "gemm", metadata="head"),
    ]
    times, _ = book(subject, tmp_path, layers, [1, 1, 1, 4, 7, 2])
    assert times["up"].time_s == pytest.approx(4 * QUIET * MS)
    assert times["wide"].time_s == pytest.approx(7 * QUIET * MS)


@pytest.mark.parametrize(
    ("asked", "types", "settings", "found"),
    [
        ("int8", "Half", TYPED, "int8"),  # it quantises its input inside
        ("float", "Int8", TYPED, "float"),  # it takes the scale off inside
        ("fp8", "Half", TYPED, "fp8"),
        ("int4-weights", "Half", TYPED, "int4-weights"),
        ("int8", "Half", {"network_flags": "EXPLICIT_BATCH"}, "float"),  # 8.x chose
        ("int8", "Int8", {"network_flags": "EXPLICIT_BATCH"}, "int8"),
        ("float", "BFloat16", TYPED, "float"),
        ("float", "Float", {}, "float"),
    ],
)
def test_schemes_are_those_of_the_graph_where_types_are(asked, types, settings, found):
    (unit,) = read_units(json.dumps({"Layers": [layer("fc", "gemm", types=(types, "Half"))]}))
    (built,) = built_layers((unit,), (), {})
    told = lowered({} if asked == "float" else {"fc": asked}, settings)
    assert built_scheme("fc", asked, {}, told, built) == found
