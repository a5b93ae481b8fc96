"""Where schemes meet in a design, counted by hand."""

from __future__ import annotations

import made_costs

from hwbench.plan.designs import uniform
from hwbench.records.planning import Design
from hwbench.tables.borders import crossings

SPACE = made_costs.space(blocks=2, positions=100)


def found(design):
    return {(each.maker, each.readers, each.kind): each.elements for each in crossings(SPACE, design)}


def test_float_has_none():
    assert found(Design()) == {}


def test_all_int8_has_the_two_ends():
    assert found(uniform(SPACE, "int8")) == {
        (None, ("stem",), "float>int8"): 300,
        ("last", (None,), "int8>float"): 3200,
    }


def test_a_tensor_counts_once_for_a_scheme_however_many_read_it():
    design = Design(schemes={"0.a": "int8", "0.b": "int8"})
    assert found(design) == {
        ("stem", ("0.a", "0.b"), "float>int8"): 6400,
        ("0.b", ("1.a", "1.b"), "int8>float"): 6400,
    }


def test_a_narrow_tensor_crosses_with_what_is_left():
    design = Design(schemes={"0.b": "int8"}, widths={"0.a": 16})
    assert found(design)["0.a", ("0.b",), "float>int8"] == 1600


def test_readers_of_a_dropped_block_read_what_it_read():
    design = Design(schemes={"1.a": "int8", "1.b": "int8"}, dropped=("0",))
    assert found(design) == {
        ("stem", ("1.a", "1.b"), "float>int8"): 6400,
        ("1.b", ("last",), "int8>float"): 6400,
    }
