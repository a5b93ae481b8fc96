"""Which operator of a LiteRT file gets which scheme; files here are lists of operators, and nothing is converted."""

from __future__ import annotations

import pytest

from hwbench.engines.litert_choose import Ranges, choose
from hwbench.engines.litert_convert import Converted
from hwbench.engines.litert_graph import Op
from hwbench.engines.litert_quantize import _extremes
from hwbench.errors import Unsupported
from hwbench.records.model import Layer
from hwbench.records.quantization import PrecisionPlan, TensorRange

INT8 = PrecisionPlan(default="int8")


class Graph:
    """A file's operators, all tensors of which are float and of ``rank`` axes."""

    def __init__(self, ops: list[Op], *, rank: int = 4) -> None:
        self.ops = tuple(ops)
        self.outputs = ops[-1].outputs
        self._rank = rank

    def is_float(self, tensor: int) -> bool:
        return True

    def rank(self, tensor: int) -> int:
        return self._rank

    def name(self, tensor: int) -> str:
        return f"t{tensor}"

    def weight_of(self, op: Op) -> int | None:
        return op.constants[0] if op.kind == "CONV_2D" else None

    def bias_of(self, op: Op) -> int | None:
        return None


def made(*rows: tuple[str, str, tuple[int, ...], int], rank: int = 4) -> Converted:
    """Return a file of rows (kind, layers, inputs, output), every tensor of which has a range."""
    ops, layers = [], {}
    for index, (kind, names, inputs, output) in enumerate(rows):
        constants = (100 + index,) if kind == "CONV_2D" else ()
        ops.append(Op(index=index, kind=kind, inputs=inputs, constants=constants, outputs=(output,)))
        layers[index] = tuple(names.split())
    same = {tensor: (f"t{tensor}",) for op in ops for tensor in (*op.inputs, *op.outputs)}
    return Converted(graph=Graph(ops, rank=rank), layers=layers, same=same)  # type: ignore[arg-type]


def ranges_of(converted: Converted) -> Ranges:
    known = TensorRange(low=-1, high=2, magnitude=2, seen_low=-1, seen_high=2)
    return Ranges(converted, {name: known for names in converted.same.values() for name in names})


def layer(name: str, op: str = "Conv", macs: int = 10) -> Layer:
    return Layer(name=name, op=op, module=None, inputs=(), outputs=(), parameters=1, macs=macs, moved_bytes=1)


def schemes(converted: Converted, layers: list[Layer], plan: PrecisionPlan) -> dict[str, str]:
    """Return the scheme of each operator that has one, by the first layer it does."""
    choice = choose(converted, layers, plan, ranges_of(converted), {})
    return {converted.layers[index][0]: scheme for index, scheme in choice.schemes.items()}


RESIDUAL = made(
    ("CONV_2D", "one", (0,), 1),
    ("CONV_2D", "two", (1,), 2),
    ("ADD", "add relu", (1, 2), 3),
    ("MAX_POOL_2D", "pool", (3,), 4),
    ("CONV_2D", "three", (4,), 5),
)
LAYERS = [layer("one"), layer("two"), layer("add", "Add", 0), layer("relu", "Relu", 0), layer("three")]
CONVOLUTIONS = {"one": "int8", "two": "int8", "three": "int8"}


def test_what_lies_between_int8_layers_runs_in_int8():
    assert schemes(RESIDUAL, LAYERS, INT8) == CONVOLUTIONS | {"add": "int8", "pool": "int8"}


@pytest.mark.parametrize("kept", ["add", "relu"])
def test_an_addition_that_the_plan_keeps_in_floating_point_stays_there(kept):
    plan = PrecisionPlan(default="int8", layers={kept: "float"})
    assert schemes(RESIDUAL, LAYERS, plan) == CONVOLUTIONS | {"pool": "int8"}  # values only moved, to int8


def test_what_only_moves_values_is_kept_too():
    plan = PrecisionPlan(default="int8", layers={"pool": "float"})
    assert schemes(RESIDUAL, LAYERS, plan) == CONVOLUTIONS


def test_a_file_with_nothing_in_the_scheme_it_is_called_by_is_refused():
    cubes = made(("CONV_3D", "cubes", (0,), 1), ("ADD", "cubes", (1,), 2))
    with pytest.raises(Unsupported, match=r"no layer of this model in int8: LiteRT makes CONV_3D, ADD of it"):
        choose(cubes, [layer("cubes")], INT8, ranges_of(cubes), {})


def test_without_ranges_nothing_is_in_int8_and_the_refusal_says_so():
    with pytest.raises(Unsupported, match="no range"):
        choose(RESIDUAL, LAYERS, INT8, Ranges(RESIDUAL, {}), {})


def test_a_plan_that_keeps_every_product_in_floating_point_is_refused_by_another_default():
    plan = PrecisionPlan(default="int8", layers=dict.fromkeys(("one", "two", "three"), "float"))
    with pytest.raises(Unsupported, match="the plan keeps each in floating point"):
        choose(RESIDUAL, LAYERS, plan, ranges_of(RESIDUAL), {})


def test_one_layer_in_the_scheme_is_enough_and_the_float_default_needs_none():
    cubes = made(("CONV_3D", "cubes", (0,), 1), ("CONV_2D", "plain", (1,), 2))
    choice = choose(cubes, [layer("cubes"), layer("plain")], INT8, ranges_of(cubes), {})
    assert [(one.layer, one.got) for one in choice.layers] == [("cubes", "float"), ("plain", "int8")]
    assert choose(cubes, [layer("cubes")], PrecisionPlan(default="float"), ranges_of(cubes), {}).layers == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("add", "LiteRT makes ADD of it"),
        ("norm", "it went into 'one'"),
        ("folded", "it follows from constants"),
    ],
)
def test_the_reason_is_that_of_the_layer(name, words):
    layers = [*LAYERS, layer("norm", "BatchNormalization", 0), layer("folded")]
    plan = PrecisionPlan(default="int8", layers={name: "int8"})
    with pytest.raises(Unsupported, match=words):
        choose(RESIDUAL, layers, plan, ranges_of(RESIDUAL), {"norm": "one"})


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_limits_have_as_many_axes_as_the_tensor(rank):
    """Of any other rank, litert-quantizer cannot round the constants that a concatenation reads."""
    joined = made(("CONCATENATION", "join", (0,), 1), rank=rank)
    limits = _extremes(joined.graph, joined.graph.ops, ranges_of(joined))
    assert {name: one["min"].shape for name, one in limits.items()} == dict.fromkeys(("t0", "t1"), (1,) * rank)
    assert limits["t1"]["min"].item() == -1
    assert limits["t1"]["max"].item() == 2
