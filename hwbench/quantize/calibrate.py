"""Calibrate a network on the user's data: weights repaired, ranges found. Runs as a child process.

What comes out is a float graph of the same tensor and layer names, and the ranges of its tensors, found once for all
runtimes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx_ir as ir

from hwbench.bundles.hashing import file_sha256
from hwbench.children import Emit, Throttle, serve
from hwbench.data.store import stored_inputs
from hwbench.errors import UsageError
from hwbench.files import write_record
from hwbench.graph.parts import write_graph
from hwbench.quantize.collect import Batches, Collected
from hwbench.quantize.repairs import Calibrating
from hwbench.records.base import Missing
from hwbench.records.quantization import CALIBRATION_SCHEMA, CalibrateJob, CalibrateResult, Calibration

ENOUGH_SAMPLES = 300
GRAPH, RANGES = "repaired.onnx", "ranges.json"
_PROGRESS_PERIOD_S = 0.5


def work(job: CalibrateJob, folder: Path, emit: Emit) -> CalibrateResult:
    """Calibrate, and leave the graph and its ranges beside the model.

    Raises:
        UsageError: the inputs share no batch axis.
        ModelError: an activation is NaN or infinite on the data.
        EngineError: onnxruntime is missing or cannot run the network.
    """
    emit({"event": "phase", "phase": "calibrate"})
    if isinstance(job.model.batch_size, Missing):
        raise UsageError(f"the inputs of '{job.model.name}' share no batch axis: {job.model.batch_size.why}")
    throttle = Throttle(_PROGRESS_PERIOD_S)

    def progress(fraction: float) -> None:
        if throttle.ready():
            emit({"event": "progress", "phase": "calibrate", "fraction": fraction})

    home = Path(job.files.folder)
    calibrating = Calibrating(
        model=_read(home / job.files.runtime_graph),
        plan=job.plan,
        settings=job.settings,
        batches=Batches(
            arrays=stored_inputs(Path(job.data_folder)), samples=job.data.samples, size=job.model.batch_size
        ),
        folder=folder,
        threads=job.threads,
        progress=progress,
    )
    collected = calibrating.run()
    written = write_graph(calibrating.model, home / GRAPH)
    calibration = Calibration(
        schema_version=CALIBRATION_SCHEMA,
        settings=job.settings,
        data=job.data,
        graph_sha256=file_sha256(*written),
        tensors=collected.ranges,
        repairs=tuple(calibrating.repairs),
        warnings=_warnings(job, collected),
    )
    write_record(home / RANGES, calibration)
    return CalibrateResult(calibration=calibration, files=msgspec.structs.replace(job.files, runtime_graph=GRAPH))


def _read(path: Path) -> ir.Model:
    model = ir.load(path)
    ir.external_data.load_to_model(model)
    return model


def _warnings(job: CalibrateJob, collected: Collected) -> tuple[str, ...]:
    found = []
    if job.data.samples < ENOUGH_SAMPLES:
        found.append(
            f"calibrated on {job.data.samples} samples of {job.data.source}: "
            f"ranges are only to be trusted from {ENOUGH_SAMPLES} on"
        )
    if collected.masks:
        found.append(f"no range, since they hold what stands for minus infinity: {', '.join(collected.masks)}")
    return tuple(found)


if __name__ == "__main__":
    serve(work, CalibrateJob)
