"""One point of a search, tried: what it says is trained, compressed, built, judged on data and timed.

What does not work becomes a failed trial with its reason; only Ctrl-C and a disk that cannot be written end the search.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hwbench.build.plan import plan_for
from hwbench.build_pipeline import build
from hwbench.compare.metrics import peak_bytes
from hwbench.compress.layout import MODEL, WORK
from hwbench.compress.order import with_repairs
from hwbench.compression_pipeline import compress
from hwbench.errors import EngineError, HwbenchError, Interrupted, InvalidMeasurement, StorageError
from hwbench.graph.spec import parse_spec, with_arguments
from hwbench.intake import Intake, Watch
from hwbench.inventory import Target
from hwbench.pipeline import Watcher, profile
from hwbench.records.base import Missing
from hwbench.records.build import Bundled, BundleRequest
from hwbench.records.compression import CompressRequest, Step
from hwbench.records.measurement import LatencySummary, Measurement, ProfileRequest, StopRule
from hwbench.records.model import ModelFiles
from hwbench.records.search import CurvePoint, Quantity, Reference, Scalar, SearchRequest, SearchSpace, Trial
from hwbench.records.verification import Score, Verified, VerifyRequest
from hwbench.search.candidates import CHOSEN
from hwbench.search.goals import DROP, needed, surely_broken, violations
from hwbench.search.ledger import Asked
from hwbench.search.points import Point, point_of
from hwbench.search.pruning import CurveJudge, Pruned, epochs_in, score_after
from hwbench.train.progress import EPOCHS
from hwbench.units import MonotonicClock
from hwbench.verification_pipeline import verify

HUBS = "hubs"  # networks as they came in
_WHOLE = "whole"  # marks one that is there to its last byte
BUNDLE, TRAINED, NETWORK, TIMING, EARLY = "bundle", "trained", "network", "timing", "early"
_TIMED = {"latency", "latency-per-sample", "energy", "memory"}
_EARLY_COUNT = 30  # inferences of the first look at a network that is not trained yet


@dataclass
class _State:
    """What is known of a point so far, for the record of one that ends early."""

    quantities: list[Quantity] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    bundle: Bundled | None = None
    parameters: int | None = None
    measurement: Measurement | None = None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where points are tried.

    Attributes:
        request: of the search.
        space: what is searched: that of the request, or what ranking has left of it.
        chosen: the arguments of the ranked architectures, by name.
        folder: of the search.
        target: the device.
        reference: accuracy that a drop is counted from.
        watch: told what goes on.
    """

    request: SearchRequest
    space: SearchSpace
    chosen: dict[str, dict[str, Scalar]]
    folder: Path
    target: Target
    reference: Reference | Missing
    watch: Watch

    def attempt(self, asked: Asked, earlier: list[Trial]) -> Trial:
        """Try a point, and return its record.

        Raises:
            Interrupted: Ctrl-C.
            StorageError: the disk.
        """
        clock, state = MonotonicClock(), _State()
        started = clock.now_ns()
        where = self.folder / asked.folder
        shutil.rmtree(where, ignore_errors=True)
        reason: Missing | None = None
        ended = "complete"
        try:
            self._tried(asked, where, state, CurveJudge(self.request.pruner, earlier))
        except (Interrupted, StorageError):
            raise
        except Pruned as error:
            ended, reason = "pruned", Missing(code="pruned", why=str(error))
        except HwbenchError as error:
            ended, reason = "failed", Missing(code=type(error).__name__, why=error.message, cure=error.hint)
        log = next((path for path in _logs(where)), None) if ended == "failed" else None
        self._tidy(where)
        return Trial(
            number=asked.number,
            state="complete" if ended == "complete" else "pruned" if ended == "pruned" else "failed",
            params=asked.params,
            quantities=tuple(state.quantities),
            violations=violations(self.request.constraints, state.quantities) if ended != "failed" else {},
            reason=reason,
            curve=tuple(state.curve),
            artefact_sha256=None if state.bundle is None else state.bundle.engine.artefact.sha256,
            parameters=state.parameters,
            validity=None if state.measurement is None else state.measurement.validity.status,
            folder=asked.folder,
            bundle=None if state.bundle is None else f"{BUNDLE}/{state.bundle.path}",
            log=None if log is None else str(log.relative_to(where)),
            started_at=asked.started_at,
            took_s=(clock.now_ns() - started) / 1e9,
        )

    def _tried(self, asked: Asked, where: Path, state: _State, judge: CurveJudge) -> None:
        point = point_of(self.space, asked.params, self.request.seed)
        model = with_arguments(self.request.model, self._arguments(point))
        if point.training is not None and not point.steps:
            self._look_early(point, self._imported(model, point.batch_size), where, state)
        try:
            model = self._made(point, model, where, judge)
        finally:
            state.curve = judge.curve
        state.bundle = self._built(point, model, where / BUNDLE, state)
        path = where / BUNDLE / state.bundle.path
        wanted = needed(self.request.objectives, self.request.constraints)
        state.quantities = [Quantity(metric="size", value=float(state.bundle.engine.size_bytes))]
        if isinstance(self.request.verify, VerifyRequest):
            state.quantities += self._accuracy(point, path, self.request.verify)
        if wanted & _TIMED:
            state.measurement = self.timed(path, where / TIMING, point.threads, self.request.timing)
            if state.measurement.validity.status == "invalid":
                found = "; ".join(each.why for each in state.measurement.validity.findings)
                raise InvalidMeasurement(f"its timing must not be believed: {found}")
            state.quantities += list(_timing(state.measurement, point.batch_size, "energy" in wanted))
        if lacking := wanted - {each.metric for each in state.quantities}:
            raise EngineError(f"nothing was measured of {', '.join(sorted(lacking))}")

    def _imported(self, text: str, batch_size: int) -> str:
        """Return the ONNX graph of a network, exported once for all points: torch takes seconds for that."""
        if parse_spec(text).kind == "onnx":
            return text
        name = hashlib.sha256(f"{text} {batch_size}".encode()).hexdigest()[:12]
        folder = self.folder / HUBS / name
        graph = folder / ModelFiles(folder="").hub
        if not (folder / _WHOLE).exists():
            self.watch(f"reading '{text}'", None)
            intake = Intake(
                folder=self.folder / HUBS,
                watch=self.watch,
                threads=self.request.threads,
                timeout_s=self.request.timeout_s,
                seed=self.request.seed,
            )
            found = intake.model(text, name, batch_size=batch_size, shapes=self.request.shapes)
            if found.files.no_graph is not None:
                raise EngineError(found.files.no_graph.why, hint=found.files.no_graph.cure)
            (folder / _WHOLE).touch()
        return str(graph)

    def _arguments(self, point: Point) -> dict[str, Scalar]:
        name = point.arguments.get(CHOSEN.removeprefix("model."))
        return point.arguments if name is None else self.chosen[str(name)]

    def _look_early(self, point: Point, model: str, where: Path, state: _State) -> None:
        """Time the network before it is trained; its weights do not matter for that.

        Raises:
            Pruned: it breaks a constraint with the whole of its interval.
        """
        bounds = [one for one in self.request.constraints if one.quantity in {"latency", "latency-per-sample", "size"}]
        if not bounds:
            return
        bundle = self._built(point, model, where / EARLY, state)
        found = [Quantity(metric="size", value=float(bundle.engine.size_bytes))]
        if any(one.quantity != "size" for one in bounds):
            count = StopRule(name="count", settings={"count": _EARLY_COUNT})
            timing = msgspec.structs.replace(self.request.timing, stop=count)
            measured = self.timed(where / EARLY / bundle.path, where / EARLY / TIMING, point.threads, timing)
            found += list(_timing(measured, point.batch_size, energy=False))
        for quantity in found:
            broken = surely_broken(bounds, quantity)
            if broken is not None:
                state.quantities = found
                msg = f"before it was trained: {quantity.metric} is {quantity.value:.4g} and '{broken.text}' is wanted"
                raise Pruned(msg)

    def _made(self, point: Point, model: str, where: Path, judge: CurveJudge) -> str:
        """Train and compress a network, and return where it lies."""
        if point.as_it_is:
            return self._imported(model, point.batch_size)
        if point.training is not None:
            model = self._carried_out((point.training,), point, model, where / TRAINED, judge)
        if not point.steps:
            return model
        steps = point.steps if self.request.data is None else with_repairs(point.steps, "default")
        listener = judge if point.training is None else None
        return self._carried_out(steps, point, model, where / NETWORK, listener)

    def _carried_out(
        self, steps: tuple[Step, ...], point: Point, model: str, folder: Path, judge: CurveJudge | None
    ) -> str:
        request = self.request
        job = CompressRequest(
            model=model,
            steps=steps,
            data=request.data,
            preprocess=request.preprocess,
            samples=request.samples,
            batch_size=point.training_batch_size,
            shapes=request.shapes,
            replace=True,
            device=request.device,
            threads=request.threads,
            seed=request.seed,
            timeout_s=request.timeout_s,
        )
        watch = self.watch if judge is None else _Listening(self.watch, _epochs_of(steps, folder), judge)
        compress(job, folder, target=self.target, watch=watch)
        return str(folder / MODEL)

    def _built(self, point: Point, model: str, folder: Path, state: _State) -> Bundled:
        request = self.request
        wanted = BundleRequest(
            model=model,
            device=request.device,
            engines=(point.engine,),
            plans=(plan_for(point.precision),),
            keep_float=(),
            batch_size=point.batch_size,
            shapes=request.shapes,
            data=request.data,
            preprocess=request.preprocess,
            samples=point.samples,
            calibration=point.calibration,
            verify=Missing(code="not_asked", why="it is judged afterwards"),
            measure=Missing(code="not_asked", why="it is timed afterwards"),
            one_file=False,
            replace=True,
            licence=None,
            preprocessing_note=None,
            postprocessing_note=None,
            threads=point.threads,
            seed=request.seed,
            timeout_s=request.timeout_s,
        )
        found = build(wanted, folder, target=self.target, watch=self.watch)
        state.parameters = found.model.parameters
        return found.bundles[0]

    def _accuracy(self, point: Point, bundle: Path, wanted: VerifyRequest) -> list[Quantity]:
        request = msgspec.structs.replace(wanted, model=str(bundle), threads=point.threads)
        row = verify(request, target=self.target, watch=self.watch).rows[0]
        score = score_of(row)
        quantity = Quantity(metric="accuracy", value=score.value, low=score.low, high=score.high)
        if isinstance(self.reference, Missing):
            return [quantity]
        return [quantity, Quantity(metric=DROP, value=self.reference.score.value - score.value)]

    def timed(self, bundle: Path, folder: Path, threads: int, timing: ProfileRequest) -> Measurement:
        """Time a bundle in a process of its own; see :func:`timed`."""
        request = msgspec.structs.replace(timing, model=str(bundle), threads=threads)
        return timed(request, folder, self.target, self.watch)

    def _tidy(self, where: Path) -> None:
        """Take away what a trial no longer needs: its training's work, and the build of before that."""
        shutil.rmtree(where / EARLY, ignore_errors=True)
        for made in (TRAINED, NETWORK):
            shutil.rmtree(where / made / WORK, ignore_errors=True)


