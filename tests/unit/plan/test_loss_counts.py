"""On how many samples whole designs are run: as many as there is time for, and the same when a run goes on."""

from __future__ import annotations

from types import SimpleNamespace

from hwbench.planning_pipeline.losses import Counts, Losses


def asked(path, each_s):
    """The counts, where a sample takes so long."""
    now = [0]

    def before(samples):
        now[0] += int(samples * each_s * 1e9)

    child = SimpleNamespace(_kept=path, _clock=SimpleNamespace(now_ns=lambda: now[0]), _before=before)
    return Losses._counted(child), now[0] > 0


def test_as_many_as_there_is_time_for(tmp_path):
    assert asked(tmp_path / "a.json", 0.01) == (Counts(few=150, enough=500), True)
    assert asked(tmp_path / "b.json", 1.0) == (Counts(few=64, enough=128), True)
    assert asked(tmp_path / "c.json", 1e-6) == (Counts(few=256, enough=1024), True)


def test_a_run_that_goes_on_asks_on_as_many_although_the_first_answers_are_there_at_once(tmp_path):
    path = tmp_path / "samples.json"
    first, _ = asked(path, 0.01)
    assert asked(path, 1e-9) == (first, False)
    path.write_bytes(b"{")
    assert asked(path, 1.0) == (Counts(few=64, enough=128), True), "what cannot be read is found out again"
