"""Which measurement of a saved result is meant, by engine and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwbench.errors import InvalidMeasurement, UsageError
from hwbench.records.base import Missing
from hwbench.records.measurement import Measurement, ProfileResult


@dataclass(frozen=True, kw_only=True)
class Selector:
    """An engine and a precision; None leaves it open."""

    engine: str | None = None
    precision: str | None = None

    def __str__(self) -> str:
        return ":".join((self.engine or "any engine", *((self.precision,) if self.precision else ())))


def parse_selector(text: str) -> Selector:
    """Read ``openvino:bf16`` or ``openvino``.

    Raises:
        UsageError: it is neither.
    """
    engine, colon, precision = text.partition(":")
    if not engine or (colon and not precision) or ":" in precision:
        raise UsageError(f"'{text}' is not a measurement", hint="write ENGINE or ENGINE:PRECISION, as in openvino:bf16")
    return Selector(engine=engine, precision=precision or None)


def select(result: ProfileResult, selector: Selector, *, name: str) -> Measurement:
    """Return the one latency measurement of ``result`` that ``selector`` names.

    A precision is first looked for among what was built, and where several were built alike, or none, among what was
    asked for.

    Args:
        result: where to look.
        selector: what to look for.
        name: what the result is called in an error.

    Raises:
        UsageError: no measurement fits, or several do; the message lists those there are.
        InvalidMeasurement: the result holds no latency measurement at all.
    """
    timed = [m for m in result.measurements if not isinstance(m.latency, Missing)]
    if not timed:
        raise InvalidMeasurement(
            f"{name} holds no latency measurement",
            hint=f"profile it in latency mode: hwbench profile {result.model.source}",
        )
    fitting = _narrowed([m for m in timed if selector.engine in {None, m.engine}], selector.precision)
    if len(fitting) == 1:
        return fitting[0]
    trouble = "fits several measurements" if fitting else "fits no measurement"
    raise UsageError(f"'{selector}' {trouble} of {name}", hint=f"there are: {', '.join(map(_described, timed))}")


def _narrowed(found: list[Measurement], precision: str | None) -> list[Measurement]:
    if precision is None:
        return found
    built = _where(found, lambda m: m.built.precision == precision)
    asked = _where(built or found, lambda m: m.precision_asked == precision)
    return built if len(built) == 1 or not asked else asked


def _where(found: Sequence[Measurement], fits: Callable[[Measurement], bool]) -> list[Measurement]:
    return [m for m in found if fits(m)]


def _described(m: Measurement) -> str:
    asked = f" (asked {m.precision_asked})" if m.precision_asked != m.built.precision else ""
    return f"{m.engine}:{m.built.precision}{asked}"
