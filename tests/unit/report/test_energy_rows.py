import msgspec
import pytest
from fixtures_energy import (
    BOUNDARY,
    TYPE_B,
    energy_result,
    make_run,
    make_trace,
    power_limits,
    power_modes,
    repeated,
    sweep,
    with_run,
)
from fixtures_results import (
    NO_ENERGY,
    full_result,
    make_device,
    make_estimate,
    make_measurement,
    make_model,
    make_result,
)

from hwbench.energy.flags import explain
from hwbench.energy.protocol import energy_run
from hwbench.records.base import Missing
from hwbench.records.device import Gpu
from hwbench.report.energy_gather import energies
from hwbench.report.energy_rank import verdicts
from hwbench.report.energy_rows import grouped
from hwbench.report.energy_setting import power_setting
from hwbench.report.energy_table import group_table


def plateau(*runs, **changes):
    """Return the table of the one group that these runs make."""
    named = [with_run(f"engine{number}", "fp32", run) for number, run in enumerate(runs)]
    (group,) = grouped(energies([make_result(*named, **changes)]).rows)
    return group_table(group)


def cells(table, title):
    """Return the cells of the first row of a block by head."""
    block = next(block for block in table.blocks if block.title == title)
    return {head: cell.text for head, cell in zip(block.head, block.rows[0], strict=True)}


def test_the_row_of_a_known_run():
    (row,) = energies([make_result(with_run("openvino", "bf16", make_run(50.0, 4e-3)))]).rows
    assert row.total.value == pytest.approx(0.2)
    assert row.dynamic.value == pytest.approx(0.12)
    assert row.inferences_per_j == pytest.approx(5.0)
    assert row.energy_delay_js == pytest.approx(0.2 * 4e-3)
    assert row.j_per_op == pytest.approx(0.2 / (2 * make_model().macs))
    assert row.domains_j == pytest.approx({"package-0": 0.16, "dram": 0.04})
    assert (row.windows, row.windows_read, row.window_s) == (5, 5, 10.0)
    assert row.inferences == 12500
    assert row.total.instrument == TYPE_B
    half = 2.776 * 0.2 * (2e-4 / 4) ** 0.5 / 5**0.5  # Student's t over five windows
    assert row.total.high - row.total.value == pytest.approx(half, rel=1e-3)


def test_the_cells_say_it_with_units_and_both_uncertainties():
    table = plateau(make_run(50.0, 4e-3))
    energy, less, power = (cells(table, title) for title in ("Energy", "Energy less idle", "Power"))
    assert energy["J/inference, total"] == "200.0 mJ"
    assert energy["repeatability (Type A, 95%)"] == "±0.88%, n=5"
    assert energy["interval (Type A)"] == "198.2–201.8 mJ"
    assert energy["instrument (Type B, k=2)"] == "±10%"
    assert energy["inferences/J"] == "5.000 /J"
    assert energy["energy × delay"] == "800 µJ·s"
    assert less["J/inference, less idle"] == "120.0 mJ"
    assert less["what was idle"].startswith("idle_active")
    assert (power["idle"], power["idle share"]) == ("20.00 W ±100.0 mW (k=2)", "40%")
    assert power["idle before → after"] == "20.00 W → 20.00 W"
    assert (power["mean"], power["p95"], power["peak"]) == ("50.00 W", "51.00 W", "52.50 W")
    assert power["p95 and peak are of means over"] == "100 ms"
    assert cells(table, "Performance")["windows"] == "5 × 10.0 s"
    assert cells(table, "Quality")["crosscheck"] == "0.990 of regulator"
    assert cells(table, "Operating point")["temperature"] == "61.0 °C → 63.5 °C"
    assert cells(table, "Operating point")["held back (throttled)"] == "0 s (sw_power_cap, hw_thermal)"
    assert cells(table, "What was measured")["source"] == "rapl, measured by a sensor on the board"
    assert any("nvml: no NVIDIA GPU" in note for note in table.notes)


