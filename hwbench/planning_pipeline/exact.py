"""The exact rewrites, done before anything is chosen: they change no output, so there is nothing to weigh."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hwbench.compress.layout import MODEL
from hwbench.compression_pipeline import carried_out, for_training
from hwbench.errors import HwbenchError
from hwbench.intake import Intake
from hwbench.records.compression import CompressJob, CompressRequest, Step
from hwbench.records.model import ImportResult
from hwbench.records.plan import PlanRequest
from hwbench.structure.rewrites.run import NAMES

_FOLDING = "batch-norm"  # of simplify's rewrites: networks with normalisation train better
_BATCH = 8  # at which the result is checked


@dataclass(frozen=True, kw_only=True)
class Base:
    """What planning starts from. ``source``: what the model is brought in from; ``steps``: what made it."""

    source: str
    steps: tuple[Step, ...]
    told: tuple[str, ...]


def simplified(request: PlanRequest, intake: Intake, folder: Path) -> Base:
    """Rewrite the model where that is exact, into ``folder``; where it cannot be, it stays, and why is told."""
    made = folder / MODEL
    try:
        imported, other, _ = for_training(intake, request.model, _BATCH, request.shapes, "exact-model")
        job = _job(request, imported, other, folder)
        done = carried_out(intake, job, "exact", "rewriting what can be rewritten exactly")
    except HwbenchError as error:
        return Base(source=request.model, steps=(), told=(f"no exact rewrites: {error.message}",))
    changes = done.applied[0].changes
    if not changes:
        for name in done.files:
            (folder / name).unlink()
        return Base(source=request.model, steps=(), told=())
    kinds = Counter(part.partition(":")[0] for change in changes for part in change.what.split("; "))
    told = tuple(f"{kind}, {count} place{'s' if count > 1 else ''}" for kind, count in kinds.items())
    return Base(source=str(made), steps=(_rewriting(request),), told=told)


def _job(request: PlanRequest, imported: ImportResult, other: ImportResult | None, folder: Path) -> CompressJob:
    return CompressJob(
        imported=imported,
        other_batch=other,
        request=CompressRequest(
            model=request.model,
            steps=(_rewriting(request),),
            data=None,
            preprocess=None,
            samples=1,
            batch_size=_BATCH,
            shapes=request.shapes,
            replace=True,
            device=request.device,
            threads=request.threads,
            seed=request.seed,
            timeout_s=request.timeout_s,
        ),
        data=None,
        data_folder=None,
        target=str(folder.resolve()),
    )


def _rewriting(request: PlanRequest) -> Step:
    if not request.trained:
        return Step(method="simplify")
    return Step(method="simplify", settings={"rewrites": [name for name in NAMES if name != _FOLDING]})