def timed(request: ProfileRequest, folder: Path, target: Target, watch: Watch) -> Measurement:
    """Time one engine, in a process of its own; its records and log go into ``folder``.

    Raises:
        EngineError: it did not run.
    """
    shutil.rmtree(folder, ignore_errors=True)
    result = profile(request, folder, target=target, watcher=_Quiet(watch, Path(request.model).name))
    shutil.rmtree(folder / "model", ignore_errors=True)  # a copy of what is there already
    return result.measurements[0]


def score_of(row: Verified) -> Score:
    """Return the first metric of a verification.

    Raises:
        EngineError: there is none, or more of it is worse.
    """
    if not row.scores:
        raise EngineError("the data to judge on have no labels, so there is no accuracy", hint="give labels")
    if not row.scores[0].higher_is_better:
        raise EngineError(
            f"'{row.scores[0].name}' is no accuracy: less of it is better", hint="--metric, or no accuracy"
        )
    return row.scores[0]


def _timing(measured: Measurement, batch: int, energy: bool) -> Iterator[Quantity]:
    latency = measured.latency
    if not isinstance(latency, LatencySummary):
        raise EngineError(f"no latency: {latency}")
    ends = (latency.median_s, latency.median_low_s, latency.median_high_s)
    for metric, share in (("latency", 1), ("latency-per-sample", batch)):
        value, low, high = (end / share for end in ends)
        yield Quantity(metric=metric, value=value, low=low, high=high)
    peak = peak_bytes(measured)
    if not isinstance(peak, Missing):
        yield Quantity(metric="memory", value=float(peak))
    joules = measured.energy_per_inference_j
    if not isinstance(joules, Missing):
        yield Quantity(metric="energy", value=joules)
    elif energy:
        raise EngineError(f"no energy: {joules.why}", hint=joules.cure)


