"""The story of ``hwbench compress``, beside the other pipelines; it uses that of verifying.

    bring the model in, at the batch of training -> bring the data in -> carry the steps out in a child
        -> judge before and after on data -> save

The steps run in a child that keeps its state after each, so that a run which was stopped goes on with ``resume``.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from hwbench.compress.layout import FILES, MADE, MODEL, WORK
from hwbench.compress.order import CUTTING, planned
from hwbench.devices import environment
from hwbench.errors import HwbenchError, Interrupted, ModelError, StorageError, UsageError
from hwbench.files import write_record
from hwbench.graph.spec import parse_spec
from hwbench.intake import Intake, Watch
from hwbench.inventory import Target, find_target
from hwbench.records.base import Missing
from hwbench.records.compression import (
    COMPRESSION_SCHEMA,
    Compressed,
    CompressionResult,
    CompressJob,
    CompressRequest,
    Judged,
    LearnedFrom,
)
from hwbench.records.data import DataResult
from hwbench.records.model import ImportResult
from hwbench.records.verification import Verification
from hwbench.units import MonotonicClock
from hwbench.verification_pipeline import verify

COMPRESSION = "compression.json"
PAGE = "compression.html"
_NO_DATA = Missing(code="no_data", why="there were no data to learn from", cure="--data")


def compress(
    request: CompressRequest, folder: Path, *, target: Target | None = None, watch: Watch
) -> CompressionResult:
    """Compress a model by the steps of a request, and save it with what was done in ``folder``.

    Raises:
        UsageError: a step does not fit the model or the data, or ``folder`` holds a result already.
        HwbenchError: the model, the data or a step failed.
        Interrupted: Ctrl-C; the steps that were finished are kept for ``resume``.
    """
    target = target or find_target(request.device)
    parse_spec(request.model)
    planned(request.steps)
    _prepare(request, folder)
    scratch = Path(tempfile.mkdtemp(prefix="hwbench-compress-"))
    try:
        return _Compress(request, folder, target, scratch, watch).run()
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted("stopped by Ctrl-C", hint=_what_is_kept(folder)) from None
    except HwbenchError:
        if not _anything_to_go_on_from(folder):
            _leave_as_it_was(folder)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _prepare(request: CompressRequest, folder: Path) -> None:
    """See that ``folder`` can take the result; what is in it stays until that is there."""
    there = [name for name in (COMPRESSION, *FILES) if (folder / name).exists()]
    given = Path(request.model).resolve()
    if given in {(folder / name).resolve() for name in FILES}:
        raise UsageError(f"'{folder}' is where the model itself lies", hint="give another folder with -o")
    if request.resume and COMPRESSION in there:
        raise UsageError(f"'{folder}' is finished: there is nothing to go on with", hint="--force makes it anew")
    if there and not request.replace:
        what = "a compressed model already" if COMPRESSION in there else f"{there[0]}, which would be replaced"
        raise UsageError(f"'{folder}' holds {what}", hint="--force replaces it; or give another folder")
    if (folder / WORK).exists() and not (request.replace or request.resume):
        hint = "--resume goes on, --force begins anew"
        raise UsageError(f"'{folder}' holds what an earlier run has begun", hint=hint)
    try:
        if not request.resume:
            shutil.rmtree(folder / WORK, ignore_errors=True)
        (folder / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror or error}") from error


def _what_is_kept(folder: Path) -> str:
    if (folder / COMPRESSION).exists() and not (folder / WORK).exists():
        return f"the network is in {folder}, and was not judged: `hwbench verify` does that"
    if _anything_to_go_on_from(folder):
        return "finished steps are kept: the same command with --resume"
    _leave_as_it_was(folder)
    return "nothing was finished"


def _leave_as_it_was(folder: Path) -> None:
    """Take away the work folder, and the folder itself where nothing else is in it."""
    shutil.rmtree(folder / WORK, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _anything_to_go_on_from(folder: Path) -> bool:
    work = folder / WORK
    return any(work.glob("state-[1-9]*")) or any(work.glob("step-*/training.pt"))


class _Compress:
    """One run of :func:`compress`."""

    def __init__(self, request: CompressRequest, folder: Path, target: Target, scratch: Path, watch: Watch) -> None:
        self.request = request
        self.folder = folder
        self.target = target
        self.watch = watch
        self.intake = Intake(
            folder=scratch, watch=watch, threads=request.threads, timeout_s=request.timeout_s, seed=request.seed
        )
        self.warnings: list[str] = []

    def run(self) -> CompressionResult:
        clock = MonotonicClock()
        started = clock.now_ns()
        imported, other = self._imported()
        if self.request.data is None and any(each.compressor.stage in CUTTING for each in planned(self.request.steps)):
            self.warnings.append("the network was not repaired after the cut: there were no data (--data)")
        self._look_at_verify_data(imported)
        data = self._data(imported)
        compressed = self._compressed(imported, other, data)
        result = CompressionResult(
            schema_version=COMPRESSION_SCHEMA,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            request=self.request,
            environment=environment.capture(),
            model=imported.model,
            learned_from=_NO_DATA if data is None else LearnedFrom(facts=data.facts),
            compressed=compressed,
            verification=Missing(code="not_asked", why="nobody asked for it", cure="--verify-data"),
            took_s=(clock.now_ns() - started) / 1e9,
            warnings=(*imported.model.warnings, *self.warnings, *compressed.warnings),
        )
        self._put_in_place(compressed, result)  # before it is judged: what was made is not lost
        if not isinstance(self.request.verify, Missing):
            result = msgspec.structs.replace(
                result, verification=Judged(found=self._verified(compressed)), took_s=(clock.now_ns() - started) / 1e9
            )
            write_record(self.folder / COMPRESSION, result)
        return result

    def _put_in_place(self, compressed: Compressed, result: CompressionResult) -> None:
        """Move the files to where the user wants them, in place of an earlier run's."""
        try:
            for name in (COMPRESSION, PAGE, *FILES):
                (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot replace what is in {self.folder}: {error.strerror or error}") from error
        _move(compressed, self.folder)
        write_record(self.folder / COMPRESSION, result)
        shutil.rmtree(self.folder / WORK, ignore_errors=True)

    def _imported(self) -> tuple[ImportResult, ImportResult | None]:
        request = self.request
        imported, other, warnings = for_training(self.intake, request.model, request.batch_size, request.shapes)
        self.warnings += warnings
        return imported, other

    def _data(self, imported: ImportResult) -> DataResult | None:
        request = self.request
        if request.data is None:
            return None
        return self.intake.data(
            request.data, imported.model, "data", limit=request.samples, preprocess=request.preprocess
        )

    def _look_at_verify_data(self, imported: ImportResult) -> None:
        """Read the first of the data that the result is judged on: what is wrong with them is said before the work."""
        wanted = self.request.verify
        if not isinstance(wanted, Missing):
            self.intake.data(wanted.data, imported.model, "verify-data", limit=1, preprocess=wanted.preprocess)

    def _compressed(self, imported: ImportResult, other: ImportResult | None, data: DataResult | None) -> Compressed:
        job = CompressJob(
            imported=imported,
            other_batch=other,
            request=self.request,
            data=None if data is None else data.facts,
            data_folder=None if data is None else data.folder,
            target=str(self.folder.resolve()),
        )
        what = f"compressing '{self.request.model}'"
        return _run(self.intake, job, "compress", what)

    def _verified(self, compressed: Compressed) -> Verification:
        wanted = self.request.verify
        assert not isinstance(wanted, Missing)
        reference = None if compressed.transferred else self.request.model
        request = msgspec.structs.replace(wanted, model=str(self.folder / MODEL), reference=reference)
        return verify(request, target=self.target, watch=self.watch)


def for_training(
    intake: Intake, model: str, batch_size: int, shapes: Mapping[str, tuple[int, ...]], where: str = "model"
) -> tuple[ImportResult, ImportResult | None, tuple[str, ...]]:
    """Bring a model in at the batch of training, and at its own, which tells what depends on the batch.

    Returns:
        The model, the same at another batch size where it can have one, and warnings.

    Raises:
        HwbenchError: it cannot be brought in, is built already, or has no graph.
    """
    natural = intake.model(model, where, shapes=shapes)
    if natural.model.artefact is not None:
        raise UsageError(f"'{model}' is a built engine", hint="compress the model it was built from")
    if natural.files.no_graph is not None:
        raise ModelError(natural.files.no_graph.why, hint=natural.files.no_graph.cure)
    own = natural.model.batch_size
    if isinstance(own, Missing):
        return natural, None, ()
    try:
        wanted = batch_size if own != batch_size else own + 1  # only to see what changes with it
        other = intake.model(model, f"{where}-of-another-batch", batch_size=wanted, shapes=shapes)
    except (UsageError, ModelError) as error:
        return natural, None, (f"statistics and training use batches of {own}: {error.message}",)
    return (natural, other, ()) if own == batch_size else (other, natural, ())


def carried_out(intake: Intake, job: CompressJob, where: str, what: str) -> Compressed:
    """Carry a job out in a child, and leave its files in ``job.target`` itself, with nothing to go on from.

    Raises:
        HwbenchError: a step failed.
        StorageError: the files cannot be moved.
    """
    done = _run(intake, job, where, what)
    folder = Path(job.target)
    _move(done, folder)
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return done


def _run(intake: Intake, job: CompressJob, where: str, what: str) -> Compressed:
    passive = {"OMP_WAIT_POLICY": "passive"}  # spinning threads would take the cores from each other's work
    return intake.run("hwbench.compress.worker", job, Compressed, where, what, ModelError, env=passive)


def _move(done: Compressed, folder: Path) -> None:
    made = folder / WORK / MADE
    try:
        for name in done.files:
            (made / name).replace(folder / name)
    except OSError as error:
        raise StorageError(f"cannot move the result from {made}: {error.strerror or error}") from error
