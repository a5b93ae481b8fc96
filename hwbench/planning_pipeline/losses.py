"""What choices lose, one by one and as whole designs: asked of a child that holds the network and its statistics."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

import msgspec

from hwbench.children import thread_limits
from hwbench.compression_pipeline import for_training
from hwbench.dialogue import Dialogue
from hwbench.errors import ModelError, StorageError
from hwbench.files import decode, read_bytes, write_record
from hwbench.intake import Intake
from hwbench.planning_pipeline.exact import Base
from hwbench.records.base import Missing, Record
from hwbench.records.data import DataResult
from hwbench.records.plan import Joint, PlanRequest
from hwbench.records.planning import Design, Sensitivity, Space
from hwbench.records.quantization import Calibration
from hwbench.records.sensitivity import SensitivityJob, SensitivitySettings, StitchAnswer, StitchQuestion
from hwbench.sensitivity.spread import spread_pairs
from hwbench.units import Clock, MonotonicClock

_BATCH, _SMALL_BATCH = 32, 8  # samples that are run together; the network's own where it cannot have another
_LARGE = 200_000  # numbers in the largest activation of a sample, above which the batch is small
_FEW, _ENOUGH = (64, 256), (128, 1024)  # samples that a whole design is run on: for its divergence, for its drop
_FEW_S, _ENOUGH_S = 1.5, 5.0  # what that may take, where the fewest do not take longer
_STATE = "losses"  # what was measured, kept between runs
_COUNTS = "samples.json"
_FORMAT = 2  # of what is kept; another one is not read
_TENSORRT = ("tensorrt", "tensorrt-rtx")
_SIMULATED = ("onnxruntime", "openvino", "litert")


class Counts(Record, frozen=True, kw_only=True):
    """On how many samples whole designs are run: for their divergence, and for their drop."""

    few: int
    enough: int


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
        learn: DataResult,
        calibration: Calibration | None,
        engines: Collection[str] = (),
    ) -> None:
        """Start the child.

        Args:
            request: what is wanted.
            intake: runs children.
            base: the network.
            space: what can be chosen.
            folder: what was measured is kept in it.
            judge: samples that losses are measured on.
            learn: samples that weights are refitted to.
            calibration: ranges of activations.
            engines: those that are planned for, which say whose arithmetic is followed.
        """
        runtime = simulated_runtime(engines)
        state = folder / _STATE / _identity(request, space, (judge, learn), calibration, runtime)
        numbers = max(each.elements_out for each in space.clusters) / (request.batch_size or 1)
        batch = _SMALL_BATCH if numbers > _LARGE else _BATCH
        imported, other, _ = for_training(intake, base.source, batch, request.shapes, "base-of-many")
        job = SensitivityJob(
            imported=imported,
            other_batch=other,
            space=space,
            calibration=calibration,
            data_folder=judge.folder,
            data_sha256=judge.facts.sha256,
            learn_folder=learn.folder,
            learn_sha256=learn.facts.sha256,
            state_folder=str(state.resolve()),
            settings=SensitivitySettings(runtime=runtime, criterion=request.criterion, budget_s=request.losses_s),
            threads=request.threads,
            seed=request.seed,
            pairs=request.pairs,
            resume=True,
        )
        state.mkdir(parents=True, exist_ok=True)
        where = intake.folder / "losses"
        where.mkdir(parents=True, exist_ok=True)
        self._kept = state / _COUNTS
        self._clock: Clock = MonotonicClock()
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
        self._counts = self._counted()
        return self

    def _counted(self) -> Counts:
        """Return on how many samples whole designs are run; as an earlier run had it, whose answers are known."""
        if self._kept.exists():
            with contextlib.suppress(StorageError):
                return decode(read_bytes(self._kept), Counts, what=str(self._kept))
        begun_ns = self._clock.now_ns()
        self._before(_FEW[0])
        each_s = (self._clock.now_ns() - begun_ns) / 1e9 / _FEW[0]
        few, enough = (
            min(most, max(least, int(limit_s / each_s)))
            for (least, most), limit_s in ((_FEW, _FEW_S), (_ENOUGH, _ENOUGH_S))
        )
        write_record(self._kept, Counts(few=few, enough=enough))
        return Counts(few=few, enough=enough)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def joint(self, design: Design, rough: bool) -> Joint | Missing:
        """Run a whole design, on few samples where only its divergence is wanted; Missing: it does not work at all."""
        samples = self._counts.few if rough else self._counts.enough
        answer, before = self._ask(design, samples), self._before(samples)
        if answer.broken is not None:
            return answer.broken
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


def simulated_runtime(engines: Collection[str]) -> str:
    """Return whose arithmetic losses are measured in, for plans of these engines.

    TensorRT's where it or TensorRT for RTX is planned for; otherwise that of the one runtime whose arithmetic is known,
    and ONNX Runtime's where there are several or none: losses are measured once, for all.
    """
    if any(name in _TENSORRT for name in engines):
        return "tensorrt"
    known = [name for name in dict.fromkeys(engines) if name in _SIMULATED]
    return known[0] if len(known) == 1 else SensitivitySettings().runtime


def _identity(
    request: PlanRequest, space: Space, data: tuple[DataResult, ...], calibration: Calibration | None, runtime: str
) -> str:
    """Return what tells apart measurements that must not be mixed: of another network, data, criterion or runtime."""
    ranges = b"" if calibration is None else msgspec.json.encode(calibration.tensors, order="sorted")
    parts = " ".join(each.facts.sha256 for each in data)
    told = (
        f"{_FORMAT} {space.hub_sha256} {parts} {request.criterion} {request.seed} {runtime} {request.pairs} ".encode()
    )
    return hashlib.sha256(told + ranges).hexdigest()[:16]
