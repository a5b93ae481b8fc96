import json
import random

import msgspec
import pytest
from fixtures_results import HOSTILE, full_result, hostile_result, make_layers, make_measurement, throughput_result
from hypothesis import given
from hypothesis import strategies as st

from hwbench.records.base import Missing
from hwbench.report import figures, layer_charts, roofline, thinning
from hwbench.report.ranking import labels

series = st.lists(st.floats(1e-9, 10.0), min_size=1, max_size=300)


def measured(result):
    return labels(result.measurements), result.measurements


@given(series, st.integers(2, 50))
def test_thinning_keeps_order_bounds_and_extremes(values, limit):
    kept = thinning.thin_series(values, limit)
    assert kept == sorted(set(kept))
    assert len(kept) <= max(limit, 2)
    assert {min(values), max(values)} <= {values[i] for i in kept}
    ordered = thinning.thin_sorted(sorted(values), limit)
    assert len(ordered) <= limit
    assert (ordered[0], ordered[-1]) == (0, len(values) - 1)


@given(series)
def test_no_sample_is_lost_by_the_histogram(values):
    edges, counts, beyond = thinning.histogram(sorted(values))
    assert sum(counts) + beyond == len(values)
    assert len(edges) == len(counts) + 1
    assert beyond == 0 or max(values) > edges[-1]


def test_the_histogram_is_not_squeezed_by_one_outlier():
    chance = random.Random(1)
    edges, _, beyond = thinning.histogram(sorted([1 + chance.gauss(0, 0.01) for _ in range(999)] + [100.0]))
    assert edges[-1] < 1.2
    assert beyond >= 1


def test_block_medians_show_drift():
    middles, medians = thinning.block_medians([1.0] * 500 + [2.0] * 500)
    assert len(middles) == len(medians) == 50
    assert medians[0] == 1.0
    assert medians[-1] == 2.0
    assert thinning.block_medians([3.0]) == ([0.0], [3.0])


def test_ecdf_goes_from_the_first_to_the_last_sample():
    result = full_result()
    figure = figures.ecdf(*measured(result))
    for trace, measurement in zip(figure["data"], result.measurements, strict=True):
        assert len(trace["x"]) <= thinning.ECDF_POINTS
        assert trace["x"][0] == min(measurement.samples_ns) / 1e9
        assert (trace["x"][-1], trace["y"][-1]) == (max(measurement.samples_ns) / 1e9, 1.0)
        assert trace["y"] == sorted(trace["y"])
    assert figure["layout"]["xaxis"]["type"] == "log"


def test_samples_are_in_the_order_taken_with_warm_up_apart():
    measurement = make_measurement(n=100)
    bars, dots, _, warm = figures.samples(0, measurement)["data"]
    assert dots["y"] == [sample / 1e9 for sample in measurement.samples_ns]
    assert warm["visible"] == "legendonly"
    assert max(warm["x"]) == -1
    assert sum(bars["y"]) <= 100


def test_constant_samples_can_be_drawn():
    figure = figures.samples(0, make_measurement(n=20, samples_ns=(5000,) * 20))
    assert sum(figure["data"][0]["y"]) == 20
    assert all(width > 0 for width in figure["data"][0]["width"])


def test_a_phase_that_was_not_measured_has_no_bar():
    measurement = make_measurement()
    gone = Missing(code="x", why="no high-water mark here")
    memory = msgspec.structs.replace(measurement.memory, peak_load_rss_bytes=gone)
    figure = figures.memory(["a"], [msgspec.structs.replace(measurement, memory=memory)])
    assert [len(trace["x"]) for trace in figure["data"]] == [1, 1, 0, 1]


@pytest.mark.parametrize("highest", [1, 7, 9, 1000, 305 * 2**20, 3 * 2**40])
def test_byte_ticks_are_round(highest):
    ticks = figures.byte_ticks(highest)
    assert 2 <= len(ticks) <= 9
    step = ticks[1] - ticks[0]
    assert step & (step - 1) == 0


def test_throughput_has_intervals_and_the_course():
    result = throughput_result()
    rates = [(index, m.throughput) for index, m in enumerate(result.measurements)]
    bars, *lines = figures.throughput(labels(result.measurements), rates)["data"]
    assert bars["x"] == [rate.inferences_per_s for _, rate in rates]
    assert bars["error_x"]["array"] == pytest.approx([r.high_per_s - r.inferences_per_s for _, r in rates])
    assert [len(line["y"]) for line in lines] == [10, 10]


def test_stacks_add_up_to_the_median_also_when_layers_overlap_in_time():
    tables = [make_layers(4e-3, "fp32", fused=False), make_layers(2e-3, "bf16", fused=True, unattributed=-0.1)]
    figure = layer_charts.by_kind(["a", "b"], tables)
    for index, table in enumerate(tables):
        assert sum(trace["x"][index] for trace in figure["data"]) == pytest.approx(table.median_s)
    assert figure["data"][-1]["x"][1] < 0
    assert figure["layout"]["barmode"] == "relative"


def test_many_kinds_are_gathered_and_still_add_up():
    table = make_layers(4e-3, "fp32", fused=False)
    rows = tuple(
        msgspec.structs.replace(row, unit=msgspec.structs.replace(row.unit, op=f"Op{index}"))
        for index, row in enumerate(table.rows)
    )
    figure = layer_charts.by_kind(["a"], [msgspec.structs.replace(table, rows=rows)])
    assert len(figure["data"]) == layer_charts.KINDS + 1
    assert "other kinds" in figure["data"][-2]["name"]
    assert sum(trace["x"][0] for trace in figure["data"]) == pytest.approx(table.median_s)


def test_no_label_can_be_a_tag_for_plotly():
    result = hostile_result()
    names, measurements = measured(result)
    tables = [m.layers for m in measurements if not isinstance(m.layers, Missing)]
    shown = [
        figures.ecdf(names, measurements),
        figures.memory(names, measurements),
        layer_charts.by_kind([names[0], names[2], names[3]], tables),
        roofline.roofline(roofline.points(tables[-1]), {HOSTILE: 1e12}, {HOSTILE: 1e10}, precision=HOSTILE, index=0),
        figures.across_results([(HOSTILE, 1.0, 0.9, 1.1)], "latency"),
    ]
    text = json.dumps(shown, allow_nan=False)
    assert "onerror" in text
    assert "<img" not in text
    assert "</script" not in text
