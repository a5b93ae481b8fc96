"""Architectures drawn from a space, ranked while they are untrained, and the space of those that are worth training."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.search import Candidate, Parameter, Scalar, SearchSpace
from hwbench.search.points import Values, count, is_there, key, points, searched, values_of, whole
from hwbench.stats import non_dominated

CHOSEN = "model.candidate"  # the parameter that stands for the whole architecture once candidates were ranked
_TRIES = 50  # draws for each candidate that is wanted, before a space is taken to have no more


def architectures(space: SearchSpace, wanted: int, seed: int) -> list[Values]:
    """Return that many different architectures, by argument; all, where the space has no more.

    Raises:
        UsageError: the space has no ``[model]``, or another section depends on it.
    """
    own = space.section("model")
    if not own:
        raise UsageError("--rank ranks architectures, and the space has no [model]", hint="leave --rank out")
    for one in space.parameters:
        if one not in own and any(parent.startswith("model.") for parent in one.when):
            raise UsageError(
                f"'{one.name}' depends on [model], and --rank makes one choice of that", hint="leave --rank out"
            )
    part = SearchSpace(parameters=own)
    there = count(part)
    if there is not None and there <= wanted:
        found = list(points(part))
    else:
        found = _drawn(part, wanted, np.random.default_rng(seed))
    return [{name.removeprefix("model."): value for name, value in whole(part, one).items()} for one in found]


def _drawn(part: SearchSpace, wanted: int, rng: np.random.Generator) -> list[Values]:
    found: dict[str, Values] = {}
    for _ in range(_TRIES * wanted):
        values: Values = {}
        for one in part.parameters:
            if is_there(one, values):
                values[one.name] = _draw(one, rng)
        point = searched(part, values)
        found.setdefault(key(point), point)
        if len(found) == wanted:
            break
    return list(found.values())


def _draw(one: Parameter, rng: np.random.Generator) -> Scalar:
    every = values_of(one)
    if every is not None and not one.log:
        return every[int(rng.integers(len(every)))]
    assert one.low is not None
    assert one.high is not None
    if not one.log:
        return float(rng.uniform(one.low, one.high))
    value = float(np.exp(rng.uniform(np.log(one.low), np.log(one.high))))
    return value if one.kind == "real" else int(np.clip(round(value), one.low, one.high))


def ranked(candidates: Sequence[Candidate], keep: int) -> list[Candidate]:
    """Return the candidates by fronts of score (high) against latency (low), the first ``keep`` of them marked.

    Within a front the higher score comes first. What has no score or no latency comes last and is not kept.
    """
    left = [one for one in candidates if isinstance(one.score, float) and isinstance(one.median_s, float)]
    rest = [one for one in candidates if one not in left]
    found: list[Candidate] = []
    front = 0
    while left:
        first = [left[index] for index in non_dominated([(-_number(one.score), _number(one.median_s)) for one in left])]
        left = [one for one in left if one not in first]
        for one in sorted(first, key=lambda each: -_number(each.score)):
            found.append(msgspec.structs.replace(one, front=front, kept=len(found) < keep))
        front += 1
    return found + rest


def _number(value: float | Missing) -> float:
    assert not isinstance(value, Missing)
    return value


def named(arguments: Values) -> str:
    """Return an architecture's name: ``width=0.5, depth=2``."""
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def narrowed(space: SearchSpace, kept: Sequence[Candidate]) -> SearchSpace:
    """Return the space with one choice of architecture: one of those that were kept.

    Raises:
        UsageError: there is none.
    """
    if not kept:
        raise UsageError("no candidate could be scored and timed", hint="candidates.json has the reasons")
    rest = [one for one in space.parameters if not one.name.startswith("model.")]
    choice = Parameter(name=CHOSEN, kind="categorical", values=tuple(named(one.params) for one in kept))
    return SearchSpace(parameters=(choice, *rest), steps=space.steps)
