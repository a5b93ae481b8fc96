import msgspec
import pytest
from fixtures_results import (
    HOSTILE,
    STOLEN,
    full_result,
    hostile_result,
    make_device,
    make_measurement,
    make_model,
    make_result,
    throughput_result,
)

from hwbench.diff.compare import compare
from hwbench.diff.gather import TOP, module_prefix
from hwbench.diff.select import Selector, parse_selector, select
from hwbench.errors import InvalidMeasurement, StorageError, UsageError
from hwbench.files import encode, parse_record
from hwbench.records.base import Missing
from hwbench.records.difference import LAYER_DIFFERENCE_SCHEMA, LayerDifference, share_of
from hwbench.records.model import Layer

A = make_measurement("onnxruntime", "fp32", median_s=4.5e-3)
B = make_measurement("openvino", "bf16", median_s=2.3e-3)


def run(measurement, **changes):
    return make_result(measurement, **changes), measurement


def kinds(found):
    return {row.kinds[0]: row for row in found.rows if row.kinds != ("both",)}


def test_a_faster_fused_engine():
    found = compare(run(A), run(B))
    assert found.difference_s == B.latency.median_s - A.latency.median_s < 0
    assert found.resolved
    assert found.low_s < found.difference_s < found.high_s
    fused = next(row for row in found.rows if row.layers == ("features.1.depthwise", "features.1.add"))
    assert (len(fused.a), len(fused.b)) == (2, 1)
    assert fused.a_s == pytest.approx(sum(unit.scaled_s for unit in fused.a))
    assert fused.ops == ("Conv", "Add")
    reorder = kinds(found)["inserted_in_b"]
    assert (reorder.a, reorder.layers) == ((), ())
    assert reorder.difference_s == reorder.b_s > 0
    assert reorder.share == pytest.approx(reorder.difference_s / found.difference_s)


def test_the_record_comes_back_from_json():
    found = compare(run(A), run(B))
    assert parse_record(encode(found), LayerDifference, schema=LAYER_DIFFERENCE_SCHEMA, what="it") == found


def test_a_record_that_does_not_add_up_is_refused():
    found = compare(run(A), run(B))
    with pytest.raises(ValueError, match="add up"):
        msgspec.structs.replace(found, rows=found.rows[1:]).__post_init__()


def test_layers_of_one_model_alone():
    model = make_model()
    layers = tuple(layer for layer in model.layers if layer.name != "pool")
    gone = tuple(row for row in B.layers.rows if row.unit.members != ("pool",))
    pruned = msgspec.structs.replace(B, layers=msgspec.structs.replace(B.layers, rows=gone))
    found = compare(run(A), run(pruned, model=make_model(layers=layers, hub_sha256="ff" * 32)))
    assert kinds(found)["only_in_a"].layers == ("pool",)
    assert any("1 are only in A, 0 only in B" in note for note in found.notes)
    back = compare(run(pruned, model=make_model(layers=layers, hub_sha256="ff" * 32)), run(A))
    assert kinds(back)["only_in_b"].layers == ("pool",)


def test_a_layer_that_no_unit_of_the_other_side_names():
    gone = tuple(row for row in B.layers.rows if row.unit.members != ("pool",))
    folded = msgspec.structs.replace(B, layers=msgspec.structs.replace(B.layers, rows=gone))
    assert kinds(compare(run(A), run(folded)))["unseen_in_b"].layers == ("pool",)
    assert kinds(compare(run(folded), run(A)))["unseen_in_a"].layers == ("pool",)


def test_another_network_is_refused():
    other = make_model("lenet", hub_sha256="00" * 32)
    renamed = tuple(msgspec.structs.replace(layer, name=f"other.{layer.name}") for layer in other.layers)
    with pytest.raises(UsageError, match="0 of 28 layers"):
        compare(run(A), run(B, model=msgspec.structs.replace(other, layers=renamed)))


def changed(change):
    """The example's network with every layer changed by ``change``, as another file."""
    model = make_model()
    return make_model(layers=tuple(map(change, model.layers)), hub_sha256="ee" * 32)


def test_another_network_under_the_same_names_is_refused_by_its_ops():
    other = changed(lambda layer: msgspec.structs.replace(layer, op="Gemm" if layer.op == "Conv" else "Conv"))
    with pytest.raises(UsageError, match="of the multiply-adds lie in layers of the same name and op"):
        compare(run(A), run(B, model=other))


