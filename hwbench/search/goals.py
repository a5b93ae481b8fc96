"""Objectives and constraints: from what the user wrote to numbers, and from measured numbers to violations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from hwbench.errors import UsageError
from hwbench.records.search import UNITS, Constraint, Metric, Objective, Quantity
from hwbench.units import parse_comparison, parse_quantity

DROP = "accuracy drop"
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
    asked = parse_comparison(text)
    if asked is None:
        raise UsageError(f"--constraint '{text}' is none", hint=_EXAMPLES)
    if asked.name not in UNITS:
        raise UsageError(
            f"--constraint '{text}': '{asked.name}' is nothing that is measured", hint=f"known: {', '.join(UNITS)}"
        )
    unit = UNITS[asked.name] or ("change" if asked.name == DROP else "share")
    try:
        limit = parse_quantity(asked.value, unit)
    except UsageError as error:
        raise UsageError(f"--constraint '{text}': {error.message}", hint=error.hint) from error
    return Constraint(quantity=asked.name, sense="<=" if asked.sign == "<" else ">=", limit=limit, text=text)


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