def test_no_cell_is_blank_and_every_dash_has_its_reason():
    gone = Missing(code="gone", why="the sensor died", cure="another sensor")
    fields = ("total_j", "dynamic_j", "idle", "inferences_per_j", "energy_delay_js", "power", "start_c", "end_c",
              "crosscheck", "recorder_cpu_share")  # fmt: skip
    windows = tuple(msgspec.structs.replace(w, reading=gone) for w in make_run(50.0, 4e-3).windows)
    empty = make_run(50.0, 4e-3, windows=windows, throttled_s={}, **dict.fromkeys(fields, gone))
    table = plateau(empty)
    shown = [cell for block in table.blocks for row in block.rows for cell in row]
    assert all(cell.text for cell in shown)
    assert all(cell.notes for cell in shown if cell.text == "—")
    assert "the sensor died; another sensor" in table.notes
    assert cells(table, "Energy")["J/inference, total"] == "—"
    assert cells(table, "Performance")["windows"] == "0 of 5 × 10.0 s"
    assert not any(cell.text.startswith("0 ") for block in table.blocks[3:6] for row in block.rows for cell in row)


def test_throttling_is_told_by_reason():
    table = plateau(make_run(50.0, 4e-3, throttled_s={"sw_power_cap": 0.0, "hw_thermal": 1.25}))
    assert cells(table, "Operating point")["held back (throttled)"] == "1.25 s hw_thermal"
    assert cells(plateau(make_run(50.0, 4e-3, throttled_s={})), "Operating point")["held back (throttled)"] == "—"


def test_flags_come_with_their_meaning_also_those_of_single_windows():
    run = make_run(50.0, 4e-3, flags=("throttled:hw_thermal",))
    first = msgspec.structs.replace(run.windows[0].reading, flags=("low_coverage", "made_up"))
    windows = (msgspec.structs.replace(run.windows[0], reading=first), *run.windows[1:])
    table = plateau(msgspec.structs.replace(run, windows=windows))
    assert cells(table, "Quality")["flags"] == "throttled:hw_thermal, low_coverage, made_up"
    meanings = dict(table.flags)
    assert "held itself back" in meanings["throttled:hw_thermal"]
    assert "Cure:" in meanings["low_coverage"]
    assert "does not know it" in meanings["made_up"]
    assert cells(plateau(make_run(50.0, 4e-3)), "Quality")["flags"] == "none"


def test_a_machine_that_had_not_settled_is_called_so():
    run = make_run(50.0, 4e-3)
    table = plateau(msgspec.structs.replace(run, plateau=msgspec.structs.replace(run.plateau, reached=False)))
    assert cells(table, "Operating point")["settled"].startswith("NO")
    assert "NOT SETTLED" in dict(table.glances)["engine0 fp32"]


def test_the_line_at_a_glance_says_which_number_by_what_and_how_sure():
    (line,) = dict(plateau(make_run(50.0, 4e-3)).glances).values()
    assert line == (
        "200.0 mJ per inference, measured by a sensor on the board (rapl); repeats within ±0.88%; absolute within ±10% "
        "(k=2); 5 windows of 10.0 s"
    )


def test_a_plain_window_says_so_and_has_no_interval():
    found = energies([energy_result()])
    row = next(row for row in found.rows if row.kind == "window")
    assert row.total.value == 0.42
    assert isinstance(row.total.low, Missing)
    assert isinstance(row.dynamic, Missing)
    assert row.power.average_w == pytest.approx(70.0)
    groups = grouped(found.rows)
    assert [(group.kind, len(group.rows)) for group in groups] == [("plateau", 2), ("window", 1)]
    table = group_table(groups[1])
    assert "not ranked" in table.sentences[0]
    assert "(plain windows)" in table.title
    assert verdicts(groups[1]) == ()


def test_other_boundaries_are_other_groups():
    board = make_run(80.0, 4e-3, boundary="the whole board, at its input")
    rows = energies([make_result(with_run("a", "fp32", make_run(50.0, 4e-3)), with_run("b", "fp32", board))]).rows
    groups = grouped(rows)
    assert [group.boundary for group in groups] == [BOUNDARY, "the whole board, at its input"]
    assert all("There is nothing to rank it against" in verdicts(group)[0].sentence for group in groups)


