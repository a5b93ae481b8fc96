"""The story of ``hwbench plan``.

    find the device -> bring the model in, rewritten where that is exact -> bring the data in
        -> find what can be chosen -> what each part costs, on every runtime -> what each choice loses
        -> solve for a row of budgets, run what was found as a whole, correct the losses, solve again -> explain -> save

Costs go into the store as they come; a run that was stopped finds them again. Of a device that is not attached they are
predicted instead: :mod:`hwbench.planning_pipeline.unattached`.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from hwbench.compress.scores.criteria import channel_criterion
from hwbench.data.split import split_stored
from hwbench.devices import environment
from hwbench.errors import EngineError, HwbenchError, Interrupted, ModelError, StorageError, UsageError
from hwbench.files import write_record
from hwbench.graph.spec import parse_spec
from hwbench.intake import Intake, Watch
from hwbench.inventory import Target, find_or_describe
from hwbench.plan.goals import drop_of
from hwbench.planning_pipeline.energy import refuse_energy
from hwbench.planning_pipeline.planner import Planner
from hwbench.planning_pipeline.unattached import refuse_probe
from hwbench.planning_pipeline.written import with_files
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.plan import PLAN_RESULT_SCHEMA, PlanRequest, PlanResult
from hwbench.resources import require_extra
from hwbench.store.costs import check_store

__all__ = ["PLAN", "Planner", "plan"]

PLAN = "plan.json"
WORK = "planning"  # folder of what is kept between runs
_SHARES = {"learn": 0.6, "judge": 0.4}


def plan(request: PlanRequest, folder: Path, *, target: Target | None = None, watch: Watch) -> PlanResult:
    """Plan a network for a device, and save the plan in ``folder``.

    Raises:
        UsageError: the data do not fit the model, a goal cannot be held against anything, or a probe is given of a
            device that is here.
        HwbenchError: the model, the data or every runtime failed.
        Interrupted: Ctrl-C; costs that were measured are in the store.
    """
    require_extra("plan", "planning")
    target = target or find_or_describe(request.device)
    parse_spec(request.model)
    channel_criterion(request.criterion)
    if (folder / PLAN).exists() and not request.replace:
        raise UsageError(f"'{folder}' holds a plan already", hint="--force replaces it; or give another folder")
    there = folder.exists()
    refuse_probe(request, target)
    refuse_energy(request, target)
    check_store()
    scratch = Path(tempfile.mkdtemp(prefix="hwbench-plan-"))
    intake = Intake(
        folder=scratch, watch=watch, threads=request.threads, timeout_s=request.timeout_s, seed=request.seed
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _planned(request, folder, target, intake)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            "stopped by Ctrl-C", hint="costs that were measured are kept: the same command goes on"
        ) from None
    except HwbenchError:
        if not there and not any((folder / WORK).glob("losses/*")):
            shutil.rmtree(folder, ignore_errors=True)  # nothing was begun that could be gone on with
        raise
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise StorageError(f"cannot use {folder}:{where} {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _planned(request: PlanRequest, folder: Path, target: Target, intake: Intake) -> PlanResult:
    imported = intake.model(request.model, batch_size=request.batch_size, shapes=request.shapes)
    model = imported.model
    if model.artefact is not None:
        raise UsageError(f"'{request.model}' is a built engine", hint="plan the model it was built from")
    if imported.files.no_graph is not None:
        raise ModelError(imported.files.no_graph.why, hint=imported.files.no_graph.cure)
    read = intake.data(request.data, model, "data", limit=request.samples, preprocess=request.preprocess)
    unlabelled = Missing(code="no_labels", why="the samples have no labels")
    drop_of(request.goals, request.max_drop, 1.0 if read.facts.labels else unlabelled)  # before minutes are spent
    parts: dict[str, DataResult] = split_stored(read, model, _SHARES, request.seed, intake.folder / "parts")
    with Planner(request, target, intake, folder / WORK, parts["learn"], parts["judge"]) as planner:
        planner.prepare()
        engines = planner.plans()
    if not engines:
        reasons = "\n".join(f"{each.engine}: {each.reason}" for each in planner.not_planned)
        raise EngineError(f"no runtime could be planned for with '{request.model}'", hint=reasons)
    result = PlanResult(
        schema_version=PLAN_RESULT_SCHEMA,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        request=request,
        environment=environment.capture(),
        device=target.device,
        model=model,
        data=read.facts,
        exact=planner.base.told,
        space=planner.space,
        sensitivity=planner.losses.found,
        engines=with_files(engines, request, target, folder),
        not_planned=planner.not_planned,
        took_s=planner.took_s,
        warnings=model.warnings,
    )
    write_record(folder / PLAN, result)
    return result
