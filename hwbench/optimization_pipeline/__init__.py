"""The story of ``hwbench optimize``: a planned network that has earned its place, or the best uniform one.

    find the device -> bring the model in -> divide the data: learn, select, certify
        -> uniform baselines: every engine, every precision -> plan
        -> rounds: realise what is proposed, select, time beside the baselines, tell the planner
        -> swaps -> the contest of all that count -> the guard -> certify on samples that have chosen nothing -> save

Every stage leaves a record (:mod:`kept`), so that a run which was ended goes on with nothing lost. :mod:`making` turns
a design into a bundle, :mod:`judging` says how good it is and whether it may be chosen, :mod:`timing` holds contests,
:mod:`ending` certifies and tells what stands between what was built and the goal.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from hwbench.errors import HwbenchError, Interrupted, StorageError, UsageError
from hwbench.graph.spec import parse_spec
from hwbench.intake import Watch
from hwbench.inventory import Target, find_target
from hwbench.optimization_pipeline.candidates import CANDIDATES
from hwbench.optimization_pipeline.proposer import ProposerOf
from hwbench.optimization_pipeline.run import Optimization
from hwbench.optimization_pipeline.saving import BUNDLE, OPTIMIZATION, PAGE, PARETO, PLAN, WORK
from hwbench.records.optimization import OptimizationResult, OptimizeRequest

__all__ = ["BUNDLE", "OPTIMIZATION", "PAGE", "PARETO", "PLAN", "WORK", "optimize"]


def optimize(
    request: OptimizeRequest,
    folder: Path,
    *,
    target: Target | None = None,
    watch: Watch,
    planner: ProposerOf | None = None,
) -> OptimizationResult:
    """Find the best bundle that meets the goal, certify it, and save it in ``folder`` with how that is known.

    Args:
        request: what is wanted.
        folder: gets the result; what is begun lies in it too.
        target: the device; found by its name where None.
        watch: told what is being done.
        planner: makes the planner; None compares uniform precisions alone.

    Raises:
        UsageError: the request does not fit the model or the data, or ``folder`` holds a result already.
        HwbenchError: the model, the data, or every engine failed.
        Interrupted: Ctrl-C; what was finished is kept for ``resume``.
    """
    target = target or find_target(request.device)
    parse_spec(request.model)
    _prepare(request, folder)
    try:
        return Optimization(request, folder, target, watch, planner).run()
    except (KeyboardInterrupt, Interrupted):
        hint = "finished stages are kept: the same command with --resume"
        raise Interrupted("stopped by Ctrl-C", hint=hint if _anything_made(folder) else _left_alone(folder)) from None
    except HwbenchError:
        if not _anything_made(folder):
            _left_alone(folder)
        raise
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise StorageError(f"cannot use {folder}:{where} {error.strerror or error}") from error


def _prepare(request: OptimizeRequest, folder: Path) -> None:
    """See that ``folder`` can take the result."""
    done, begun = (folder / OPTIMIZATION).exists(), (folder / WORK).exists()
    if request.resume and not begun:
        what = "is finished: there is nothing to go on with" if done else "holds nothing that was begun"
        raise UsageError(f"'{folder}' {what}", hint="--force makes it anew" if done else "leave --resume out")
    if done and not (request.replace or request.resume):
        raise UsageError(f"'{folder}' holds a result already", hint="--force replaces it; or give another folder")
    if begun and not (request.replace or request.resume):
        raise UsageError(
            f"'{folder}' holds what an earlier run has begun", hint="--resume goes on, --force begins anew"
        )
    try:
        if not request.resume:
            shutil.rmtree(folder / WORK, ignore_errors=True)
        (folder / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror or error}") from error


def _anything_made(folder: Path) -> bool:
    return any((folder / WORK / CANDIDATES).glob("*.json"))


def _left_alone(folder: Path) -> str:
    """Take away the work folder, and the folder itself where nothing else is in it."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
    return "nothing was built yet, and nothing is kept"
