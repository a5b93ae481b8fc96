"""What a run leaves: the bundle, those of the Pareto set, the records, and everything that was seen in the contests."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from hwbench.errors import StorageError
from hwbench.files import write_record
from hwbench.optimization_pipeline.kept import plain
from hwbench.records.base import Missing
from hwbench.records.measurement import Built
from hwbench.records.optimization import (
    OPTIMIZATION_SCHEMA,
    Made,
    OptimizationResult,
    PlanFile,
    PredictedMeasured,
)

OPTIMIZATION, PAGE, PLAN = "optimization.json", "optimization.html", "plan.json"
BUNDLE, PARETO, CONTESTS, WORK = "bundle", "pareto", "contests", "work"


def save(found: OptimizationResult, folder: Path, work: Path) -> OptimizationResult:
    """Put the result in place, in the place of an earlier one, and take what was only needed to go on away."""
    try:
        (folder / OPTIMIZATION).unlink(missing_ok=True)
        for name in (BUNDLE, PARETO, CONTESTS):
            shutil.rmtree(folder / name, ignore_errors=True)
        _copy(found, found.verdicts.choice.entrant, folder / BUNDLE, work)
        for point in found.pareto:
            if point.entrant != found.verdicts.choice.entrant:
                _copy(found, point.entrant, folder / PARETO / plain(point.entrant), work)
        (folder / CONTESTS).mkdir()
        for path in sorted(work.glob("*-seen.json")):
            shutil.copyfile(path, folder / CONTESTS / path.name)
    except OSError as error:
        raise StorageError(f"cannot put the result into {folder}: {error.strerror or error}") from error
    write_record(folder / PLAN, plan_file(found))
    write_record(folder / OPTIMIZATION, found)
    with contextlib.suppress(OSError):
        shutil.rmtree(work)
    return found


def _copy(found: OptimizationResult, name: str, place: Path, work: Path) -> None:
    made = found.candidate(name).made
    assert isinstance(made, Made)
    shutil.copytree(work / made.bundle, place)


def plan_file(found: OptimizationResult) -> PlanFile:
    """Return how the bundle was made, and how good the predictions were on the way."""
    winner = found.winner
    made = winner.made
    assert isinstance(made, Made)
    built = made.engine.built
    assert isinstance(built, Built)  # what won was timed
    parts = found.parts
    return PlanFile(
        schema_version=OPTIMIZATION_SCHEMA,
        created_at=found.created_at,
        hub_sha256=found.model.hub_sha256,
        artefact_sha256=made.engine.artefact.sha256,
        engine=winner.engine,
        engine_version=built.version,
        environment=found.environment,
        design=winner.design,
        plan=made.plan,
        steps=made.steps,
        decisions=winner.decisions,
        predictions=predictions(found),
        data={each.name: each.facts.sha256 for each in (parts.learn, parts.select, parts.certify)},
        seed=found.request.seed,
    )


def predictions(found: OptimizationResult) -> tuple[PredictedMeasured, ...]:
    """Return what was expected of every proposal beside what its round measured."""
    rows: list[PredictedMeasured] = []
    for done in found.rounds:
        for each in done.candidates:
            if isinstance(each.predicted, Missing):
                continue
            standing = None if isinstance(done.contest, Missing) else done.contest.standing(each.name)
            none = Missing(code="not_timed", why="it was not timed")
            value = none if standing is None else standing.value
            inside = none if isinstance(value, Missing) else each.predicted.low <= value <= each.predicted.high
            rows.append(PredictedMeasured(name=each.name, predicted=each.predicted, measured=value, inside=inside))
    return tuple(rows)
