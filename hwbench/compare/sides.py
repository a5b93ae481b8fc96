"""A side of a measured comparison: what it is before it runs, what it was, and what differs between two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwbench.errors import InvalidMeasurement
from hwbench.records.base import Missing
from hwbench.records.comparison import BlockProcess, Difference, Side
from hwbench.records.model import ImportResult

LIVE_FACTS = ("batch", "inputs", "precision")
_NOT_FINITE = "outputs_not_finite: the outputs hold NaN or infinity; arithmetic on these may be slower than on numbers"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One side, ready to be measured."""

    given: str
    imported: ImportResult
    engine: str
    precision: str


def live_facts(ready: Contender) -> dict[str, str]:
    """Return what must be the same on both sides, in words."""
    model = ready.imported.model
    batch = model.batch_size
    return {
        "batch": f"unknown ({batch.code})" if isinstance(batch, Missing) else str(batch),
        "inputs": ", ".join(f"{spec.dtype}[{'x'.join(map(str, spec.shape))}]" for spec in model.inputs),
        "precision": ready.precision,
    }


def side(ready: Contender, processes: Sequence[BlockProcess], role: str, *, created_at: str) -> Side:
    """Return one side as its processes saw it.

    Raises:
        InvalidMeasurement: another precision was built than was asked for.
    """
    built = next(item.run.built for item in processes if item.process == role)
    finite = all(item.run.outputs_finite for item in processes if item.process == role)
    if ready.precision not in {"auto", built.precision}:
        raise InvalidMeasurement(
            f"{ready.engine}: {ready.precision} was asked for and {built.precision} was built",
            hint="ask for a precision that this engine offers on this device",
        )
    return Side(
        given=ready.given,
        model=ready.imported.model.name,
        hub_sha256=ready.imported.model.hub_sha256,
        engine=ready.engine,
        precision_asked=ready.precision,
        built=built,
        created_at=created_at,
        notes=(*ready.imported.model.warnings, *built.notes, *([] if finite else [_NOT_FINITE])),
    )


def compared(a: Side, b: Side) -> tuple[Difference, ...]:
    """Return what differs and is what is being compared."""
    facts: dict[str, Callable[[Side], str]] = {
        "model": lambda side: f"{side.model} {side.hub_sha256[:12]}",
        "engine": lambda side: f"{side.engine} {side.built.version}",
        "built precision": lambda side: side.built.precision,
    }
    same_engine = a.engine == b.engine  # the settings of one engine mean nothing to another
    names = sorted({*a.built.settings, *b.built.settings}) if same_engine else []
    found = [Difference(name=name, a=of(a), b=of(b)) for name, of in facts.items()]
    found += [
        Difference(
            name=f"engine setting {key}", a=a.built.settings.get(key, "none"), b=b.built.settings.get(key, "none")
        )
        for key in names
    ]
    return tuple(item for item in found if item.a != item.b)
