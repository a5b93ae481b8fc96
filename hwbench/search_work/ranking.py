"""Untrained candidates of an architecture space: each scored without labels, timed on the device, and ranked."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hwbench.errors import EngineError, HwbenchError, Interrupted
from hwbench.graph.spec import with_arguments
from hwbench.intake import Intake
from hwbench.inventory import Target
from hwbench.records.base import Missing
from hwbench.records.measurement import LatencySummary
from hwbench.records.search import Candidate, CandidateScore, ScoreCandidateJob, SearchRequest
from hwbench.search.candidates import architectures, named, ranked
from hwbench.search.points import Values, values_of
from hwbench.search_work.attempt import timed

_SCORED_ON = 32  # samples
_NOT_YET = Missing(code="not_reached", why="what comes before failed")


def rank_candidates(request: SearchRequest, target: Target, intake: Intake) -> tuple[Candidate, ...]:
    """Draw architectures, score and time them, and mark those that are worth training.

    They are timed in fp32 on the first engine of the space, whose order need not be that of others.

    Raises:
        UsageError: the space has no architecture.
        Interrupted: Ctrl-C; ranking begins anew next time.
    """
    drawn = architectures(request.space, request.rank, request.seed)
    found = []
    for number, arguments in enumerate(drawn):
        intake.watch(f"candidate {number + 1} of {len(drawn)}: {named(arguments)}", None)
        found.append(_candidate(request, target, intake, number, arguments))
    return tuple(ranked(found, request.keep))


def _candidate(request: SearchRequest, target: Target, intake: Intake, number: int, arguments: Values) -> Candidate:
    """Score an untrained network and time it; what does not work is a reason."""
    model = with_arguments(request.model, arguments)
    found = Candidate(params=arguments, score=_NOT_YET, median_s=_NOT_YET, kept=False)
    try:
        found = _scored(request, intake, model, f"candidate-{number}", found)
        return msgspec.structs.replace(found, median_s=_median(request, target, intake, model, number))
    except Interrupted:
        raise
    except HwbenchError as error:
        reason = Missing(code=type(error).__name__, why=error.message, cure=error.hint)
        score = reason if found.score is _NOT_YET else found.score
        return msgspec.structs.replace(found, score=score, median_s=reason)


def _scored(request: SearchRequest, intake: Intake, model: str, where: str, blank: Candidate) -> Candidate:
    imported = intake.model(model, where, batch_size=_SCORED_ON, shapes=request.shapes)
    if imported.files.no_graph is not None:
        raise EngineError(imported.files.no_graph.why, hint=imported.files.no_graph.cure)
    assert request.data is not None
    data = intake.data(request.data, imported.model, f"{where}-data", limit=_SCORED_ON, preprocess=request.preprocess)
    if data.facts.samples < _SCORED_ON:
        raise EngineError(f"{data.facts.samples} samples are too few to score a network on", hint=f"give {_SCORED_ON}")
    job = ScoreCandidateJob(
        hub=str(Path(imported.files.folder) / imported.files.hub),
        data_folder=data.folder,
        samples=_SCORED_ON,
        threads=request.threads,
    )
    found = intake.run("hwbench.search.naswot", job, CandidateScore, f"{where}-score", f"scoring {model}", EngineError)
    macs = imported.model.macs // _SCORED_ON
    return msgspec.structs.replace(blank, score=found.score, parameters=imported.model.parameters, macs=macs)


def _median(request: SearchRequest, target: Target, intake: Intake, model: str, number: int) -> float | Missing:
    engine = next(one for one in request.space.parameters if one.name == "runtime.engine")
    names = tuple(str(value) for value in values_of(engine) or ())
    wanted = msgspec.structs.replace(
        request.timing, model=model, engines=names[:1], precisions=("fp32",), shapes=request.shapes
    )
    latency = timed(wanted, intake.folder / f"candidate-{number}-timing", target, intake.watch).latency
    return latency.median_s if isinstance(latency, LatencySummary) else latency
