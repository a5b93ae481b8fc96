"""What choices lose, in a child that then answers questions about whole designs until it is let go.

with Dialogue("hwbench.sensitivity.worker", job, ...) as child:
    sensitivity = child.hear(Sensitivity)
    answer = child.ask(StitchQuestion(design=design), StitchAnswer)
    child.finish(Sensitivity)
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import msgspec
import onnx_ir as ir
import torch

from hwbench.children import Emit, Throttle, serve
from hwbench.compress.base import Report
from hwbench.data.samples import stored_samples
from hwbench.dialogue import answer, questions
from hwbench.errors import StorageError, UsageError
from hwbench.files import decode, read_bytes, write_record
from hwbench.graph.batch import BatchDependence, batch_dependence, rebatch
from hwbench.graph.onnx_file import infer_shapes
from hwbench.records.base import Record
from hwbench.records.model import ImportResult
from hwbench.records.planning import Sensitivity
from hwbench.records.sensitivity import SensitivityJob, StitchQuestion
from hwbench.sensitivity.ledger import Ledger
from hwbench.sensitivity.network import Network
from hwbench.sensitivity.patches import Composer
from hwbench.sensitivity.score import judged, measure_losses
from hwbench.sensitivity.stitch import Stitch

_PERIOD_S = 0.5
_TOLD = "told.json"


class Told(Record, frozen=True, kw_only=True):
    """The losses of all options, as they were found within a time. ``asked``: of what, and in which space."""

    asked: str
    budget_s: float
    found: Sensitivity


def work(job: SensitivityJob, folder: Path, emit: Emit) -> Sensitivity:  # noqa: ARG001 - what stays is in the state folder
    """Find the losses, say them, and answer questions until the parent closes the pipe.

    Raises:
        UsageError: the space does not fit the network, or int8 is offered without ranges.
        ModelError: the network itself puts out NaN or infinity.
        Unsupported: torch cannot express the network.
    """
    begun = time.monotonic()
    torch.set_num_threads(job.threads)
    hub, batch = _graph(job)
    network = Network(
        hub=hub,
        samples=stored_samples(Path(job.data_folder), batch=batch),
        learn=None if job.learn_folder is None else stored_samples(Path(job.learn_folder), batch=batch),
        ranges={} if job.calibration is None else job.calibration.tensors,
        runtime=job.settings.runtime,
        criterion=job.settings.criterion,
        damping=job.settings.damping,
        seed=job.seed,
        threads=job.threads,
        report=_reporter(emit),
    )
    ledger = Ledger(Path(job.state_folder), _identity(job, batch), resume=job.resume)
    try:
        composer = Composer(network, job.space)
        stitch = Stitch(network, pairs=job.pairs)
        found = _told_before(job, batch)
        if found is None:
            composer.gather()
            found = measure_losses(job.space, stitch, composer, ledger, job.settings, started_s=begun)
            _keep(job, batch, found)
        answer(emit, found)
        for question in questions(StitchQuestion):
            samples = stitch.count(question.samples) * batch
            known = ledger.find(question.design, samples)
            if known is None:
                composer.gather()  # does nothing where that is done
                known = judged(stitch, composer, question.design, "the design", samples)
                ledger.enter(question.design, samples, known)
            answer(emit, known)
    finally:
        ledger.close()
    return found


def _told_before(job: SensitivityJob, batch: int) -> Sensitivity | None:
    """Return what an earlier run found in the same space, if it had as much time: it takes no statistics."""
    path = Path(job.state_folder) / _TOLD
    if not job.resume or not path.exists():
        return None
    try:
        told = decode(read_bytes(path), Told, what=str(path))
    except StorageError:  # cut short, or another version's: it is measured again
        return None
    enough = told.budget_s >= job.settings.budget_s
    return told.found if enough and told.asked == _asked(job, batch) else None


def _keep(job: SensitivityJob, batch: int, found: Sensitivity) -> None:
    told = Told(asked=_asked(job, batch), budget_s=job.settings.budget_s, found=found)
    write_record(Path(job.state_folder) / _TOLD, told)


def _asked(job: SensitivityJob, batch: int) -> str:
    """Return what the answer depends on beside the time."""
    settings = f"{_identity(job, batch)} {job.settings.screen_samples} {job.settings.pairs} "
    return hashlib.sha256(settings.encode() + msgspec.json.encode(job.space)).hexdigest()


def _graph(job: SensitivityJob) -> tuple[ir.Model, int]:
    size = job.imported.model.batch_size
    if not isinstance(size, int):
        raise UsageError(f"the inputs of '{job.imported.model.name}' share no batch axis: {size.why}")
    model = _loaded(job.imported)
    dependence = None if job.other_batch is None else batch_dependence(model, _loaded(job.other_batch))
    if isinstance(dependence, BatchDependence):
        model = rebatch(model, dependence, size)  # what repeats one sample's weights becomes one tensor
    return model, size


def _loaded(imported: ImportResult) -> ir.Model:
    return infer_shapes(ir.load(Path(imported.files.folder) / imported.files.hub))


def _identity(job: SensitivityJob, batch: int) -> str:
    """Return what the numbers in a ledger depend on, beside the design and the number of samples."""
    settings = msgspec.structs.replace(job.settings, screen_samples=1, pairs=0, budget_s=0.0)
    ranges = b"" if job.calibration is None else msgspec.json.encode(job.calibration.tensors, order="sorted")
    told = f"{job.space.hub_sha256} {job.data_sha256} {job.learn_sha256} {batch} {job.seed} {job.pairs} ".encode()
    return hashlib.sha256(told + msgspec.json.encode(settings) + ranges).hexdigest()


def _reporter(emit: Emit) -> Report:
    throttle, said = Throttle(_PERIOD_S), ""

    def report(what: str, fraction: float | None) -> None:
        nonlocal said
        if what != said or throttle.ready():
            said = what
            emit({"event": "progress", "what": what} | ({} if fraction is None else {"fraction": fraction}))

    return report


if __name__ == "__main__":
    serve(work, SensitivityJob)
