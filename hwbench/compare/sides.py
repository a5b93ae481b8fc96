"""A side of a measured comparison: what it is before it runs, what it was, and what differs between two."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hwbench.errors import InvalidMeasurement
from hwbench.records.base import Missing
from hwbench.records.comparison import BlockProcess, Difference, Side
from hwbench.records.measurement import artefact_hash
from hwbench.records.model import ImportResult

LIVE_FACTS = ("batch", "inputs", "precision")
_NOT_FINITE = "outputs_not_finite: the outputs hold NaN or infinity; arithmetic on these may be slower than on numbers"


ALREADY_BUILT = "an engine that is built already runs in its own precision: where these differ, they are compared too"
OTHER_INPUTS = Missing(
    code="other_inputs", why="the two sides take inputs of other names, types or shapes: they were given other values"
)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One side, ready to be measured."""

    given: str
    imported: ImportResult
    engine: str
    precision: str


def built_by(imported: ImportResult) -> str | None:
    """Return the engine that a model was built by, or None where it is none."""
    artefact = imported.model.artefact
    return None if artefact is None else artefact.engine


def share_inputs(a: ImportResult, b: ImportResult) -> ImportResult:
    """Give B the input values of A, where both take the same tensors; return B as it is now.

    A bundle brings examples, of which a network that stands beside it knows nothing.
    """
    if a.model.inputs != b.model.inputs or a.model.inputs_sha256 == b.model.inputs_sha256:
        return b
    shutil.copyfile(Path(a.files.folder) / a.files.inputs, Path(b.files.folder) / b.files.inputs)
    model = msgspec.structs.replace(b.model, inputs_sha256=a.model.inputs_sha256, input_origin=a.model.input_origin)
    return msgspec.structs.replace(b, model=model)


def any_built(a: Contender, b: Contender) -> bool:
    """Say whether either side is an engine already."""
    return built_by(a.imported) is not None or built_by(b.imported) is not None


def live_facts(a: Contender, b: Contender) -> tuple[dict[str, str], dict[str, str]]:
    """Return what must be the same on both sides, in words; precisions where neither side is built already."""
    found = _facts(a), _facts(b)
    if any_built(a, b):
        for facts in found:
            facts.pop("precision")
    return found


def _facts(ready: Contender) -> dict[str, str]:
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
        artefact_sha256=artefact_hash(ready.imported.model),
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
        "artefact": lambda side: artefact_words(side.artefact_sha256),
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


def artefact_words(sha256: str | Missing) -> str:
    """Return the beginning of the hash of an engine, or that it was built when it was measured."""
    return "built to be measured" if isinstance(sha256, Missing) else sha256[:12]
