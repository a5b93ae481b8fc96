import math

import pytest
from fixtures_results import make_layers, make_measurement, make_model, make_result
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.diff.align import align
from hwbench.diff.compare import compare
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer, LayerTime
from hwbench.records.model import Layer

UNTOLD = Missing(code="not_reported", why="no kernel names here")


def unit(name, *members, seconds=1.0, op="Conv"):
    return LayerTime(
        unit=BuiltLayer(name=name, op=op, members=members, kernel=UNTOLD, precision="fp32"),
        measured_s=seconds,
        scaled_s=seconds,
        share=0.1,
        macs=UNTOLD,
        moved_bytes=UNTOLD,
    )


def layer(name, op="Conv", module=None):
    return Layer(
        name=name, op=op, module=module, inputs=("x",), outputs=(name,), parameters=0, macs=1, moved_bytes=1
    )  # fmt: skip


def names(piece):
    return piece.layers, {row.unit.name for row in piece.a}, {row.unit.name for row in piece.b}


def test_one_unit_against_one():
    assert [names(piece) for piece in align([unit("a", "x")], [unit("b", "x")], ["x"])] == [(("x",), {"a"}, {"b"})]


def test_several_against_one_and_a_chain_of_overlaps_are_one_piece():
    a = [unit("a1", "x"), unit("a2", "y", "z"), unit("a3", "w")]
    b = [unit("b1", "y", "x"), unit("b2", "z"), unit("b3", "w")]
    found = {piece.layers: names(piece)[1:] for piece in align(a, b, ["x", "y", "z", "w"])}
    assert found == {("x", "y", "z"): ({"a1", "a2"}, {"b1", "b2"}), ("w",): ({"a3"}, {"b3"})}


def test_units_of_one_side_alone_and_inserted_ones():
    pieces = align([unit("a", "x"), unit("reorder")], [unit("b", "y")], ["x", "y"])
    assert [names(piece) for piece in pieces] == [(("x",), {"a"}, set()), (("y",), set(), {"b"})]


def test_a_long_chain_is_not_slow_or_deep():
    order = [f"n{i}" for i in range(5000)]
    a = [unit(f"a{i}", order[i], order[i + 1]) for i in range(0, 4999, 2)]
    b = [unit(f"b{i}", order[i], order[i + 1]) for i in range(1, 4998, 2)]
    (piece,) = align(a, b, order)
    assert piece.layers == tuple(order)


@st.composite
def partitions(draw, layers):
    """Units of one side: a random partition of some of the layers, plus inserted ones, each with a random time."""
    owner = {name: draw(st.integers(-1, len(layers))) for name in layers}
    time = st.floats(0, 1e3, allow_subnormal=False)
    found = [
        unit(f"u{key}", *(name for name in layers if owner[name] == key), seconds=draw(time))
        for key in sorted(set(owner.values()) - {-1})
    ]
    return found + [unit(f"i{index}", seconds=draw(time)) for index in range(draw(st.integers(0, 2)))]


@st.composite
def pairs(draw):
    layers = [f"n{index}" for index in range(draw(st.integers(1, 12)))]
    return layers, draw(partitions(layers)), draw(partitions(layers))


def measured(layers, rows, median_s, engine):
    import msgspec

    table = msgspec.structs.replace(make_layers(median_s, "fp32", fused=False), rows=tuple(rows))
    measurement = make_measurement(engine, median_s=median_s, n=50, layers=table)
    modules = [layer(name, module=f"block{index // 3}.{name}") for index, name in enumerate(layers)]
    return make_result(measurement, model=make_model(layers=tuple(modules))), measurement


@settings(max_examples=60, deadline=None)
@given(pairs(), st.floats(1e-6, 10), st.floats(1e-6, 10), st.sampled_from(["unit", "module", "op"]))
def test_the_column_adds_up_and_every_unit_is_in_one_row(pair, a_s, b_s, grouping):
    layers, a, b = pair
    left, right = measured(layers, a, a_s, "onnxruntime"), measured(layers, b, b_s, "openvino")
    found = compare(left, right, grouping=grouping)

    whole = right[1].latency.median_s - left[1].latency.median_s
    assert found.difference_s == whole
    scale = max(a_s, b_s, *(row.scaled_s for row in (*a, *b)), 0.0)
    for column, end in (("difference_s", whole), ("a_s", left[1].latency.median_s), ("b_s", right[1].latency.median_s)):
        parts = [getattr(row, column) for row in found.rows] + [getattr(found.residual, column)]
        assert math.fsum(parts) == pytest.approx(end, abs=1e-12 * scale)
    for side, rows in (("a", a), ("b", b)):
        placed = [row.unit.name for piece in found.rows for row in getattr(piece, side)]
        assert sorted(placed) == sorted(row.unit.name for row in rows)
    assert [abs(row.difference_s) for row in found.rows] == sorted(
        (abs(row.difference_s) for row in found.rows), reverse=True
    )


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_pieces_share_no_layer_and_cannot_be_split(pair):
    layers, a, b = pair
    pieces = align(a, b, layers)
    seen = [name for piece in pieces for name in piece.layers]
    assert len(seen) == len(set(seen))
    for piece in pieces:
        units = [set(row.unit.members) for row in (*piece.a, *piece.b)]
        reached = units[0]
        for _ in units:
            for members in units:
                reached = reached | members if reached & members else reached
        assert reached == set(piece.layers)
