"""The trials of a search: in Optuna's database, and one record a trial beside it.

A trial is written down (``trials/0007/trial.json``) before Optuna is told, so whatever ends the process, resuming finds
either the record, which Optuna is then told, or none, and the trial is marked failed and its point tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hwbench.errors import StorageError, UsageError
from hwbench.files import decode, read_bytes, write_record
from hwbench.records.base import Missing
from hwbench.records.search import Objective, Sampler, SearchSpace, Trial
from hwbench.search.points import Values, count, key, points, suggest, whole
from hwbench.search.samplers import VIOLATIONS, load_optuna, make_sampler, own_constraints, seed_of

if TYPE_CHECKING:
    import optuna

DATABASE = "optuna.db"
TRIALS = "trials"
RECORD = "trial.json"
INTERRUPTED = "interrupted"  # code of a Missing: the process ended while the trial ran
_STUDY = "hwbench"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A point to try."""

    number: int
    params: Values
    started_at: str
    handle: optuna.trial.Trial

    @property
    def folder(self) -> str:
        """Where its records and logs go, relative to the search's folder."""
        return f"{TRIALS}/{self.number:04d}"


class Ledger:
    """Opens the trials of a search in ``folder``, those of an earlier run where there are some.

    Args:
        folder: of the search.
        space: what is searched.
        objectives: what is told to Optuna of each trial, in this order.
        sampler: who proposes.
        constrained: whether trials have constraints.
        limit: how many trials there will be, as far as that is known.
        seed: of the proposals.

    Raises:
        EngineError: Optuna is not installed.
        StorageError: a record is missing or the database cannot be used.
        UsageError: ``grid``, and the space is not finite.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        objectives: tuple[Objective, ...],
        *,
        sampler: Sampler,
        constrained: bool,
        limit: int | None,
        seed: int,
    ) -> None:
        self.folder, self.space, self.objectives = folder, space, objectives
        self.sampler, self.constrained, self.limit, self.seed = sampler, constrained, limit, seed
        self.optuna = load_optuna()
        self.states = self.optuna.trial.TrialState
        self.count = count(space)
        self.grid = self._grid() if sampler == "grid" else []
        self.study = self._open()
        self.trials: list[Trial] = []
        found = self.study.get_trials(deepcopy=False)
        for frozen in found:
            self._take_up(frozen)
        self.retry = self._cut_off(found)

    def _grid(self) -> list[Values]:
        """Return every point, in a random order: what drifts with time must not look like what a parameter does."""
        found = list(points(self.space))
        order = np.random.default_rng(self.seed).permutation(len(found))
        return [found[index] for index in order]

    def _open(self) -> optuna.Study:
        from sqlalchemy.exc import SQLAlchemyError

        path = self.folder / DATABASE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            storage = self.optuna.storages.RDBStorage(
                f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}}
            )
            study: optuna.Study = self.optuna.create_study(
                storage=storage,
                study_name=_STUDY,
                directions=[one.direction for one in self.objectives],
                sampler=self._sampler(0),
                load_if_exists=True,
            )
        except (OSError, SQLAlchemyError, self.optuna.exceptions.StorageInternalError) as error:
            hint = "it may be damaged; the trials' own records lie beside it. --force begins anew"
            raise StorageError(f"cannot use {path}: {error}", hint=hint) from error
        self.storage = storage
        return study

    def close(self) -> None:
        """Let go of the database."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return make_sampler(
            self.sampler, seed_of(self.seed, number), constrained=self.constrained, trials=self.limit or self.count
        )

    def _take_up(self, frozen: optuna.trial.FrozenTrial) -> None:
        """Read a trial of an earlier run; tell Optuna what became of it where that was not done."""
        path = self.folder / TRIALS / f"{frozen.number:04d}" / RECORD
        if path.exists():
            trial = decode(read_bytes(path), Trial, what=str(path))
            self.trials.append(trial)
            if not frozen.state.is_finished():
                self._tell(self.optuna.trial.Trial(self.study, frozen._trial_id), trial)
            return
        if frozen.state.is_finished():
            raise StorageError(f"{path} is missing", hint="begin a search anew in another folder")
        if frozen.state == self.states.WAITING:
            return
        trial = Trial(
            number=frozen.number,
            state="failed",
            params=dict(frozen.params),
            reason=Missing(code=INTERRUPTED, why="the search was stopped while it ran; its point was tried again"),
            folder=f"{TRIALS}/{frozen.number:04d}",
            started_at=_iso(frozen.datetime_start),
            took_s=0.0,
        )
        self._keep(self.optuna.trial.Trial(self.study, frozen._trial_id), trial)

    def _cut_off(self, found: list[optuna.trial.FrozenTrial]) -> list[Values]:
        """Return the points that a kill has cut off, and that nobody has tried again or is about to."""
        waiting = {
            key(one.system_attrs["fixed_params"]) for one in found if one.state == self.states.WAITING
        }  # what Optuna keeps of an enqueued trial
        points = {key(one.params): one.params for one in self.trials if _was_cut_off(one)}
        left = set(points) - self.tried - waiting
        return [params for name, params in points.items() if name in left and _is_point(self.space, params)]

    @property
    def done(self) -> int:
        """How many trials there were, those left out that a kill has cut off."""
        return sum(not _was_cut_off(trial) for trial in self.trials)

    @property
    def tried(self) -> set[str]:
        """The points that have been tried."""
        return {key(trial.params) for trial in self.trials if not _was_cut_off(trial)}

    @property
    def exhausted(self) -> bool:
        """Whether no point of the space is left."""
        return self.count is not None and len(self.tried) >= self.count

    def ask(self) -> Asked:
        """Return the next point: one that was cut off, the next of the grid, or what the sampler proposes."""
        self.study.sampler = self._sampler(self.done)
        wanted = self.retry.pop(0) if self.retry else None
        if wanted is None and self.sampler == "grid":
            tried = self.tried
            wanted = next(point for point in self.grid if key(point) not in tried)
        if wanted is not None:
            self.study.enqueue_trial(wanted)
        handle = self.study.ask()
        params = suggest(self.space, handle)
        return Asked(number=handle.number, params=params, started_at=_iso(None), handle=handle)

    def twin(self, params: Values) -> Trial | None:
        """Return an earlier trial of the same point."""
        wanted = key(params)
        return next((one for one in self.trials if not _was_cut_off(one) and key(one.params) == wanted), None)

    def tell(self, asked: Asked, trial: Trial) -> None:
        """Keep what became of a point."""
        self._keep(asked.handle, trial)

    def _keep(self, handle: optuna.trial.Trial, trial: Trial) -> None:
        write_record(self.folder / trial.folder / RECORD, trial)
        self.trials.append(trial)
        self._tell(handle, trial)

    def _tell(self, handle: optuna.trial.Trial, trial: Trial) -> None:
        if self.constrained and trial.violations:
            if own_constraints():
                for name, value in trial.violations.items():
                    handle.set_constraint(name, value)
            else:
                handle.set_user_attr(VIOLATIONS, trial.violations)
        if trial.state != "complete":
            state = self.states.PRUNED if trial.state == "pruned" else self.states.FAIL
            self.study.tell(handle, state=state)
            return
        values = [trial.value(one.metric) for one in self.objectives]
        self.study.tell(handle, values=[value for value in values if value is not None])


def copy_of(twin: Trial, asked: Asked) -> Trial:
    """Return the trial of a point that was tried before: what was found then."""
    original = twin.number if twin.same_as is None else twin.same_as
    return msgspec.structs.replace(
        twin, number=asked.number, same_as=original, folder=asked.folder, started_at=asked.started_at, took_s=0.0
    )


def _was_cut_off(trial: Trial) -> bool:
    return trial.reason is not None and trial.reason.code == INTERRUPTED


def _is_point(space: SearchSpace, params: Values) -> bool:
    """Say whether the sampler had named all parameters before it was cut off."""
    try:
        whole(space, params)
    except (KeyError, UsageError):
        return False
    return True


def _iso(moment: datetime | None) -> str:
    when = datetime.now(timezone.utc) if moment is None else moment.astimezone(timezone.utc)
    return when.isoformat(timespec="seconds")
