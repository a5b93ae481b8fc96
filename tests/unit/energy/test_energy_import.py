"""An external meter's file into a saved result: numbers, what is kept, and what is refused."""

import json

import pytest
from fixtures_results import make_result
from synthetic_traces import ExternalRun, external_result

from hwbench.energy.protocol import TRACE, energy_run_of, trace_sha256
from hwbench.energy.trace import read_trace
from hwbench.energy_import import Recording, import_energy
from hwbench.errors import InvalidMeasurement, UsageError
from hwbench.files import write_record
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyRun
from hwbench.results import read_result


@pytest.fixture(scope="module")
def run():
    return ExternalRun()


@pytest.fixture
def folder(tmp_path, run):
    """A saved result of two engines, the first of which was measured for an external meter."""
    return external_result(tmp_path, run)


@pytest.fixture
def recording(tmp_path, run):
    return Recording(path=run.record(tmp_path / "meter.csv"))


def test_the_energy_is_in_the_result(folder, recording):
    imported = import_energy(folder, recording)
    saved = read_result(folder).measurements[0]
    assert saved.energy_run == imported.run
    assert isinstance(saved.energy_run, EnergyRun)
    assert saved.energy_run.total_j.value == pytest.approx(1.0, rel=2e-3)
    assert saved.energy_run.dynamic_j.value == pytest.approx(0.8, rel=5e-3)
    assert saved.energy_run.provenance == "measured_external"
    assert saved.energy.energy_j == pytest.approx(5000, rel=2e-3)
    assert saved.energy_per_inference_j == pytest.approx(1.0, rel=2e-3), "by inferences, not samples"
    assert imported.alignment.offset_s == pytest.approx(-3.0, abs=0.06)  # the meter was started 3 s before the run
    assert isinstance(saved.energy_run.recorder_cpu_share, Missing)


def test_the_result_says_which_file(folder, recording):
    run = import_energy(folder, recording).run
    assert run.settings["imported_file"] == "meter.csv"
    assert run.settings["imported_sha256"] == trace_sha256(recording.path)
    assert "align_offset_s" in run.settings
    assert run.not_used == {"rapl": "not here"}
    path = folder / run.trace
    assert path.exists()
    assert trace_sha256(path) == run.trace_sha256
    assert energy_run_of(path) == run, "computed again from the merged trace, it is the same"


def test_what_was_there_before_is_kept(folder, recording):
    before = (folder / "result.json").read_bytes()
    own = folder / "runs" / next((folder / "runs").iterdir()).name / TRACE
    marks = own.read_bytes()
    first = import_energy(folder, recording)
    second = import_energy(folder, recording)
    assert first.before.read_bytes() == before
    assert second.before != first.before
    assert own.read_bytes() == marks
    assert first.run == second.run
    assert read_trace(own).samples == {}
    assert read_result(folder).measurements[1].engine == "openvino"


def refused(folder, recording, kind, match, **chosen):
    before = (folder / "result.json").read_bytes()
    with pytest.raises(kind, match=match):
        import_energy(folder, recording, **chosen)
    assert (folder / "result.json").read_bytes() == before, "a refusal must leave the result alone"
    assert not list(folder.glob("result.before*"))


def test_a_recording_of_something_else_is_refused(folder, recording):
    flat = "\n".join(["time (s),power (W)", *(f"{i * 0.05},{50 + i % 3}" for i in range(3000))])
    recording.path.write_text(flat + "\n")
    refused(folder, recording, InvalidMeasurement, "cannot be brought onto the clock")


def test_a_recording_that_ends_before_the_windows_is_refused(folder, recording):
    lines = recording.path.read_text().splitlines()
    recording.path.write_text("\n".join(lines[: round(23 / 0.05)]) + "\n")
    refused(folder, recording, InvalidMeasurement, "gives no energy|cannot be brought")


def test_the_run_must_be_one(folder, recording):
    refused(folder, recording, UsageError, "no energy run fits", engine="openvino")
    both = external_result(folder / "both", ExternalRun(), also=True)
    refused(both, recording, UsageError, "several energy runs fit")
    assert import_energy(both, recording, engine="onnxruntime").measurement.engine == "onnxruntime"


def test_a_result_without_an_energy_run(tmp_path, recording):
    write_record(tmp_path / "result.json", make_result())
    refused(tmp_path, recording, UsageError, "holds no energy run")


def test_the_file_of_the_result_is_json_again(folder, recording):
    import_energy(folder, recording)
    assert json.loads((folder / "result.json").read_bytes())["schema_version"] == 1