def test_what_was_not_measured_keeps_its_reason():
    failed = Missing(code="no_meter", why="no instrument is here")
    result = make_result(
        make_measurement("a"), with_run("b", "fp32", failed), make_measurement("c", energy_estimate=make_estimate(0.1))
    )
    found = energies([result])
    assert [(row.name, row.reason) for row in found.absent] == [
        ("a fp32", NO_ENERGY), ("b fp32", failed), ("c fp32", NO_ENERGY),
    ]  # fmt: skip
    assert not found.rows


def test_names_tell_results_batches_and_power_settings_apart():
    assert [row.name for row in energies(sweep()[:2]).rows] == [
        "A: openvino bf16, batch 1", "B: openvino bf16, batch 2",
    ]  # fmt: skip
    assert energies(power_modes()).rows[0].name == "A: tensorrt fp16, mode 15W"
    assert energies(power_limits()).rows[2].name == "C: tensorrt fp16, limit 700 W"
    twice = energies([full_result(), full_result(run_id="again")]).rows
    assert len({row.name for row in twice}) == len(twice)


def test_the_power_limit_is_the_one_of_the_run_else_the_device_s():
    unknown = Missing(code="x", why="not told")
    gpu = Gpu(
        name="H200", uuid="GPU-1", compute_capability="9.0", memory_bytes=1, driver_version="580", cuda_version="13",
        power_limit_w=700.0, sm_max_hz=unknown, mig=unknown,
    )  # fmt: skip
    device = make_device("H200", gpu=gpu, cpu=None)
    assert power_setting(device, {}).words == "limit 700 W"
    told = {"power_limit_enforced": "450 W", "power_limit_requested": "500 W"}
    assert power_setting(device, told).words == "limit 450 W (requested 500 W)"
    for nonsense in ("a lot", "nan W", "-5 W", "0 W", "450"):
        assert power_setting(device, {"power_limit_enforced": nonsense}).limit_w == 700.0


def test_a_run_computed_from_its_trace_is_reported_as_it_was_made():
    run = energy_run(make_trace(50.0), name="energy.jsonl", sha256="0" * 64)
    (row,) = energies([make_result(with_run("a", "fp32", run))]).rows
    assert row.total.value == pytest.approx(0.2, rel=0.01)
    assert row.dynamic.value == pytest.approx(0.12, rel=0.02)
    assert (row.windows_read, row.inferences) == (5, 12500)
    assert row.crosscheck.ratio == pytest.approx(1.0, abs=0.01)
    assert row.idle.mean_w == pytest.approx(20.0, rel=0.02)
    assert all(explain(flag) for flag in row.flags)


def test_pauses_and_the_instruments_settings_are_told():
    run = make_run(50.0, 4e-3, settings={"sensed": "25 ms of 100 ms, detected"})
    windows = tuple(msgspec.structs.replace(w, paused_s=0.4) for w in run.windows)
    table = plateau(msgspec.structs.replace(run, windows=windows))
    assert any("of it 2.00 s in all paused on purpose" in note for note in table.notes)
    assert any("sensed: 25 ms of 100 ms, detected" in note for note in table.notes)


def test_lost_windows_are_counted():
    gone = Missing(code="counter_jumped", why="it jumped")
    run = make_run(50.0, 4e-3)
    windows = (msgspec.structs.replace(run.windows[0], reading=gone), *run.windows[1:])
    (row,) = energies([make_result(with_run("a", "fp32", msgspec.structs.replace(run, windows=windows)))]).rows
    assert (row.windows, row.windows_read) == (5, 4)
    assert row.domains_j["dram"] == pytest.approx(0.04)


def test_the_fixture_is_what_it_says():
    assert repeated(1.0).stdev == pytest.approx((2e-4 / 4) ** 0.5)
