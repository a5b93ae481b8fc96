"""From an estimate to a word, and the looks that are decided in advance.

With a minimum effect m (a ratio above 1), the whole interval must be above m for "higher", below 1/m for "lower",
between the two for "same". Anything else is unclear.

Stopping early. From six restarts on, a comparison looks at its data after a third (three at least), two thirds and all
of them, and stops as soon as nothing it was asked is unclear. Looking three times at 5 % would be wrong more often than
5 %, so the looks share it: 0.2 %, 0.8 % and 4 % (Bonferroni, uneven on purpose: an early stop is for large differences,
the last look keeps most). The probability that any of the three intervals misses the truth is at most their sum. This
holds for each metric by itself.
"""

from __future__ import annotations

import math
from typing import Literal

from hwbench.compare.resample import Estimate
from hwbench.records.base import Missing
from hwbench.records.comparison import Ratio, Word
from hwbench.student import t_quantile

Side = Literal["higher", "lower", "same", "unclear"]

_LEVELS = {1: (0.05,), 3: (0.002, 0.008, 0.04)}
_FEWEST_FOR_LOOKS = 6
_FIRST_LOOK = 3
_MOST_TIMES = 100
_LARGEST_LOG = 700.0  # JSON has no infinity


def looks(restarts: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return after how many restarts to look, and the error probability spent each time."""
    count = 3 if restarts >= _FEWEST_FOR_LOOKS else 1
    thirds = (math.ceil(restarts * (look + 1) / count) for look in range(count))
    return tuple(max(min(_FIRST_LOOK, restarts), look) for look in thirds), _LEVELS[count]


def minimum(relative: float, absolute: float, value: float) -> float:
    """Return the minimum effect as a ratio above 1: both the relative and the absolute one must be exceeded."""
    return 1 + max(relative, absolute / value if value > 0 else math.inf)


def ratio(estimate: Estimate, confidence: float) -> Ratio:
    """Return the estimate as a ratio with its interval."""
    half = estimate.half_width(confidence)
    centre = estimate.log_ratio
    return Ratio(
        value=math.exp(centre),
        low=math.exp(centre - half),
        high=_exp(centre + half),
        confidence=confidence,
        degrees=estimate.df,
    )


def decide(found: Ratio, min_ratio: float) -> Side:
    """Say on which side of the minimum effect the whole interval lies."""
    if found.low > min_ratio:
        return "higher"
    if found.high < 1 / min_ratio:
        return "lower"
    if found.low > 1 / min_ratio and found.high < min_ratio:
        return "same"
    return "unclear"


def word(side: Side, more: Word, less: Word) -> Word:
    """Name a side for a metric."""
    names: dict[Side, Word] = {"higher": more, "lower": less, "same": "SAME", "unclear": "INCONCLUSIVE"}
    return names[side]


def control_fails(control: Ratio, min_ratio: float) -> bool:
    """Say whether the same thing measured twice differs by more than the minimum effect, for sure."""
    return decide(control, min_ratio) in {"higher", "lower"}


def blind(control: Ratio) -> Missing:
    """Return why nothing can be said when the control fails."""
    return Missing(
        code="control_differs",
        why=f"A differs from itself by {control.value - 1:+.1%} in another process: this machine cannot tell",
        cure="close other programs, use another machine or raise --min-effect",
    )


def unsettled(estimate: Estimate, min_ratio: float, confidence: float, *, budget_s: float, restarts: int) -> Missing:
    """Return why an interleaved comparison is unclear, and about what would settle it.

    The error falls with the square root of the restarts, each as long as before, and Student's t with their number.
    """
    margin = math.log(min_ratio)
    distance = abs(abs(estimate.log_ratio) - margin)
    half = estimate.half_width(confidence)
    why = f"the interval (+-{_percent(half)}) reaches across the minimum effect of {min_ratio - 1:.2g}"
    for more in range(restarts + 1, _MOST_TIMES * restarts + 1):
        degrees = max(1, 2 * more - 1 if estimate.df != restarts - 1 else more - 1)
        if t_quantile(confidence, degrees) * estimate.error * math.sqrt(restarts / more) < distance:
            cure = (
                f"--budget {math.ceil(budget_s * more / restarts)}s (a given --restarts in proportion) would about do"
            )
            return Missing(code="too_wide", why=why, cure=cure)
    if distance > margin / 5:
        cure = f"it would take more than {_MOST_TIMES} times as long: use a quieter machine"
        return Missing(code="too_noisy", why=why, cure=cure)
    return Missing(
        code="at_the_limit",
        why=f"the difference ({_signed(estimate.log_ratio)}) lies at the minimum effect of {min_ratio - 1:.2g}",
        cure="more measuring will hardly settle it: choose another --min-effect",
    )


def unsettled_saved(estimate: Estimate, min_ratio: float, confidence: float) -> Missing:
    """Return why two saved runs cannot settle it."""
    half = estimate.half_width(confidence)
    return Missing(
        code="too_wide",
        why=f"the interval (+-{_percent(half)}) reaches across the minimum effect of {min_ratio - 1:.2g}",
        cure="compare the models themselves, which interleaves them: hwbench compare MODEL_A MODEL_B",
    )


def _percent(log: float) -> str:
    return f"{math.expm1(log):.1%}" if log < 5 else "far more than 100%"


def _signed(log: float) -> str:
    return f"{math.expm1(log):+.1%}"


def _exp(value: float) -> float:
    return math.exp(min(value, _LARGEST_LOG))
