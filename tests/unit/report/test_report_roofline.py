"""The roofline: its arithmetic, its labels, what is said below it, and that every engine has one."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
from fixtures_results import full_result
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.records.base import Missing
from hwbench.report.html import render_page
from hwbench.report.roofline import attainable_ops_per_s, charts, points, roofline, why_none

WIDTH_PX, HEIGHT_PX = 700, 370  # the plot itself, on a narrow page
PER_CHARACTER_PX, LINE_PX = 6.5, 15


@pytest.mark.parametrize(
    ("intensity", "attained"), [(0.0, 0.0), (1.0, 10.0), (10.0, 100.0), (1000.0, 100.0), (math.inf, 100.0)]
)
def test_attainable_rises_to_the_peak_and_stays(intensity, attained):
    assert attainable_ops_per_s(intensity, peak_ops_per_s=100, bandwidth_bytes_per_s=10) == attained


def table():
    return full_result().measurements[3].layers


def test_points_are_operations_over_bytes_and_time():
    row = next(row for row in table().rows if row.unit.members == ("classifier",))
    point = next(point for point in points(table()) if point.name == "classifier (Gemm)")
    assert point.intensity == pytest.approx(2 * row.macs / row.moved_bytes)
    assert point.ops_per_s == pytest.approx(2 * row.macs / row.scaled_s)
    assert not any("reorder" in point.name for point in points(table()))


def test_roofs_meet_at_the_ridge_and_the_built_precision_is_solid():
    figure = roofline([], {"fp32": 1e11, "bf16": 1e12}, {"dram": 1e10}, precision="bf16", index=0)
    memory, fp32, bf16 = figure["data"]
    assert (memory["x"][-1], memory["y"][-1]) == (100.0, 1e12)
    assert [y / x for x, y in zip(memory["x"], memory["y"], strict=True)] == pytest.approx([1e10] * 3)
    assert set(fp32["y"]) == {1e11}
    assert fp32["x"][-1] == pytest.approx(10.0)
    assert [trace["line"]["dash"] for trace in (memory, fp32, bf16)] == ["solid", "dash", "solid"]


def boxes(figure):
    """Return the pixels that each label covers; all end at their point and lie above it."""
    xs, ys = figure["layout"]["xaxis"]["range"], figure["layout"]["yaxis"]["range"]
    for trace in figure["data"]:
        if trace["mode"] == "lines+text":
            x = (math.log10(trace["x"][1]) - xs[0]) / (xs[1] - xs[0]) * WIDTH_PX
            y = (math.log10(trace["y"][1]) - ys[0]) / (ys[1] - ys[0]) * HEIGHT_PX
            assert trace["textposition"] == "top left"
            yield x - PER_CHARACTER_PX * len(trace["name"]), x, y, y + LINE_PX


RATES = st.floats(1e9, 1e12)


@settings(max_examples=60, deadline=None)
@given(
    peaks=st.lists(RATES, min_size=1, max_size=4),
    spread=st.lists(st.floats(1.0, 8.0), min_size=4, max_size=4),
    dram=st.floats(1e9, 1e11),
)
def test_labels_lie_in_the_plot_and_not_on_each_other(peaks, spread, dram):
    bandwidths, rate = {}, dram
    for level, factor in zip(("dram", "l3", "l2", "l1"), spread, strict=True):
        bandwidths[level] = rate
        rate *= factor
    named = {f"fp{index}": 1000 * peak for index, peak in enumerate(peaks)}
    found = list(boxes(roofline([], named, bandwidths, precision="fp0", index=0)))
    for left, right, bottom, top in found:
        assert left >= 0
        assert right <= WIDTH_PX + 1
        assert bottom >= 0
        assert top <= HEIGHT_PX
    slanted, flat = found[:4], found[4:]
    for group in (slanted, flat):
        for one, other in itertools.combinations(group, 2):
            apart = one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2]
            assert apart, (one, other)


def test_every_engine_that_may_be_believed_has_a_roofline():
    result = full_result()
    shown = [m for m in result.measurements if m.validity.status != "invalid" and not isinstance(m.layers, Missing)]
    assert len(shown) > 1, "the example has more than one"
    found = list(charts(result, [f"engine {n}" for n in range(len(result.measurements))], result.measurements))
    assert len(found) == len(shown)
    page = render_page([result])
    assert page.count("layers of ") >= len(shown)


def test_points_above_a_peak_are_explained():
    result = full_result()
    names = [f"engine {n}" for n in range(len(result.measurements))]
    fitting = msgspec.structs.replace(result, peak_ops_per_s=dict.fromkeys(("fp32", "bf16", "int8"), 1e18))
    assert not any("peak:" in caption for _, _, caption in charts(fitting, names, result.measurements))
    low = msgspec.structs.replace(result, peak_ops_per_s=dict.fromkeys(("fp32", "bf16", "int8"), 1e3))
    captions = [caption for _, _, caption in charts(low, names, result.measurements)]
    assert all("lie above the" in caption and "Winograd" in caption for caption in captions)
    slow = msgspec.structs.replace(fitting, bandwidth_bytes_per_s={"dram": 1.0})
    captions = [caption for _, _, caption in charts(slow, names, result.measurements)]
    assert all("lie above every memory roof" in caption for caption in captions)


def test_points_stay_inside_the_chart_where_they_lie_above_all_roofs():
    figure = roofline(points(table()), {"fp32": 1e3}, {"dram": 1e3}, precision="fp32", index=0)
    highest = max(figure["data"][-1]["y"])
    assert math.log10(highest) < figure["layout"]["yaxis"]["range"][1]


def test_no_roofs_give_the_reason():
    result = full_result()
    assert why_none(result, result.measurements) is None
    assert "no bandwidth" in why_none(msgspec.structs.replace(result, bandwidth_bytes_per_s={}), result.measurements)
