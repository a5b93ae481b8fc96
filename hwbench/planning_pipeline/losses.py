"""What choices lose, one by one and as whole designs: asked of a child that holds the network and its statistics."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from types import TracebackType

import msgspec

from hwbench.children import thread_limits
from hwbench.compression_pipeline import for_training
from hwbench.dialogue import Dialogue
from hwbench.errors import ModelError
from hwbench.intake import Intake
from hwbench.planning_pipeline.exact import Base
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.plan import Joint, PlanRequest
from hwbench.records.planning import Design, Sensitivity, Space
from hwbench.records.quantization import Calibration
from hwbench.records.sensitivity import SensitivityJob, SensitivitySettings, StitchAnswer, StitchQuestion
from hwbench.sensitivity.spread import spread_pairs

_BATCH = 32  # of the samples that are run together; the network's own where it cannot have another
_FEW, _ENOUGH = 256, 1024  # samples that a whole design is run on: for its divergence, for its drop
_STATE = "losses"  # what was measured, kept between runs


class Losses:
    """Losses on samples. Use as a context manager: the child lives as long."""

    def __init__(
        self,
        request: PlanRequest,
        intake: Intake,
        base: Base,
        space: Space,
        folder: Path,
        judge: DataResult,
        calibration: Calibration | None,
    ) -> None:
        state = folder / _STATE / _identity(request, space, judge, calibration)
        imported, other, _ = for_training(intake, base.source, _BATCH, request.shapes, "base-of-many")
        job = SensitivityJob(
            imported=imported,
            other_batch=other,
            space=space,
            calibration=calibration,
            data_folder=judge.folder,
            data_sha256=judge.facts.sha256,
            state_folder=str(state.resolve()),
            settings=SensitivitySettings(criterion=request.criterion, budget_s=request.losses_s),
            threads=request.threads,
            seed=request.seed,
            resume=True,
        )
        state.mkdir(parents=True, exist_ok=True)
        where = intake.folder / "losses"
        where.mkdir(parents=True, exist_ok=True)
        self._stack = contextlib.ExitStack()
        self._child = Dialogue(
            "hwbench.sensitivity.worker",
            job,
            folder=where,
            what="measuring what choices lose",
            failure=ModelError,
            timeout_s=intake.timeout_s,
            env={**thread_limits(request.threads), "OMP_WAIT_POLICY": "passive"},
            on_event=lambda event: intake.watch(event.get("what", "measuring losses"), event.get("fraction")),
        )

    def __enter__(self) -> Losses:
        self._stack.enter_context(self._child)
        self.found = spread_pairs(self._child.hear(Sensitivity))
        self._originals: dict[int, StitchAnswer] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def joint(self, design: Design, rough: bool) -> Joint | Missing:
        """Run a whole design, on few samples where only its divergence is wanted; Missing: it puts out no numbers."""
        answer, before = self._ask(design, _FEW if rough else _ENOUGH), self._before(_FEW if rough else _ENOUGH)
        if isinstance(answer.agreement, Missing) and answer.agreement.code == "not_finite":
            return answer.agreement
        return Joint(
            divergence=answer.divergence,
            agreement=answer.agreement,
            accuracy=answer.accuracy,
            before=before.accuracy,
            n=answer.n,
        )

    def _before(self, samples: int) -> StitchAnswer:
        if samples not in self._originals:
            self._originals[samples] = self._ask(Design(), samples)
        return self._originals[samples]

    def _ask(self, design: Design, samples: int) -> StitchAnswer:
        return self._child.ask(StitchQuestion(design=design, samples=samples), StitchAnswer)


def _identity(request: PlanRequest, space: Space, judge: DataResult, calibration: Calibration | None) -> str:
    """Return what tells apart measurements that must not be mixed: another network, other data, another criterion."""
    ranges = b"" if calibration is None else msgspec.json.encode(calibration.tensors, order="sorted")
    told = f"{space.hub_sha256} {judge.facts.sha256} {request.criterion} {request.seed} ".encode()
    return hashlib.sha256(told + ranges).hexdigest()[:16]
