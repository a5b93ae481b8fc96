"""Compress one network, in a child: bring it to torch's batch, carry the steps out, check it, write it down."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from hwbench.bundles.hashing import artefact_sha256
from hwbench.children import Emit, Throttle, serve
from hwbench.compress import codebooks, state
from hwbench.compress.base import Array, Report, Subject
from hwbench.compress.check import check_batch, check_graph
from hwbench.compress.facts import layer_facts, network_facts
from hwbench.compress.layout import CALIBRATION, CODEBOOKS, MADE, MODEL, TORCH, WORK
from hwbench.compress.order import planned
from hwbench.compress.run import apply, count_nodes, sparse_weights
from hwbench.data.samples import stored_samples
from hwbench.errors import EngineError, StorageError
from hwbench.graph.batch import BatchDependence, batch_dependence, open_batch, rebatch
from hwbench.graph.onnx_file import infer_shapes
from hwbench.records.base import Missing
from hwbench.records.compression import Applied, Compressed, CompressJob, GraphCheck
from hwbench.records.model import ImportResult

_PERIOD_S = 0.5

Dependence = BatchDependence | Missing | None
"""What hangs on the batch size, or why that cannot be told; None where the model came in at one size alone."""


def compress(job: CompressJob, folder: Path, emit: Emit) -> Compressed:  # noqa: ARG001 - the work outlives the child
    """Carry the steps of a request out.

    Raises:
        UsageError: a step does not fit the network or the data.
        ModelError: torch cannot express the network, or the result is not what was meant.
        StorageError: the target cannot be written.
    """
    import torch

    torch.set_num_threads(job.request.threads)
    torch.manual_seed(job.request.seed)
    model = _graph(job.imported)
    dependence = None if job.other_batch is None else batch_dependence(model, _graph(job.other_batch))
    subject = _subject(job, model, dependence, _reporter(emit))
    subject.view()  # what torch cannot express is refused before anything is done
    before = network_facts(subject.original, subject.batch, {}, subject.held_zeros)
    layers_before = layer_facts(subject.original, subject.batch)
    applied = _carried_out(job, subject)
    subject.report("checking the result", None)
    files, batch, warnings, checked = _written(job, subject, dependence)
    return Compressed(
        files=files,
        sha256=artefact_sha256(Path(job.target) / WORK / MADE, files),
        applied=applied,
        before=before,
        after=network_facts(subject.model, subject.batch, subject.bits, subject.held_zeros),
        layers_before=layers_before,
        layers_after=layer_facts(subject.model, subject.batch),
        check=checked,
        transferred=subject.transferred,
        batch_size=batch,
        warnings=warnings,
    )


def _reporter(emit: Emit) -> Report:
    throttle, said = Throttle(_PERIOD_S), ""

    def report(what: str, fraction: float | None) -> None:
        nonlocal said
        if what != said or throttle.ready():
            said = what
            emit({"event": "progress", "what": what} | ({} if fraction is None else {"fraction": fraction}))

    return report


def _subject(job: CompressJob, model: ir.Model, dependence: Dependence, report: Report) -> Subject:
    _need_device(job.request.training_device)
    batch = job.imported.model.batch_size
    size = batch if isinstance(batch, int) else 1
    if isinstance(dependence, BatchDependence):
        model = rebatch(model, dependence, size)  # what repeats one sample's weights becomes one tensor, to learn once
    samples = None if job.data_folder is None else stored_samples(Path(job.data_folder), batch=size)
    return Subject(
        model=model,
        original=model.clone(),
        batch=size,
        samples=samples,
        folder=Path(job.target) / WORK,
        report=report,
        seed=job.request.seed,
        threads=job.request.threads,
        device=job.request.training_device,
        held_zeros=sparse_weights(model),
    )


def _need_device(device: str) -> None:
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise EngineError(f"torch sees no device '{device}'", hint="leave --training-device out: the CPU trains too")


def _graph(imported: ImportResult) -> ir.Model:
    return infer_shapes(ir.load(Path(imported.files.folder) / imported.files.hub))


def _carried_out(job: CompressJob, subject: Subject) -> tuple[Applied, ...]:
    """Do the steps that are not done yet, and keep the state after each."""
    steps = planned(job.request.steps)
    work = subject.folder
    books = state.Books(
        request=job.request,
        hub_sha256=job.imported.model.hub_sha256,
        data_sha256=None if job.data is None else job.data.sha256,
        applied=(),
        kept=(),
        held_zeros=(),
        bits={},
        codebooks={},
    )
    applied = state.load(work, subject, books) if job.request.resume else None
    if applied is None:
        applied = ()
        state.save(work, subject, books)
    for number, step in enumerate(steps[len(applied) :], len(applied) + 1):
        subject.report(f"step {number} of {len(steps)}: {step.step.method}", None)
        subject.folder = work / f"step-{number}"
        try:
            subject.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {subject.folder}: {error.strerror or error}") from error
        applied = (*applied, apply(step, subject, applied))
        state.save(work, subject, msgspec.structs.replace(books, applied=applied))
    subject.folder = work
    return applied


def _written(
    job: CompressJob, subject: Subject, dependence: Dependence
) -> tuple[tuple[str, ...], int | Missing, tuple[str, ...], GraphCheck]:
    """Write the network for its users, having checked it at the batch that it was compressed at."""
    work, inputs = Path(job.target) / WORK, _first_batch(job, subject)
    target, as_compressed = work / MADE, work / "checked.onnx"
    state.save_graph(subject.model, as_compressed)
    checked = check_graph(subject, as_compressed, inputs, count_nodes(subject.model))
    model, batch, warnings = _for_users(job, subject, dependence)
    files = list(state.save_graph(model, target / MODEL))
    if isinstance(dependence, BatchDependence):
        size = 1 if isinstance(batch, Missing) else batch
        batched = [name for name in inputs if 0 in dependence.shapes.get(name, {})]
        check_batch(target / MODEL, as_compressed, subject, inputs, size, batched)
    if subject.codebooks:
        codebooks.write(subject.model, subject.codebooks, target / CODEBOOKS)
        files.append(CODEBOOKS)
    ranges = last_ranges(work)
    if ranges is not None:
        shutil.copyfile(ranges, target / CALIBRATION)
        files.append(CALIBRATION)
    if "torch" in job.request.emit:
        files.append(_torch(subject, target / TORCH, inputs))
    return tuple(files), batch, warnings, checked


def last_ranges(work: Path) -> Path | None:
    """Return the ranges that the last step left that found some."""
    found = work.glob(f"step-*/{CALIBRATION}")
    return max(found, key=lambda path: int(path.parent.name.removeprefix("step-")), default=None)


def _first_batch(job: CompressJob, subject: Subject) -> dict[str, Array]:
    if subject.samples is not None:
        inputs, _ = next(subject.samples.in_order())
        return inputs
    with np.load(Path(job.imported.files.folder) / job.imported.files.inputs) as arrays:
        return dict(arrays)


def _for_users(
    job: CompressJob, subject: Subject, dependence: Dependence
) -> tuple[ir.Model, int | Missing, tuple[str, ...]]:
    """Return the network with its batch axis open, or at the batch it came with where it cannot be opened."""
    if job.other_batch is None or dependence is None:
        return subject.model, subject.batch, ()
    if isinstance(dependence, Missing):
        return subject.model, subject.batch, (f"the batch axis stays {subject.batch}: {dependence}",)
    opened = open_batch(subject.model, dependence)
    if not isinstance(opened, Missing):
        return opened, Missing(code="open", why="the batch axis is open"), ()
    sizes = [each.model.batch_size for each in (job.imported, job.other_batch)]
    size = min(size for size in sizes if isinstance(size, int))
    return rebatch(subject.model, dependence, size), size, (f"the batch axis is fixed to {size}: {opened}",)


def _torch(subject: Subject, path: Path, inputs: dict[str, Array]) -> str:
    """Write the network as an exported torch program, which needs no hwbench: ``torch.export.load(path).module()``."""
    import torch

    try:
        arguments = tuple(tensor.cpu() for tensor in subject.tensors(inputs))
        program = torch.export.export(subject.view().cpu(), arguments)
        torch.export.save(program, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return path.name


if __name__ == "__main__":
    serve(compress, CompressJob)
