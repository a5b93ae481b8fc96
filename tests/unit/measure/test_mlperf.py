"""Presets: the metric, and which rules hold."""

import fixtures_results
import msgspec
import pytest

from hwbench.measure.mlperf import PRESETS, check_preset
from hwbench.records.base import Missing


def measured(preset, *, n=700, slow=0, window_s=600.0, **changes):
    samples = tuple([1_000_000] * (n - slow) + [20_000_000] * slow)
    bound = {"latency_bound_s": 0.015, "rate_per_s": 50.0} if preset == "mlperf-server" else {}
    mode = PRESETS[preset].mode if preset else "latency"
    settings = fixtures_results.make_settings(mode=mode, preset=preset, mode_settings=bound)
    base = fixtures_results.make_measurement(mode="throughput" if mode == "throughput" else "latency")
    return msgspec.structs.replace(base, samples_ns=samples, window_s=window_s, settings=settings, **changes)


def rules(check):
    return {rule.name: rule.verdict for rule in check.requirements}


NEVER = {
    "LoadGen": "does_not_hold",
    "data set": "does_not_hold",
    "accuracy run": "not_checked",
    "reference model": "not_checked",
}


def test_single_stream_that_keeps_everything_is_still_no_mlperf_result():
    check = check_preset(measured("mlperf-single-stream"), 1)
    assert rules(check) == {"duration": "holds", "queries": "holds", "samples in a query": "holds", **NEVER}
    assert check.statement.startswith("NOT an MLPerf result")
    assert (check.value, check.unit) == (pytest.approx(0.001), "s")
    assert check.early_stopping.percentile == 0.90


def test_too_short_and_too_few():
    check = check_preset(measured("mlperf-multi-stream", n=661, window_s=599.9), 1)
    assert rules(check) == {
        "duration": "does_not_hold",
        "queries": "does_not_hold",
        "samples in a query": "does_not_hold",
        **NEVER,
    }
    assert isinstance(check.value, Missing)


@pytest.mark.parametrize(("slow", "holds"), [(0, True), (1, True), (2, False)])
def test_server_is_judged_by_early_stopping_against_its_bound(slow, holds):
    """With 700 queries one may be beyond the bound (662 are needed), two may not (838)."""
    server = Missing(code="x", why="not here")
    check = check_preset(measured("mlperf-server", slow=slow, server=server), 1)
    assert rules(check)["latency bound"] == ("holds" if holds else "does_not_hold")


def test_offline_counts_samples_over_the_batch():
    for batch, verdict in ((35, "does_not_hold"), (36, "holds")):
        check = check_preset(measured("mlperf-offline"), batch)
        assert rules(check)["samples"] == verdict
        assert rules(check)["one query"] == "does_not_hold"
        assert check.unit == "1/s"
    assert rules(check_preset(measured("mlperf-offline"), Missing(code="x", why="none")))["samples"] == "not_checked"


def test_without_a_preset_there_is_nothing_to_check():
    assert check_preset(measured(None), 1).code == "not_asked"
