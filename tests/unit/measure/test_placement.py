import fixtures_results
import msgspec
import pytest

from hwbench.measure.placement import unmet
from hwbench.records.base import Missing
from hwbench.records.measurement import Built, BuiltLayer, LeftNode, Partitions
from hwbench.records.placement import Requirements

WHOLE = fixtures_results.full_result().model
MULTIPLYING = [layer for layer in WHOLE.layers if not isinstance(layer.macs, Missing) and layer.macs > 0]
HEAVY = MULTIPLYING[0].name
MODEL = msgspec.structs.replace(WHOLE, layers=(MULTIPLYING[0],))
NO_TABLE = Missing(code="no", why="not timed")


def unit(name, precision, members=(HEAVY,)):
    return BuiltLayer(name=name, op="Conv", members=members, kernel="jit", precision=precision)


def built(**changes):
    base = Built(
        engine="e", version="1", precision="int8", execution_units=("CPU",), threads=1, settings={},
        layers=(unit("a", "int8"),),
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def check(built, **required):
    return unmet(Requirements(**required), MODEL, built, NO_TABLE)


def test_all_as_required():
    parts = Partitions(delegate="xnnpack", nodes=2, delegated=2, parts=((HEAVY,),), left=())
    assert check(built(partitions=parts), device="cpu", precision="int8", delegate="XNNPACK") == ()


def test_nothing_required():
    assert check(built(layers=(unit("a", "fp32"),))) == ()
    assert not Requirements().any
    assert Requirements(device="x").any


def test_each_unit_of_another_precision_is_named():
    found = check(built(layers=(unit("a", "int8"), unit("b", "fp32"), unit("c", "bf16", ()))), precision="int8")
    assert [(item.unit, item.found) for item in found] == [("b", "fp32")]  # c stands for nothing that multiplies
    assert HEAVY in found[0].why


@pytest.mark.parametrize("layers", [NO_TABLE, (), (unit("a", "int8", ()),)])
def test_what_cannot_be_seen_is_not_met(layers):
    (found,) = check(built(layers=layers), precision="int8")
    assert found.found == "not shown"


def test_a_layer_that_no_unit_stands_for_is_not_met():
    model = msgspec.structs.replace(WHOLE, layers=tuple(MULTIPLYING[:2]))
    (found,) = unmet(Requirements(precision="int8"), model, built(), NO_TABLE)
    assert (found.unit, found.found) == (MULTIPLYING[1].name, "not shown")


def test_no_device_is_not_the_device_that_was_wanted():
    (found,) = check(built(execution_units=()), device="CPU")
    assert found.found == "not shown"
    assert check(built(execution_units=("CPUExecutionProvider", "CPU (XNNPACK)")), device="cpu") == ()
    assert check(built(), device="")


def test_an_untold_precision_is_not_met():
    (found,) = check(built(layers=(unit("a", NO_TABLE),)), precision="int8")
    assert "not told" in found.found


def test_another_device():
    (found,) = check(built(execution_units=("CPU", "GPU.0")), device="gpu")
    assert found.unit == "CPU"


def test_delegation():
    left = (LeftNode(name="n3", op="RESHAPE", why="rank above 4"), LeftNode(name="n4", op="SLICE", why=NO_TABLE))
    parts = Partitions(delegate="webgpu", nodes=5, delegated=3, parts=((), ()), left=left)
    assert [(item.unit, item.why) for item in check(built(partitions=parts), delegate="webgpu")] == [
        ("n3", "rank above 4"),
        ("n4", "not told: not timed"),
    ]
    assert check(built(partitions=parts), delegate="xnnpack")[0].found == "webgpu"
    assert check(built(), delegate="xnnpack")[0].found == "none"
    silent = msgspec.structs.replace(parts, left=NO_TABLE)
    assert "2 of 5" in check(built(partitions=silent), delegate="webgpu")[0].why


def test_the_layer_table_says_what_ran():
    result = fixtures_results.full_result()
    table = next(m.layers for m in result.measurements if not isinstance(m.layers, Missing))
    found = unmet(Requirements(precision="no-such"), result.model, built(), table)
    assert {item.unit for item in found} <= {row.unit.name for row in table.rows}
    assert found
