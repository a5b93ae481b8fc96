"""The story of a search, above those of compressing, building, verifying and profiling.

    rank untrained candidates, if asked -> ask the sampler for a point -> try it (:mod:`hwbench.search_work`)
        -> tell the sampler -> ... -> time the best again, beside each other -> save

Points are tried one after another and timed each in a process of its own, so their times were taken at different
moments; how much that matters is shown by a control, the first point timed again every few trials. All is written down
as soon as it is known. Nothing here renders anything.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from hwbench.devices import environment
from hwbench.energy.choose import require
from hwbench.errors import HwbenchError, Interrupted, UsageError
from hwbench.files import REQUEST, decode, read_bytes, write_record
from hwbench.graph.spec import parse_spec, with_arguments
from hwbench.intake import Intake, Watch
from hwbench.inventory import Target, find_target
from hwbench.records.base import Missing
from hwbench.records.search import (
    SEARCH_SCHEMA,
    Candidate,
    Candidates,
    Finals,
    Importance,
    Reference,
    SearchRequest,
    SearchResult,
    Trial,
)
from hwbench.records.verification import VerifyRequest
from hwbench.search.candidates import architectures, named, narrowed
from hwbench.search.goals import DROP, needed
from hwbench.search.ledger import DATABASE, TRIALS, Asked, Ledger
from hwbench.search.loop import search as run_loop
from hwbench.search.outcome import best, importances, pareto, rank_check
from hwbench.search_work.again import CONTROLS, FINALS, contest, controls_in, time_control
from hwbench.search_work.attempt import BUNDLE, HUBS, NETWORK, TRAINED, Bench, score_of
from hwbench.search_work.ranking import rank_candidates
from hwbench.units import MonotonicClock
from hwbench.verification_pipeline import verify

SEARCH = "search.json"
PAGE = "search.html"
_CANDIDATES, _REFERENCE = "candidates.json", "reference.json"
_MOST_FINALISTS = 8
_NOT_YET = Missing(code="not_reached", why="the search ended before", cure="--resume")
_UNRANKED = Missing(code="not_asked", why="no candidates were ranked", cure="--rank")


def search(
    request: SearchRequest,
    folder: Path,
    *,
    target: Target | None = None,
    resume: bool = False,
    replace: bool = False,
    watch: Watch,
    after: Callable[[SearchResult], None] = lambda _: None,
) -> SearchResult:
    """Search a space, and save what was found in ``folder``.

    Args:
        request: what to do, with nothing left open.
        folder: gets ``search.json``, Optuna's database, and a folder for each trial.
        target: the device, when the caller has found it already.
        resume: go on with what an earlier run of the same request has begun there.
        replace: begin anew where one has.
        watch: told what goes on.
        after: given the result so far after each trial.

    Raises:
        UsageError: the request does not fit together, or ``folder`` holds another search.
        HwbenchError: the model, the device or every trial failed.
        Interrupted: Ctrl-C; finished trials are kept, and ``resume`` goes on.
    """
    target = target or find_target(request.device)
    _check(request, target)
    _prepare(request, folder, resume=resume, replace=replace)
    scratch = Path(tempfile.mkdtemp(prefix="hwbench-search-"))
    try:
        return _Search(request, folder, target, scratch, watch, after).run()
    except (KeyboardInterrupt, Interrupted) as error:
        hint = f"finished trials are in {folder}: the same command with --resume goes on"
        raise Interrupted("stopped by Ctrl-C", hint=hint) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check(request: SearchRequest, target: Target) -> None:
    """Refuse what cannot come out well, before anything is begun."""
    spec = parse_spec(request.model)
    wanted = needed(request.objectives, request.constraints)
    sections = {one.name.partition(".")[0] for one in request.space.parameters}
    if "model" in sections:
        with_arguments(request.model, {one.name.removeprefix("model."): 0 for one in request.space.section("model")})
    if spec.kind in {"bundle", "engine"}:
        raise UsageError(f"'{request.model}' is built already", hint="give the network it was built from")
    if {"accuracy", DROP} & wanted and isinstance(request.verify, Missing):
        raise UsageError("accuracy is judged on data", hint="give --verify-data, with labels")
    if DROP in wanted and request.reference is None and sections & {"model", "training"}:
        raise UsageError("a drop of accuracy from what? The network itself is searched", hint="give --reference MODEL")
    if sections & {"training", "recovery"} and request.data is None:
        raise UsageError("there are no data to train on", hint="give --data")
    if request.rank and request.data is None:
        raise UsageError("candidates are ranked on inputs", hint="give --data; labels are not needed for that")
    if request.rank:
        architectures(request.space, 1, request.seed)  # refuses a space that has none
    if "energy" in wanted:
        require(request.timing.meter, target.device)
    if request.sampler != "grid" and request.trials is None and request.time_budget_s is None:
        raise UsageError("nothing says when to stop", hint="give --trials or --time-budget")


def _prepare(request: SearchRequest, folder: Path, *, resume: bool, replace: bool) -> None:
    """See that ``folder`` can take the search."""
    path = folder / REQUEST
    if path.exists() and not (resume or replace):
        raise UsageError(f"'{folder}' holds a search already", hint="--resume goes on with it, --force begins anew")
    if resume and not replace:
        if not path.exists():
            raise UsageError(f"there is no search in '{folder}' to go on with", hint="leave --resume out")
        earlier = decode(read_bytes(path), SearchRequest, what=str(path))
        differs = [name for name in request.__struct_fields__ if getattr(earlier, name) != getattr(request, name)]
        if differs := [name for name in differs if name not in {"trials", "time_budget_s", "finals_s", "timeout_s"}]:
            raise UsageError(
                f"the search in '{folder}' was asked for otherwise: {', '.join(differs)}",
                hint="more --trials or another --time-budget may be given, nothing else",
            )
    elif replace:
        for name in (SEARCH, PAGE, REQUEST, DATABASE, _CANDIDATES, _REFERENCE):
            (folder / name).unlink(missing_ok=True)
        for name in (TRIALS, CONTROLS, FINALS, HUBS):
            shutil.rmtree(folder / name, ignore_errors=True)
    write_record(path, request)


class _Search:
    """One run of :func:`search`."""

    def __init__(
        self,
        request: SearchRequest,
        folder: Path,
        target: Target,
        scratch: Path,
        watch: Watch,
        after: Callable[[SearchResult], None],
    ) -> None:
        self.request, self.folder, self.target = request, folder.resolve(), target
        self.watch, self.after = watch, after
        self.scratch = scratch
        self.intake = Intake(
            folder=scratch, watch=watch, threads=request.threads, timeout_s=request.timeout_s, seed=request.seed
        )
        self.clock = MonotonicClock()
        self.started = self.clock.now_ns()
        self.finals: Finals | Missing = _NOT_YET
        self.created_at = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def run(self) -> SearchResult:
        request = self.request
        self.reference = self._reference()
        self.candidates = self._candidates()
        kept = [one for one in self.candidates if one.kept]
        space = narrowed(request.space, kept) if request.rank else request.space
        self.bench = Bench(
            request=request,
            space=space,
            chosen={named(one.params): one.params for one in kept},
            folder=self.folder,
            target=self.target,
            reference=self.reference,
            watch=self.watch,
        )
        self.ledger = Ledger(
            self.folder,
            space,
            request.objectives,
            sampler=request.sampler,
            constrained=bool(request.constraints),
            limit=request.trials,
            seed=request.seed,
        )
        try:
            why = run_loop(
                self.ledger, self._attempt, trials=request.trials, out_of_time=self._out_of_time, after=self._after
            )
            self.finals = self._contest()
            return self._save(why, importances(self.ledger.study, request.objectives))
        finally:
            self.ledger.close()

    def _contest(self) -> Finals | Missing:
        """Time the best points again; where one of them fails now, the search ends without, and all else is kept."""
        try:
            return contest(self.bench, self._finalists(), self.intake)
        except Interrupted:
            raise
        except HwbenchError as error:
            return Missing(code="failed", why=f"the best points could not be timed again: {error.message}",
                           cure=error.hint)  # fmt: skip

    def _attempt(self, asked: Asked) -> Trial:
        said = ", ".join(f"{name}={value}" for name, value in asked.params.items())
        self.watch(f"trial {asked.number}: {said or 'the only point'}", None)
        return self.bench.attempt(asked, self.ledger.trials)

    def _out_of_time(self) -> bool:
        budget = self.request.time_budget_s
        return budget is not None and (self.clock.now_ns() - self.started) / 1e9 >= budget

    def _after(self, trial: Trial) -> None:
        measured = sum(one.validity is not None and one.same_as is None for one in self.ledger.trials)
        every = self.request.control_every
        due = every and trial.validity is not None and trial.same_as is None and measured > 1
        first = self._first()
        if due and first is not None and (measured - 1) % every == 0:
            time_control(self.bench, first, trial)
        self._drop_bundles()
        self.after(self._save("it is still going on", ()))

    # What trials are held against

    def _reference(self) -> Reference | Missing:
        """Return the accuracy that drops are counted from, found once."""
        request, path = self.request, self.folder / _REFERENCE
        if DROP not in needed(request.objectives, request.constraints):
            return Missing(code="not_needed", why="no constraint is about a drop of accuracy")
        if path.exists():
            return decode(read_bytes(path), Reference, what=str(path))
        assert isinstance(request.verify, VerifyRequest)
        model = request.reference or request.model
        wanted = msgspec.structs.replace(request.verify, model=model, engines=("onnxruntime",), shapes=request.shapes)
        target = self.target if self.target.device.kind == "cpu" else find_target("cpu")  # where that engine runs
        score = score_of(verify(wanted, target=target, watch=self.watch).rows[0])
        found = Reference(model=model, score=score)
        write_record(path, found)
        return found

    def _first(self) -> Trial | None:
        return next((one for one in self.ledger.trials if one.state == "complete"), None)

    def _finalists(self) -> list[Trial]:
        """Return the best points, at most eight, the fastest first."""
        numbers = pareto(self.ledger.trials, self.request.objectives)
        found = [one for one in self.ledger.trials if one.number in numbers and one.value("latency") is not None]
        return sorted(found, key=lambda one: one.value("latency") or 0.0)[:_MOST_FINALISTS]

    def _drop_bundles(self) -> None:
        """Keep the bundles of the best points and of the first alone: they may be large."""
        trials, wanted = self.ledger.trials, self.request.objectives
        first, top = self._first(), best(trials, wanted)
        kept = {*pareto(trials, wanted), *(() if top is None else (top,)), *(() if first is None else (first.number,))}
        for trial in trials:
            if trial.number not in kept:
                for name in (BUNDLE, TRAINED, NETWORK):
                    shutil.rmtree(self.folder / trial.folder / name, ignore_errors=True)

    def _candidates(self) -> tuple[Candidate, ...]:
        request, path = self.request, self.folder / _CANDIDATES
        if not request.rank:
            return ()
        if path.exists():
            return decode(read_bytes(path), Candidates, what=str(path)).candidates
        found = rank_candidates(request, self.target, self.intake)
        write_record(path, Candidates(candidates=found))
        return found

    def _save(self, why: str, decided: tuple[Importance, ...]) -> SearchResult:
        trials, wanted = tuple(self.ledger.trials), self.request.objectives
        result = SearchResult(
            schema_version=SEARCH_SCHEMA,
            created_at=self.created_at,
            request=self.request,
            environment=environment.capture(),
            device=self.target.device,
            reference=self.reference,
            candidates=self.candidates,
            rank_check=rank_check(self.candidates, trials) if self.candidates else _UNRANKED,
            trials=tuple(self._as_it_lies(one) for one in trials),
            pareto=pareto(trials, wanted),
            best=best(trials, wanted),
            controls=controls_in(self.folder),
            finals=self.finals,
            importances=decided,
            stopped=why,
        )
        write_record(self.folder / SEARCH, result)
        return result

    def _as_it_lies(self, trial: Trial) -> Trial:
        """Return a trial without the bundle that was not worth keeping."""
        there = trial.bundle is None or (self.folder / trial.folder / trial.bundle).exists()
        return trial if there else msgspec.structs.replace(trial, bundle=None)
