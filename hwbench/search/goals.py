"""Objectives and constraints: from what the user wrote to numbers, and from measured numbers to violations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import get_args

from hwbench.errors import UsageError
from hwbench.records.search import UNITS, Constraint, Metric, Objective, Quantity

DROP = "accuracy drop"
_FORM = re.compile(r"(?P<quantity>[a-z][a-z -]*?)\s*(?P<sense><=|>=|<|>)\s*(?P<limit>\S.*?)\s*")
_BYTES = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 1e3, "mb": 1e6, "gb": 1e9, "b": 1}
_SECONDS = {"s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60}
_JOULES = {"mj": 1e-3, "uj": 1e-6, "µj": 1e-6, "nj": 1e-9, "j": 1}
_SCALES = {"s": _SECONDS, "B": _BYTES, "J": _JOULES}
_EXAMPLES = 'write --constraint "accuracy drop <= 1pp" or "latency <= 5ms"'


def objectives(names: Sequence[str]) -> tuple[Objective, ...]:
    """Return the objectives called so; accuracy is to be large, everything else small.

    Raises:
        UsageError: there is no such quantity, it is named twice, or none is named.
    """
    known: dict[str, Metric] = {name: name for name in get_args(Metric)}
    found = []
    for name in names:
        if name not in known:
            raise UsageError(f"--objective '{name}' is nothing that is measured", hint=f"known: {', '.join(known)}")
        larger = name == "accuracy"
        found.append(Objective(metric=known[name], direction="maximize" if larger else "minimize"))
    if not found or len({one.metric for one in found}) < len(found):
        said = "an objective is named twice" if found else "nothing says what is to be made better"
        raise UsageError(said, hint="--objective latency --objective accuracy")
    return tuple(found)


def constraint(text: str) -> Constraint:
    """Read ``accuracy drop <= 1pp``, ``latency <= 5ms``, ``size <= 4MiB``; ``<`` is taken for ``<=``.

    Raises:
        UsageError: it is of no such form.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--constraint '{text}' is none", hint=_EXAMPLES)
    quantity = " ".join(match["quantity"].split())
    if quantity not in UNITS:
        raise UsageError(
            f"--constraint '{text}': '{quantity}' is nothing that is measured", hint=f"known: {', '.join(UNITS)}"
        )
    sense = "<=" if match["sense"].startswith("<") else ">="
    return Constraint(
        quantity=quantity,
        sense="<=" if sense == "<=" else ">=",
        limit=_limit(quantity, match["limit"], text),
        text=text,
    )


def _limit(quantity: str, given: str, text: str) -> float:
    unit = UNITS[quantity]
    try:
        if not unit:
            for suffix in ("pp", "%"):
                if given.endswith(suffix):
                    return float(given.removesuffix(suffix)) / 100
            return float(given)
        match = re.fullmatch(r"([\d.eE+-]+?)\s*([a-zA-Zµ]*)", given)
        if match is not None:
            return float(match[1]) * _SCALES[unit][match[2].lower() or unit.lower()]
    except (ValueError, KeyError):
        pass
    raise UsageError(f"--constraint '{text}': '{given}' is no {quantity}", hint=_EXAMPLES)


def needed(wanted: Iterable[Objective], bounds: Iterable[Constraint]) -> set[str]:
    """Return all quantities that have to be measured."""
    return {one.metric for one in wanted} | {one.quantity for one in bounds}


def violations(bounds: Iterable[Constraint], found: Iterable[Quantity]) -> dict[str, float]:
    """Return by how much each constraint is broken whose quantity was measured; see :meth:`Constraint.violation`."""
    values = {each.metric: each.value for each in found}
    return {one.text: one.violation(values[one.quantity]) for one in bounds if one.quantity in values}


def surely_broken(bounds: Iterable[Constraint], found: Quantity) -> Constraint | None:
    """Return a constraint that a quantity breaks with the whole of its interval, if there is one."""
    for one in bounds:
        if one.quantity == found.metric:
            end = found.low if one.sense == "<=" else found.high
            if one.violation(found.value if end is None else end) > 0:
                return one
    return None
