"""Every registered meter keeps the contract of a meter, on whatever machine this is."""

import pytest

from hwbench import plugins
from hwbench.testing import MeterContract


class TestRegisteredMeters(MeterContract):
    @pytest.fixture(params=list(plugins.available("meters")))
    def meter(self, request):
        return plugins.load("meters", request.param)


class TestReplayWithATrace(MeterContract):
    """The one meter that works everywhere."""

    @pytest.fixture
    def meter(self, tmp_path, monkeypatch):
        trace = tmp_path / "trace.jsonl"
        trace.write_text("".join(f'{{"t_s": {at / 100}, "power_w": 40.0}}\n' for at in range(3000)))
        monkeypatch.setenv("HWBENCH_REPLAY_TRACE", str(trace))
        return plugins.load("meters", "replay")


def test_the_names_are_the_entry_points():
    for name in plugins.available("meters"):
        assert plugins.load("meters", name).name == name