def _epochs_of(steps: tuple[Step, ...], folder: Path) -> Path:
    """Return where the first training of a recipe notes its epochs."""
    number = next((index for index, step in enumerate(steps, 1) if step.method == "finetune"), 0)
    return folder / WORK / f"step-{number}" / EPOCHS


class _Listening:
    """Passes on what a training says, and tells the judge of every epoch."""

    def __init__(self, watch: Watch, epochs: Path, judge: CurveJudge) -> None:
        self.watch, self.epochs, self.judge = watch, epochs, judge

    def __call__(self, what: str, fraction: float | None) -> None:
        self.watch(what, fraction)
        for epoch in epochs_in(self.epochs):
            self.judge.hear(epoch.epoch, score_after(epoch))


class _Quiet(Watcher):
    """Says that a bundle is timed, and how far that is."""

    def __init__(self, watch: Watch, name: str) -> None:
        self.watch, self.name = watch, name

    def phase(self, label: str, phase: str, fraction: float | None) -> None:  # noqa: ARG002 - of the watcher
        self.watch(f"timing {self.name}", fraction)


def _logs(where: Path) -> Iterator[Path]:
    """Yield the logs that a trial has left, the latest first."""
    yield from sorted(where.rglob("log.txt"), key=lambda path: path.stat().st_mtime, reverse=True)
