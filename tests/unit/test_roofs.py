"""Where the roofs of a machine come from, and what is said of them."""

from types import SimpleNamespace

import pytest

from hwbench import roofs
from hwbench.records.profile import CalibrationPoint


@pytest.fixture
def calibrated(monkeypatch):
    """Return a function that makes a calibration with ``warnings`` the one in force."""

    def make(*warnings):
        point = CalibrationPoint(
            quantity="peak_ops_per_s", key="fp32", value=9.0, samples=(9.0,), method="a test", threads=2
        )
        kept = SimpleNamespace(points=(point,), warnings=warnings, created_at="2026-11-22T10:00:00")
        monkeypatch.setattr(roofs.overlay, "load", lambda fingerprint: kept)
        return SimpleNamespace(device=SimpleNamespace(fingerprint="0123"), profile=None)

    return make


def test_a_calibration_gives_its_date(calibrated):
    peaks, _, source = roofs.roofs_of(calibrated(), 2)
    assert peaks == {"fp32": 9.0}
    assert source == "measured on this machine on 2026-11-22T10:00:00"


def test_a_doubtful_calibration_says_so_wherever_its_roofs_are_drawn(calibrated):
    _, _, source = roofs.roofs_of(calibrated("l2: slower than l3"), 1)
    assert "with 2 threads, where this run had 1" in source
    assert source.endswith("doubtful, calibrate warned: l2: slower than l3")
