"""Calibration as a whole: the child process, the order of the repairs, and what they are for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from stored_data import lay_down

from hwbench.children import run_child
from hwbench.data.store import stored_inputs
from hwbench.errors import EngineError, UsageError
from hwbench.graph.importer import import_model
from hwbench.quantize.calibrate import work
from hwbench.quantize.weights import rounded
from hwbench.records.base import Missing
from hwbench.records.model import DataFacts, ImportJob
from hwbench.records.quantization import CalibrateJob, CalibrateResult, CalibrationSettings, PrecisionPlan

pytest.importorskip("onnxruntime", reason="calibration runs the float network in onnxruntime")


def job_for(tmp_path: Path, samples: int = 12, plan: PrecisionPlan | None = None, **settings: object) -> CalibrateJob:
    path = graphs.save(graphs.convnet(bias=True, batch=2), tmp_path)
    job = ImportJob(model=str(path), batch_size=None, shapes={}, input_data=None, seed=0)
    imported = import_model(job, tmp_path / "model")
    data = tmp_path / "data"
    lay_down(data, x=np.abs(graphs.random_array(samples, 4, 5, 5)))
    return CalibrateJob(
        model=imported.model,
        files=imported.files,
        plan=plan or PrecisionPlan(default="int8"),
        settings=CalibrationSettings(**settings),
        data=DataFacts(source="photos.npz", sha256="00", samples=samples, labels=False),
        data_folder=str(data),
        threads=1,
    )


def calibrated(job: CalibrateJob, tmp_path: Path) -> tuple[CalibrateResult, ir.Model, list[dict[str, object]]]:
    events: list[dict[str, object]] = []
    folder = tmp_path / "child"
    folder.mkdir(exist_ok=True)
    result = work(job, folder, events.append)
    return result, ir.load(Path(result.files.folder) / result.files.runtime_graph), events


def test_in_a_process_of_its_own(tmp_path):
    job = job_for(tmp_path)
    events: list[dict[str, object]] = []
    result = run_child(
        "hwbench.quantize.calibrate",
        job,
        CalibrateResult,
        folder=tmp_path / "child",
        what="calibrating",
        failure=EngineError,
        timeout_s=60,
        on_event=events.append,
    )
    assert events[0] == {"event": "phase", "phase": "calibrate"}
    assert set(result.calibration.tensors) == {"x", "n", "y"}
    assert result.files.runtime_graph == "repaired.onnx"
    assert result.files.merged == job.files.merged == {"bn": "conv"}


def test_what_is_left_on_disk_is_what_is_told(tmp_path):
    result, _, _ = calibrated(job_for(tmp_path), tmp_path)
    home = Path(result.files.folder)
    assert result.calibration.graph_sha256 == hashlib.sha256((home / "repaired.onnx").read_bytes()).hexdigest()
    assert msgspec.convert(json.loads((home / "ranges.json").read_bytes()), type(result.calibration)) == (
        result.calibration
    )
    assert not list((tmp_path / "child").iterdir())


def test_the_same_data_give_the_same_ranges_and_graph(tmp_path):
    job = job_for(tmp_path, equalize=True)
    one, other = (calibrated(job, tmp_path)[0] for _ in range(2))
    assert one == other


@pytest.mark.parametrize(("samples", "warned"), [(299, True), (300, False)])
def test_few_samples_are_warned_about(samples, warned, tmp_path):
    result, _, _ = calibrated(job_for(tmp_path, samples), tmp_path)
    assert bool(result.calibration.warnings) == warned
    assert all("299 samples of photos.npz" in warning for warning in result.calibration.warnings)


def test_inputs_without_a_batch_are_refused(tmp_path):
    job = job_for(tmp_path)
    model = msgspec.structs.replace(job.model, batch_size=Missing(code="no_common_batch", why="they differ"))
    with pytest.raises(UsageError, match="no batch axis: they differ"):
        calibrated(msgspec.structs.replace(job, model=model), tmp_path)


class TestRepairs:
    def test_bias_correction_takes_away_the_mean_error_of_the_weights(self, tmp_path):
        job = job_for(tmp_path)
        result, model, _ = calibrated(job, tmp_path)
        assert result.calibration.repairs == ("bias correction of 1 layer",)
        float_graph = ir.load(Path(job.files.folder) / job.files.runtime_graph)
        (old,), (new,) = ([n for n in m.graph if n.op_type == "Conv"] for m in (float_graph, model))
        weight = old.inputs[1].const_value.numpy().astype(np.float64)
        mean = stored_inputs(Path(job.data_folder))["x"].astype(np.float64).mean((0, 2, 3))
        expected = np.einsum("oikl,i->o", rounded(weight, 0) - weight, mean)
        moved = old.inputs[2].const_value.numpy().astype(np.float64) - new.inputs[2].const_value.numpy()
        np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-6)

    def test_a_layer_kept_in_float_is_not_corrected(self, tmp_path):
        plan = PrecisionPlan(default="int8", layers={"conv": "float"})
        assert calibrated(job_for(tmp_path, plan=plan), tmp_path)[0].calibration.repairs == ()

    def test_none_asked_for_none_done(self, tmp_path):
        job = job_for(tmp_path, bias_correction=False)
        result, model, _ = calibrated(job, tmp_path)
        assert result.calibration.repairs == ()
        before = ir.load(Path(job.files.folder) / job.files.runtime_graph)
        for name, value in before.graph.initializers.items():
            np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), value.const_value.numpy())

    def test_learned_rounding_lies_on_the_grid(self, tmp_path):
        result, model, _ = calibrated(job_for(tmp_path, adaround=True), tmp_path)
        assert result.calibration.repairs == ("AdaRound of 1 layer", "bias correction of 1 layer")
        (conv,) = (node for node in model.graph if node.op_type == "Conv")
        weight = conv.inputs[1].const_value.numpy().astype(np.float64)
        np.testing.assert_allclose(rounded(weight, 0), weight, rtol=1e-5, atol=1e-8)

    def test_smoothing_runs_the_data_twice_and_keeps_the_function(self, tmp_path):
        job = job_for(tmp_path, smooth_quant=0.5, bias_correction=False)
        path = graphs.save(graphs.mlp(2), tmp_path, "mlp.onnx")
        imported = import_model(
            ImportJob(model=str(path), batch_size=None, shapes={}, input_data=None, seed=0), tmp_path / "mlp"
        )
        x = graphs.random_array(12, 4)
        lay_down(Path(job.data_folder), x=x)
        job = msgspec.structs.replace(job, model=imported.model, files=imported.files)
        result, model, events = calibrated(job, tmp_path)
        assert next(event["fraction"] for event in events if event["event"] == "progress") <= 1 / 12
        assert result.calibration.repairs == ("SmoothQuant with alpha 0.5 of 2 layers",)
        assert outputs(model, x) == pytest.approx(outputs(ir.load(tmp_path / "mlp" / "model.onnx"), x), rel=1e-4)


def outputs(model: ir.Model, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return np.concatenate([session.run(None, {"x": x[i : i + 2]})[0] for i in range(0, len(x), 2)])
