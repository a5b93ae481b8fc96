import msgspec
import pytest
from fixtures_results import (
    DRIFT,
    NO_ENERGY,
    STOLEN,
    full_result,
    make_measurement,
    make_result,
    make_samples,
    throughput_result,
)

from hwbench import stats
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading
from hwbench.records.measurement import Memory, Parity
from hwbench.report import words
from hwbench.report.ranking import labels, rank
from hwbench.report.table import tabulate


def rows_by_label(result):
    return {row.label: row for table in tabulate(result).tables for row in table.rows}


def with_interval(name, median_s, low_s, high_s, **changes):
    summary = stats.summarize(make_samples(median_s))
    latency = msgspec.structs.replace(summary, median_s=median_s, median_low_s=low_s, median_high_s=high_s)
    return make_measurement(name, median_s=median_s, latency=latency, **changes)


def test_the_lowest_median_apart_from_the_next_is_best():
    ranking = rank([with_interval("a", 2e-3, 1.9e-3, 2.1e-3), with_interval("b", 1e-3, 0.9e-3, 1.1e-3)], "latency")
    assert ranking.marks == {1: "best"}
    assert ranking.first == 1
    assert "b fp32 is fastest" in ranking.sentence
    assert "2.00 times the latency" in ranking.sentence


def test_overlapping_intervals_are_tied_even_past_a_narrow_second():
    measurements = [
        with_interval("first", 1.00e-3, 0.99e-3, 1.01e-3),
        with_interval("narrow", 1.05e-3, 1.04e-3, 1.06e-3),
        with_interval("wide", 1.10e-3, 1.00e-3, 1.20e-3),
    ]
    ranking = rank(measurements, "latency")
    assert ranking.marks == {0: "tied", 2: "tied"}
    assert "tied with wide fp32" in ranking.sentence


def test_what_is_invalid_takes_no_part():
    fast = with_interval("fast", 1e-4, 1e-4, 1e-4, findings=(STOLEN,))
    slow = with_interval("slow", 2e-3, 2e-3, 2e-3)
    ranking = rank([fast, slow], "latency")
    assert ranking.marks == {}
    assert ranking.first == 1
    assert "nothing to rank it against" in ranking.sentence
    assert rank([fast], "latency").sentence.startswith("No measurement here may be believed")


def test_a_suspect_winner_is_called_suspect():
    ranking = rank([with_interval("a", 1e-3, 1e-3, 1e-3, findings=(DRIFT,)), make_measurement("b")], "latency")
    assert ranking.marks == {0: "best"}
    assert "a fp32 is suspect" in ranking.sentence


def test_throughput_ranks_the_highest_rate_first():
    table = tabulate(throughput_result()).tables[0]
    assert [row.label for row in table.rows] == ["openvino bf16", "onnxruntime fp32"]
    assert [row.mark for row in table.rows] == ["best", None]


def test_labels_are_unique():
    same = [make_measurement("a", "fp32"), make_measurement("a", "auto", "fp32"), make_measurement("a", "auto", "fp32")]
    assert labels(same[:2]) == ("a fp32 (asked fp32)", "a fp32 (asked auto)")
    assert len(set(labels(same))) == 3


def test_latency_and_throughput_never_share_a_table():
    mixed = make_result(make_measurement("a"), make_measurement("a", mode="throughput"))
    tables = tabulate(mixed).tables
    assert [(table.mode, len(table.rows)) for table in tables] == [("latency", 1), ("throughput", 1)]
    assert "rate" not in tables[0].rows[0].cells
    assert "median" not in tables[1].rows[0].cells


def test_a_missing_value_is_a_dash_with_its_reason_and_equal_reasons_share_a_number():
    result = full_result()
    tables = tabulate(result)
    rows = rows_by_label(result)
    eager, compiled = rows["torch-eager fp32"].cells["energy"], rows["torch-compile fp32"].cells["energy"]
    assert eager.text == "—"
    assert eager == compiled
    assert tables.notes[eager.notes[0] - 1] == str(NO_ENERGY)
    p99 = rows["torch-eager fp32"].cells["p99"]
    assert "p99 needs 1000 samples" in tables.notes[p99.notes[0] - 1]


def test_fastest_first_and_invalid_last():
    labels_in_order = [row.label for row in tabulate(full_result()).tables[0].rows]
    assert labels_in_order == ["openvino bf16", "onnxruntime fp32", "torch-eager fp32", "torch-compile fp32"]


def test_an_estimate_never_stands_in_the_energy_column():
    result = full_result()
    assert rows_by_label(result)["torch-eager fp32"].cells["energy"].text == "—"
    line = words.estimate_line(result.measurements[0])
    assert line is not None
    assert line.startswith("~210 mJ")
    assert "between 84.0 mJ and 399 mJ" in line


def test_a_replayed_energy_says_so():
    result = full_result()
    measurement = result.measurements[2]
    assert isinstance(measurement.energy, EnergyReading)
    replayed = msgspec.structs.replace(
        measurement, energy=msgspec.structs.replace(measurement.energy, provenance="replayed")
    )
    tables = tabulate(make_result(replayed))
    cell = tables.tables[0].rows[0].cells["energy"]
    assert cell.text == "113 mJ ±5%"
    assert "REPLAYED" in tables.notes[cell.notes[0] - 1]


def test_outputs_that_are_not_finite_are_shouted():
    parity = Parity(reference="r", reference_precision="fp32", max_absolute=0.0, max_relative=0.0, finite=False)
    row = tabulate(make_result(make_measurement(parity=parity))).tables[0].rows[0]
    assert row.cells["parity"].text == "NOT FINITE"


@pytest.mark.parametrize("field", ["baseline_rss_bytes", "peak_load_rss_bytes", "peak_run_rss_bytes"])
def test_peak_over_baseline_needs_all_three(field):
    memory = make_measurement().memory
    assert isinstance(memory, Memory)
    assert words.memory_over_baseline(memory) == (291 - 180) * 2**20
    gone = Missing(code="x", why="not on this system")
    assert words.memory_over_baseline(msgspec.structs.replace(memory, **{field: gone})) == gone


def test_macs_that_cannot_be_counted_are_not_zero():
    result = full_result()
    assert "at least (not counted: NonMaxSuppression)" in words.macs(result.model)
    uncounted = msgspec.structs.replace(result.model, layers=result.model.layers[-1:])
    assert words.macs(uncounted).startswith("MACs unknown")


def test_a_layer_without_macs_has_no_rate():
    table = full_result().measurements[0].layers
    row = next(row for row in table.rows if row.macs == 0)
    assert isinstance(words.achieved_ops_per_s(row), Missing)
    conv = table.rows[0]
    assert words.achieved_ops_per_s(conv) == pytest.approx(2 * conv.macs / conv.scaled_s)
