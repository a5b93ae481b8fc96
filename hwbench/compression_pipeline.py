"""The story of ``hwbench compress``, beside the other pipelines; it uses that of verifying.

    bring the model in, at the batch of training -> bring the data in -> carry the steps out in a child
        -> judge before and after on data -> save

The steps run in a child that keeps its state after each, so that a run which was stopped goes on with ``resume``.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from hwbench.compress.order import planned
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
)
from hwbench.records.data import DataResult
from hwbench.records.model import ImportResult
from hwbench.records.verification import Verification
from hwbench.units import MonotonicClock
from hwbench.verification_pipeline import verify

COMPRESSION = "compression.json"
PAGE = "compression.html"
MODEL = "model.onnx"
WORK = "work"
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
        raise Interrupted("stopped by Ctrl-C", hint="finished steps are kept: the same command with --resume") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _prepare(request: CompressRequest, folder: Path) -> None:
    """Make room in ``folder``, touching nothing that is not ours."""
    done, begun = (folder / COMPRESSION).exists(), (folder / WORK).exists()
    if (done or begun) and not (request.replace or request.resume):
        what = "holds a compressed model already" if done else "holds what an earlier run has begun"
        raise UsageError(f"'{folder}' {what}", hint="--force replaces it" + ("" if done else ", --resume goes on"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / COMPRESSION).unlink(missing_ok=True)
        if not request.resume:
            shutil.rmtree(folder / WORK, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror or error}") from error


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
        self._look_at_verify_data(imported)
        data = self._data(imported)
        compressed = self._compressed(imported, other, data)
        result = CompressionResult(
            schema_version=COMPRESSION_SCHEMA,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            request=self.request,
            environment=environment.capture(),
            model=imported.model,
            data=_NO_DATA if data is None else data.facts,
            compressed=compressed,
            verification=Missing(code="not_asked", why="nobody asked for it", cure="--verify-data"),
            took_s=(clock.now_ns() - started) / 1e9,
            warnings=(*imported.model.warnings, *self.warnings, *compressed.warnings),
        )
        write_record(self.folder / COMPRESSION, result)  # before it is judged: what was made is not lost
        shutil.rmtree(self.folder / WORK, ignore_errors=True)
        if not isinstance(self.request.verify, Missing):
            result = msgspec.structs.replace(
                result, verification=self._verified(compressed), took_s=(clock.now_ns() - started) / 1e9
            )
            write_record(self.folder / COMPRESSION, result)
        return result

    def _imported(self) -> tuple[ImportResult, ImportResult | None]:
        """Bring the model in at the batch of training, and at its own, which tells what depends on the batch."""
        request = self.request
        natural = self.intake.model(request.model, shapes=request.shapes)
        if natural.model.artefact is not None:
            raise UsageError(f"'{request.model}' is a built engine", hint="compress the model it was built from")
        if natural.files.no_graph is not None:
            raise ModelError(natural.files.no_graph.why, hint=natural.files.no_graph.cure)
        own = natural.model.batch_size
        if isinstance(own, Missing):
            return natural, None
        try:
            wanted = request.batch_size if own != request.batch_size else own + 1  # only to see what changes with it
            other = self.intake.model(request.model, "model-of-another-batch", batch_size=wanted, shapes=request.shapes)
        except (UsageError, ModelError) as error:
            self.warnings.append(f"statistics and training use batches of {own}: {error.message}")
            return natural, None
        return (natural, other) if own == request.batch_size else (other, natural)

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
        try:
            return self.intake.run("hwbench.compress.worker", job, Compressed, "compress", what, ModelError)
        except HwbenchError:
            _forget_unstarted(self.folder)
            raise

    def _verified(self, compressed: Compressed) -> Verification:
        wanted = self.request.verify
        assert not isinstance(wanted, Missing)
        reference = None if compressed.transferred else self.request.model
        request = msgspec.structs.replace(wanted, model=str(self.folder / MODEL), reference=reference)
        return verify(request, target=self.target, watch=self.watch)


def _forget_unstarted(folder: Path) -> None:
    """Take away a work folder in which no step was finished: there is nothing to go on from."""
    if not (folder / WORK / "books.json").exists():
        shutil.rmtree(folder / WORK, ignore_errors=True)