def test_layers_of_another_size_under_the_same_names_are_a_loud_note():
    slim = changed(lambda layer: msgspec.structs.replace(layer, parameters=layer.parameters // 2 + 1))
    first = compare(run(A), run(B, model=slim)).notes[0]
    assert first.startswith("ARE THESE ONE NETWORK? Only 0%")


def test_small_changes_and_the_same_file_are_no_such_note():
    few = changed(lambda layer: msgspec.structs.replace(layer, op="Relu6") if layer.op == "Relu" else layer)
    for found in (compare(run(A), run(B)), compare(run(A), run(B, model=few))):
        assert not any("ONE NETWORK" in note for note in found.notes)


def test_models_without_multiply_adds_are_weighed_by_their_layers():
    other = changed(lambda layer: msgspec.structs.replace(layer, macs=0, op="Tanh"))
    plain = changed(lambda layer: msgspec.structs.replace(layer, macs=0))
    with pytest.raises(UsageError, match="0% of the multiply-adds"):
        compare(run(A, model=msgspec.structs.replace(plain, hub_sha256="dd" * 32)), run(B, model=other))


def test_the_same_measurement_twice_is_refused():
    with pytest.raises(UsageError, match="same measurement"):
        compare(run(A), run(A))


def test_no_layer_table_says_how_to_get_one():
    bare = msgspec.structs.replace(B, layers=Missing(code="not_asked", why="layers were not asked for"))
    with pytest.raises(InvalidMeasurement, match=r"B \(openvino bf16\) has no per-layer times") as caught:
        compare(run(A), run(bare))
    assert "--no-layers" in caught.value.hint
    assert caught.value.exit_code == 4


def test_units_of_unknown_layers_are_a_damaged_file():
    layers = tuple(layer for layer in make_model().layers if layer.name != "pool")
    with pytest.raises(StorageError, match="pool"):
        compare(run(A, model=make_model(layers=layers)), run(B))


def test_other_conditions_are_told():
    other = make_device("Another CPU", fingerprint="other")
    suspect = make_measurement("onnxruntime", "bf16", median_s=4e-3, findings=(STOLEN,))
    newer = msgspec.structs.replace(suspect, built=msgspec.structs.replace(suspect.built, version="2026.0"))
    notes = " / ".join(compare(run(A), run(newer, device=other)).notes)
    for part in ("Another CPU", "version 2025.4 in A, 2026.0 in B", f"B is invalid ({STOLEN.code})"):
        assert part in notes
    assert compare(run(A), run(B)).notes == ()


def test_a_profiling_run_unlike_the_timed_one_is_told():
    strained = msgspec.structs.replace(B, layers=msgspec.structs.replace(B.layers, profiling_overhead=10.0))
    (note,) = compare(run(A), run(strained)).notes
    assert note.startswith("B's layer times come from a run that took 11 times as long")


def test_overlapping_intervals_resolve_nothing():
    close = make_measurement("openvino", "bf16", median_s=4.5e-3, seed=9)
    assert not compare(run(A), run(close)).resolved


def test_no_difference_has_no_shares():
    assert share_of(1.0, 0.0).code == "no_difference"
    same = make_measurement("openvino", "bf16", median_s=4.5e-3)
    assert all(isinstance(row.share, Missing) for row in compare(run(A), run(same)).rows)


def test_by_module_and_by_op():
    units = compare(run(A), run(B))
    modules = compare(run(A), run(B), grouping="module", depth=2)
    groups = {row.group: row for row in modules.rows}
    block = groups["features.1"]
    assert set(block.layers) == {f"features.1.{part}" for part in ("expand", "depthwise", "add")}
    inside = [row for row in units.rows if row.layers and row.layers[0].startswith("features.1.")]
    assert block.difference_s == pytest.approx(sum(row.difference_s for row in inside))
    assert modules.residual == units.residual
    ops = {row.group for row in compare(run(A), run(B), grouping="op").rows}
    assert ops == {"Conv", "Conv + Add", "GlobalAveragePool", "Gemm", "inserted by the runtime"}


@pytest.mark.parametrize(
    ("name", "module", "depth", "prefix"),
    [
        ("x", "layer1.0.conv1", 1, "layer1"),
        ("x", "layer1.0.conv1", 2, "layer1.0"),
        ("x", "fc", 3, "fc"),
        ("/layer1/conv1/Conv", None, 1, "layer1"),
        ("/layer1/conv1/Conv", None, 2, "layer1/conv1"),
        ("layer1.conv", None, 4, "layer1"),
        ("Conv_3", None, 1, TOP),
    ],
)
def test_module_prefix(name, module, depth, prefix):
    layer = Layer(
        name=name, op="Conv", module=module, inputs=(), outputs=(), parameters=0, macs=0, moved_bytes=0
    )  # fmt: skip
    assert module_prefix(layer, depth) == prefix


def test_selectors():
    assert parse_selector("openvino:bf16") == Selector(engine="openvino", precision="bf16")
    assert parse_selector("openvino") == Selector(engine="openvino")
    for wrong in ("", ":bf16", "openvino:", "a:b:c"):
        with pytest.raises(UsageError, match="not a measurement"):
            parse_selector(wrong)


def test_select_by_built_then_by_asked():
    auto = make_measurement("openvino", "auto", "bf16", median_s=2e-3)
    plain = make_measurement("openvino", "fp32", median_s=4e-3)
    asked = make_measurement("openvino", "bf16", median_s=3e-3)
    result = make_result(auto, plain, A)
    assert select(result, Selector(engine="openvino", precision="bf16"), name="r") is auto
    assert select(result, Selector(engine="openvino", precision="auto"), name="r") is auto
    assert select(result, Selector(engine="onnxruntime"), name="r") is A
    both = make_result(auto, plain, asked)
    assert select(both, Selector(engine="openvino", precision="bf16"), name="r") is asked


def test_select_lists_what_there_is():
    result = full_result()
    with pytest.raises(UsageError, match="'tensorrt' fits no measurement") as caught:
        select(result, Selector(engine="tensorrt"), name="r")
    assert "openvino:bf16" in caught.value.hint
    with pytest.raises(UsageError, match="several"):
        select(result, Selector(), name="r")
    with pytest.raises(InvalidMeasurement, match="no latency"):
        select(throughput_result(), Selector(), name="r")


def test_hostile_names_come_through_whole():
    result = hostile_result()
    pair = [m for m in result.measurements if not isinstance(m.layers, Missing)][:2]
    found = compare((result, pair[0]), (result, pair[1]))
    assert HOSTILE in encode(found).decode() or HOSTILE[:9] in encode(found).decode()
