"""When to stop sampling: named rules, stored with the result by name and settings.

count           a fixed number of inferences
duration        a fixed time
stable-median   at least a time and a count, then until the 95 % interval of the median is within a share of it; gives
                up at a longest time or at the most samples that are kept, and the result says so
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hwbench.errors import UsageError
from hwbench.records.measurement import StopRule
from hwbench.stats import effective_size, median_interval, quantile

MOST_SAMPLES = 5_000_000  # each is kept, here and in the result: 8 bytes in an array, some 40 as Python's integers
_LOOKED_AT = 4000  # samples, evenly spaced: fewer make the interval wider, never too narrow


class Stopper(Protocol):
    """A stop rule at work."""

    @property
    def limit(self) -> int | None:
        """The most samples it wants; the loop never takes more."""
        ...

    def done(self, samples: Sequence[int], elapsed_s: float) -> bool:
        """Say whether to stop now, given all samples so far in nanoseconds."""
        ...

    def reached(self, samples: Sequence[int], elapsed_s: float) -> bool:
        """Say whether the rule's own goal was met, once stopped."""
        ...

    def progress(self, samples: Sequence[int], elapsed_s: float) -> float:
        """Return how far it is, 0 to 1."""
        ...


class Count:
    """Stop after ``count`` inferences."""

    def __init__(self, *, count: float) -> None:
        self.count = int(count)
        self.limit: int | None = self.count

    def done(self, samples: Sequence[int], elapsed_s: float) -> bool:
        return len(samples) >= self.count

    reached = done

    def progress(self, samples: Sequence[int], elapsed_s: float) -> float:
        return min(1.0, len(samples) / max(1, self.count))


class Duration:
    """Stop after ``seconds``, and at least ``min_count`` inferences."""

    limit: int | None = None

    def __init__(self, *, seconds: float, min_count: float = 1) -> None:
        self.seconds = seconds
        self.min_count = int(min_count)

    def done(self, samples: Sequence[int], elapsed_s: float) -> bool:
        return elapsed_s >= self.seconds and len(samples) >= self.min_count

    reached = done

    def progress(self, samples: Sequence[int], elapsed_s: float) -> float:
        return min(1.0, elapsed_s / self.seconds if self.seconds else 1.0, len(samples) / max(1, self.min_count))


class StableMedian:
    """Stop when the median is known to within ``relative`` of itself (half-width of its 95 % interval)."""

    limit: int | None = MOST_SAMPLES

    def __init__(self, *, min_seconds: float, min_count: float, max_seconds: float, relative: float) -> None:
        self.min_seconds = min_seconds
        self.min_count = int(min_count)
        self.max_seconds = max_seconds
        self.relative = relative
        self._next_check = 0

    def done(self, samples: Sequence[int], elapsed_s: float) -> bool:
        if len(samples) >= MOST_SAMPLES or (len(samples) >= self.min_count and elapsed_s >= self.max_seconds):
            return True
        if elapsed_s < self.min_seconds or len(samples) < max(self.min_count, self._next_check):
            return False
        self._next_check = int(len(samples) * 1.3)  # sorting takes time that the machine would idle
        return self.reached(samples, elapsed_s)

    def reached(self, samples: Sequence[int], elapsed_s: float) -> bool:
        if len(samples) > _LOOKED_AT:  # a look must cost nothing beside the run it looks at
            samples = samples[:: len(samples) // _LOOKED_AT]
        ordered = sorted(samples)
        low, high = median_interval(ordered, effective_size(samples))
        return (high - low) / 2 <= self.relative * quantile(ordered, 0.5)

    def progress(self, samples: Sequence[int], elapsed_s: float) -> float:
        """Progress towards the shortest time while that lasts, then towards the longest."""
        goal = self.min_seconds if elapsed_s < self.min_seconds else self.max_seconds
        return min(0.99, elapsed_s / goal if goal else 1.0, len(samples) / max(1, self.min_count))


def refuse_too_many(rule: StopRule, per_s: float) -> None:
    """Refuse, after warm-up and before the time is spent, a run by time that would take more samples than are kept.

    Args:
        rule: what ends the run.
        per_s: how many inferences a second the warm-up completed.

    Raises:
        UsageError: they are more than :data:`MOST_SAMPLES`.
    """
    if rule.name != "duration":
        return
    seconds = rule.settings["seconds"]
    if seconds * per_s > MOST_SAMPLES:
        raise UsageError(
            f"{seconds:g} s at {per_s:.0f} inferences a second are more than {MOST_SAMPLES} samples, "
            "each of which is kept",
            hint="give a larger --batch-size or a shorter --duration, or leave --preset out",
        )


_RULES: dict[str, type[Count] | type[Duration] | type[StableMedian]] = {
    "count": Count,
    "duration": Duration,
    "stable-median": StableMedian,
}


def make_stopper(rule: StopRule) -> Stopper:
    """Return the rule at work that a record describes.

    Raises:
        UsageError: no such rule, or settings it does not have.
    """
    if rule.name not in _RULES:
        raise UsageError(f"there is no stop rule '{rule.name}'", hint=f"there are: {', '.join(_RULES)}")
    try:
        return _RULES[rule.name](**rule.settings)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"stop rule '{rule.name}': {error}") from error
