"""What single modes show: table, sentences, CSV, page."""

import csv
import io

import fixtures_results
import pytest

from hwbench.measure.builds import build_variance
from hwbench.records.base import Missing
from hwbench.records.modes import Bin, ColdRun, ColdStart, Series, ServerRun, Spread, SteadyState, TimerError
from hwbench.report.delimited import to_csv
from hwbench.report.html import render_page
from hwbench.report.mode_words import mode_lines
from hwbench.report.ranking import rank
from hwbench.report.series_chart import series
from hwbench.report.table import tabulate
from hwbench.stats import summarize

NO = Missing(code="no", why="there is none")


def part(number, median_s, temperature_c=NO):
    return Bin(
        start_s=60.0 * number,
        end_s=60.0 * (number + 1),
        inferences=1000,
        median_s=median_s,
        p90_s=median_s * 1.1,
        inferences_per_s=1 / median_s,
        temperature_c=temperature_c,
        clock_hz=2.4e9,
        throttle_events=number,
        power_w=NO,
    )


def course(*temperatures):
    bins = tuple(part(n, 0.01 * (1 + 0.1 * n), heat) for n, heat in enumerate(temperatures))
    return Series(rest_s=0.0, bin_s=60.0, kept_every=1, bins=bins, last_over_first=bins[-1].median_s / bins[0].median_s)


def server(**changes):
    times = Spread(mean_s=0.001, median_s=0.001, p90_s=NO, p99_s=0.004, max_s=0.005)
    timer = TimerError(method="slept until it was due", waits=3, median_s=5e-5, p99_s=NO, max_s=1e-4)
    fields = {
        "rate_per_s": 100.0, "seed": 0, "workers": 2, "arrivals": 3, "unserved": 0, "arrived_per_s": 99.0,
        "completed_per_s": 98.0, "offered_load": 0.6, "backlog": 1, "backlog_grew": False, "queueing": times,
        "service": times, "timer": timer, "arrivals_ns": (1, 2, 3), "service_ns": (1, 1, 1),
    }  # fmt: skip
    return ServerRun(**{**fields, **changes})


def cold():
    start = ColdStart(
        total_s=1.0, interpreter_s=0.4, runtime_s=0.3, load_s=NO, compile_s=0.2, first_inference_s=0.05, other_s=0.05
    )
    return ColdRun(starts=(start,) * 6, page_cache="warm")


STEADY = SteadyState(
    reached=False,
    after_s=300.0,
    median_change=0.02,
    median_change_limit=0.01,
    temperature_slope_c_per_10s=0.7,
    temperature_slope_limit_c_per_10s=0.5,
    longest_s=300.0,
    windows=(),
)
MADE = {
    "sustained": {"series": course(50.0, 60.0, 70.0)},
    "burst": {"series": course(NO, NO)},
    "server": {"server": server()},
    "cold": {"cold": cold()},
    "steady": {"steady_state": STEADY},
}
SHOWN = {
    "sustained": ("course", "1.200", "throttle events"),
    "burst": ("course", "1.100", "parts of"),
    "server": ("completed", "98.00 /s", "offered load 60.0%"),
    "cold": ("runtime", "300 ms", "load not apart"),
    "steady": ("plateau", "NOT in 300 s", "NO plateau after 300 s"),
}


def result(mode):
    return fixtures_results.make_result(fixtures_results.make_measurement(mode=mode, **MADE[mode]))


@pytest.mark.parametrize("mode", MADE)
def test_every_mode_has_its_table_words_and_page(mode):
    made = result(mode)
    key, cell, words = SHOWN[mode]
    (table,) = tabulate(made).tables
    assert table.mode == mode
    assert key in table.speed
    assert table.rows[0].cells[key].text == cell
    assert set(table.speed) <= set(table.rows[0].cells)
    assert words in "\n".join(mode_lines(made.measurements[0]))
    page = render_page([made, made])
    assert "Seen in this mode" in page
    assert ("Course over time" in page) == (mode in {"sustained", "burst"})


def test_server_words_keep_timer_error_queueing_and_growth_apart():
    (grew,) = fixtures_results.make_result(
        fixtures_results.make_measurement(mode="server", server=server(backlog_grew=True, timer=NO))
    ).measurements
    text = "\n".join(mode_lines(grew))
    assert "GROWING" in text
    assert "queueing median" in text
    assert f"arrival timer: {NO.why}" in text


def test_csv_has_the_course_and_the_columns():
    rows = list(csv.DictReader(io.StringIO(to_csv(result("sustained"), "series"))))
    assert [float(row["median_s"]) for row in rows] == pytest.approx([0.010, 0.011, 0.012])
    assert [row["temperature_c"] for row in rows] == ["50.0", "60.0", "70.0"]
    (row,) = csv.DictReader(io.StringIO(to_csv(result("server"))))
    assert (row["completed_per_s"], row["timer_error_median_s"]) == ("98.0", "5e-05")
    (row,) = csv.DictReader(io.StringIO(to_csv(result("cold"))))
    assert (row["cold_interpreter_s"], row["cold_load_s"]) == ("0.4", "")
    (row,) = csv.DictReader(io.StringIO(to_csv(result("server"), "series")))
    assert "series" in row["missing"]


def test_the_chart_has_a_second_axis_only_for_temperatures():
    assert "yaxis2" not in series(["a"], [(0, course(NO, NO))])["layout"]
    figure = series(["a"], [(0, course(50.0, NO))])
    assert figure["layout"]["yaxis2"]["side"] == "right"
    assert figure["data"][1]["y"] == [50.0]


def test_builds_get_a_column_and_their_samples_a_number():
    first = fixtures_results.make_measurement(seed=1, n=100)
    runs = [first.samples_ns, fixtures_results.make_measurement(seed=5, n=100).samples_ns]
    made = fixtures_results.make_measurement(seed=1, n=100, builds=build_variance(runs))
    (table,) = tabulate(fixtures_results.make_result(made)).tables
    assert table.speed["builds"] == "between builds"
    assert "ICC" in mode_lines(made)[0]
    assert not any("builds" in table.speed for table in tabulate(fixtures_results.full_result()).tables)


def test_fewer_than_six_samples_show_no_interval_and_win_nothing():
    few = summarize([1_000_000, 1_000_100])
    made = fixtures_results.make_result(
        fixtures_results.make_measurement("a", latency=few), fixtures_results.make_measurement("b")
    )
    (table,) = tabulate(made).tables
    row = next(row for row in table.rows if row.label.startswith("a"))
    assert row.cells["interval"].text == "—"
    assert set(rank(made.measurements, "latency").marks.values()) == {"tied"}
    assert "no 95% interval: 2 samples" in table.ranking.sentence
