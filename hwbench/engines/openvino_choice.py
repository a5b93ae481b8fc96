"""What each layer gets from OpenVINO under a precision plan, and why where that is not what the plan asks.

A layer that the plan names gets what is asked or the build is refused; one that only the plan's default reaches gets
the nearest that OpenVINO's CPU plugin runs, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwbench.engines.openvino_graph import CONVOLUTIONS, DYNAMIC_GROUP, Work
from hwbench.engines.openvino_place import moves
from hwbench.errors import Unsupported
from hwbench.records.quantization import LoweredLayer, PrecisionPlan, Scheme

_UNTOLD = "OpenVINO reads it as several operators, none of which holds its weights"
_NO_WEIGHTS = "it has no weights: both factors are computed"
_TABLE = "a table is looked up and not multiplied: its rows are stored in int8"
_FIRST = "its weights are the first factor, which OpenVINO runs in float"
_GROUPS = "OpenVINO runs a transposed convolution in groups in fp32, however it is written"
_SOFTMAX = "one factor comes from a Softmax, which stays in float"
_CONV_INT4 = "OpenVINO packs int4 for matrix products alone; a convolution's weights are stored in int8"
_NARROW = f"fewer than {DYNAMIC_GROUP} products are added up, too few to quantise the other factor on the fly"
_NO_MATRIX = "OpenVINO quantises activations on the fly for products with a matrix of weights alone"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a layer gets, and why not what was asked."""

    got: Scheme
    why: str | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A layer, what was asked for it and what it gets."""

    work: Work
    asked: Scheme
    verdict: Verdict

    @property
    def got(self) -> Scheme:
        return self.verdict.got

    def record(self) -> LoweredLayer:
        return LoweredLayer(layer=self.work.layer.name, asked=self.asked, got=self.got, why=self.verdict.why)


def choose(work: Work, plan: PrecisionPlan) -> Choice:
    """Return what a layer gets.

    Raises:
        Unsupported: the plan names the layer and OpenVINO does not run it so.
    """
    asked = plan.of(work.layer.name)
    verdict = _verdict(work, asked, named=work.layer.name in plan.layers)
    if work.layer.name in plan.layers and verdict.got != asked:
        raise refused(work.layer.name, asked, verdict.why or "")
    return Choice(work=work, asked=asked, verdict=verdict)


def refused(layer: str, asked: str, why: str) -> Unsupported:
    """Return the error for a layer that cannot have what the plan gives it by name."""
    return Unsupported(f"openvino cannot run layer '{layer}' in {asked}: {why}", hint="leave it to the plan's default")


def _verdict(work: Work, asked: Scheme, *, named: bool) -> Verdict:
    if asked == "float":
        return Verdict(got="float")
    if work.node is None:
        return Verdict(got="float", why=_UNTOLD)
    if asked == "int8":
        return _static(work, named=named)
    return Verdict(got="float", why=_NO_WEIGHTS) if work.weight is None else _compressed(work, asked)


def _compressed(work: Work, asked: Scheme) -> Verdict:
    if asked == "int8-dynamic" and not work.is_wide_matrix:
        return _not_dynamic(work)
    if asked == "int4-weights" and not work.is_matrix:
        return Verdict(got="int8-weights", why=_TABLE if _is(work, "Gather") else _CONV_INT4)
    return Verdict(got=asked)


def _static(work: Work, *, named: bool) -> Verdict:
    if _is(work, "Gather"):
        return Verdict(got="int8-weights", why=_TABLE)
    if work.weight == 0:
        return Verdict(got="float", why=_FIRST)
    if work.weight is None and work.node.get_type_name() in CONVOLUTIONS:
        return Verdict(got="float", why="its weights are computed")
    if _is(work, "GroupConvolutionBackpropData"):
        return Verdict(got="float", why=_GROUPS)
    if work.weight is None and not named and any(_from_softmax(work.node.input_value(index)) for index in (0, 1)):
        return Verdict(got="float", why=_SOFTMAX)
    return Verdict(got="int8")


def _not_dynamic(work: Work) -> Verdict:
    if _is(work, "Gather"):
        return Verdict(got="int8-weights", why=_TABLE)
    return Verdict(got="int8-weights", why=_NARROW) if work.is_matrix else Verdict(got="float", why=_NO_MATRIX)


def _is(work: Work, kind: str) -> bool:
    return bool(work.node.get_type_name() == kind)


def _from_softmax(value: Any) -> bool:
    node = value.get_node()
    while moves(node):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Softmax")
