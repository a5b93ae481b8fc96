"""Which calibration is kept; the measuring itself is replaced."""

import pytest

from hwbench.cli.main import main
from hwbench.cost import calibrate as stage
from hwbench.cost import overlay
from hwbench.records.profile import CALIBRATION_SCHEMA, Calibration, CalibrationPoint


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """Return a function that runs the command, all rates being ``rate``."""
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path / "home"))
    found = {}

    def calibrate(device, *, seconds, environment, on_progress):
        found["fingerprint"] = device.fingerprint
        samples = (found["rate"] * 0.99, found["rate"])
        point = CalibrationPoint(
            quantity="bandwidth_bytes_per_s", key="l1", value=max(samples), samples=samples, method="a test", threads=2
        )
        return Calibration(
            schema_version=CALIBRATION_SCHEMA, fingerprint=device.fingerprint, device="cpu",
            created_at=f"2026-11-22T10:00:{found['rate']:02.0f}", environment=environment, points=(point,),
        )  # fmt: skip

    monkeypatch.setattr(stage, "calibrate", calibrate)

    def run(rate, *options):
        found["rate"] = rate
        return main(["calibrate", *options]), lambda: overlay.load(found["fingerprint"]).points[0].value

    return run


@pytest.mark.parametrize("duration", ["0", "0s", "999ms"])
def test_no_time_is_refused(measure, duration, capsys):
    assert measure(50.0, "--duration", duration)[0] == 2
    assert "at least 1" in capsys.readouterr().err


def test_a_worse_one_does_not_replace_a_better_one(measure, capsys):
    assert measure(50.0)[0] == 0
    code, kept = measure(30.0)
    assert code == 4
    assert kept() == 50.0
    said = capsys.readouterr().err
    assert "worse than that of 2026-11-22T10:00:50, which stays in force; changed: l1 bandwidth -40%" in said
    assert "--force" in said
    assert measure(30.0, "--force")[0] == 0
    assert kept() == 30.0


def test_a_better_one_replaces_and_says_what_changed(measure, capsys):
    measure(30.0)
    code, kept = measure(50.0)
    assert (code, kept()) == (0, 50.0)
    assert "replaces the calibration of 2026-11-22T10:00:30; changed: l1 bandwidth +67%" in capsys.readouterr().err


def test_a_damaged_one_is_replaced_and_said(measure, tmp_path, capsys):
    measure(30.0)
    (path,) = (tmp_path / "home" / "calibrations").iterdir()
    path.write_text("{")
    code, kept = measure(20.0)
    assert (code, kept()) == (0, 20.0)
    assert "is not JSON" in capsys.readouterr().err


def test_output_keeps_nothing(measure, tmp_path):
    assert measure(50.0, "-o", str(tmp_path / "x.json"))[0] == 0
    assert (tmp_path / "x.json").exists()
    assert not (tmp_path / "home").exists()
    assert measure(50.0, "-o", str(tmp_path / "x.json"), "--force")[0] == 2
