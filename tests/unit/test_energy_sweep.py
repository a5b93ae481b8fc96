import csv
import io
import os
import signal

import msgspec
import pytest
from fixtures_energy import make_run
from fixtures_results import full_result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hwbench import energy_sweep
from hwbench.doctor.interrupts import Interrupts
from hwbench.energy.sweep_points import figures_of, with_front
from hwbench.energy_sweep import Axes
from hwbench.errors import UsageError
from hwbench.inventory import Target
from hwbench.records.base import Missing
from hwbench.records.memory import GpuMemory
from hwbench.records.sweep import PowerAsked, SweepFigures, SweepPoint, SweepResult
from hwbench.report.sweep import csv_rows, render_sweep_page, sweep_grids
from hwbench.report.sweep_text import render_sweep
from hwbench.testing import example_cpu

NONE = Missing(code="x", why="nobody knows")


def figures(items_per_s=100.0, item_j=2.0, **changes):
    made = SweepFigures(
        items_per_s=items_per_s, power_w=items_per_s * item_j, item_j=item_j, item_low_j=item_j * 0.99,
        item_high_j=item_j * 1.01, relative_uncertainty=0.05, items_per_j=1 / item_j, clock_hz=NONE,
        memory_bytes=2**30, memory_of="the process", boundary="GPU board", provenance="measured_onboard",
        validity="valid",
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def points(*each):
    return [
        SweepPoint(batch_size=place + 1, setting=PowerAsked(), folder=f"batch-{place + 1}", figures=one)
        for place, one in enumerate(each)
    ]


def fronts(*each):
    return [not isinstance(p.figures, Missing) and p.figures.front for p in with_front(points(*each))]


def test_the_front_is_what_no_other_beats_in_both():
    slow_thrifty, fast_hungry, beaten = figures(10, 1), figures(30, 3), figures(9, 2)
    assert fronts(slow_thrifty, beaten, fast_hungry) == [True, False, True]


def test_what_is_invalid_or_played_back_or_missing_stands_aside():
    best = figures(100, 0.1)
    for bad in (
        msgspec.structs.replace(best, validity="invalid"),
        msgspec.structs.replace(best, provenance="replayed"),
        NONE,
    ):
        assert fronts(bad, figures(1, 9)) == [False, True]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12))
def test_fronts_of_any_points(pairs):
    kept = fronts(*(figures(float(speed), float(joules)) for speed, joules in pairs))
    for (speed, joules), on in zip(pairs, kept, strict=True):
        beaten = any(s >= speed and j <= joules and (s, j) != (speed, joules) for s, j in pairs)
        assert on is not beaten


def test_axes_are_combined():
    axes = Axes(batch_sizes=(1,), power_limits_w=(200.0, 300.5), clocks_hz=((1.5e9, 1.5e9),))
    assert [setting.words for setting in axes.settings] == [
        "limit 200 W, clock 1500 MHz", "limit 300.5 W, clock 1500 MHz",
    ]  # fmt: skip
    assert axes.settings[1].applied == {"gpu_power": "300.5W", "gpu_clocks": "1500MHz"}
    pair = PowerAsked(clocks_hz=(1.2e9, 1.5e9))
    assert (pair.words, pair.applied) == ("clock 1200-1500 MHz", {"gpu_clocks": "1200MHz-1500MHz"})
    assert Axes(batch_sizes=(1,)).settings == [PowerAsked()]
    assert PowerAsked().words == "as it is"


def test_settings_and_batch_sizes_come_in_an_order_of_chance():
    axes = Axes(batch_sizes=(1, 2, 4, 8), power_limits_w=(200.0, 300.0, 400.0, 500.0))
    orders = [axes.order(seed) for seed in range(20)]
    for order in orders:
        assert sorted((s.power_limit_w, b) for s, sizes in order for b in sizes) == [
            (limit, size) for limit in axes.power_limits_w for size in axes.batch_sizes
        ]
    assert len({tuple(setting for setting, _ in order) for order in orders}) > 10
    assert all(len({tuple(sizes) for _, sizes in order}) > 1 for order in orders)
    assert axes.order(3) == orders[3]


def energetic(**changes):
    result = full_result()
    measurement = msgspec.structs.replace(result.measurements[0], energy_run=make_run(50.0, 4e-3, **changes))
    return msgspec.structs.replace(result, measurements=(measurement,))


def test_figures_of_one_item():
    result = energetic()
    run = result.measurements[0].energy_run
    found = figures_of(result, 8)
    assert found.items_per_s == pytest.approx(8 / run.time_per_inference_s)
    assert found.item_j == pytest.approx(run.total_j.value / 8)
    assert (found.item_low_j, found.item_high_j) == (run.total_j.low / 8, run.total_j.high / 8)
    assert found.power_w == run.power.average_w
    assert found.items_per_j == pytest.approx(1 / found.item_j)


@pytest.mark.parametrize(
    ("process", "delta", "seen", "words"),
    [(5, 7, 5, "process on the GPU"), (NONE, 7, 7, "less what was used before"), (NONE, NONE, NONE, "the GPU")],
)
def test_memory_of_a_gpu(process, delta, seen, words):
    gpu = GpuMemory(
        torch_peak_allocated_bytes=NONE, torch_peak_reserved_bytes=NONE, nvml_process_peak_bytes=process,
        nvml_device_delta_bytes=delta, samples=3, sampled_every_s=0.02, longest_gap_s=NONE, method="m",
    )  # fmt: skip
    result = energetic()
    measurement = msgspec.structs.replace(result.measurements[0], gpu_memory=gpu)
    found = figures_of(msgspec.structs.replace(result, measurements=(measurement,)), 1)
    assert found.memory_bytes == seen
    assert words in found.memory_of


def test_a_point_without_energy_says_why():
    assert figures_of(energetic(total_j=NONE), 1) == NONE
    empty = msgspec.structs.replace(full_result(), measurements=())
    assert isinstance(figures_of(empty, 1), Missing)


def swept(*each):
    return SweepResult(
        schema_version=1, hwbench="0", created_at="2026-01-01T00:00:00Z", model="<net>", device="GPU", engine="e",
        precision="fp16", points=with_front(points(*each)),
    )  # fmt: skip


def test_table_page_and_csv_hold_every_point():
    found = swept(figures(10, 1), NONE, figures(30, 3))
    grids = sweep_grids(found)
    for grid in grids:
        assert [row[0].text for row in grid.rows] == ["1", "2", "3"]
        assert len({len(row) for row in grid.rows} | {len(grid.head)}) == 1
    assert any("nobody knows" in note for note in grids[1].notes)
    page = render_sweep_page(found)
    assert "&lt;net&gt;" in page
    assert "<net>" not in page
    rows = list(csv_rows(found))
    assert len({len(row) for row in rows}) == 1
    table = io.StringIO()
    csv.writer(table).writerows(rows)
    read = list(csv.DictReader(io.StringIO(table.getvalue())))
    assert [row["items_per_s"] for row in read] == ["10", "", "30"]
    assert read[1]["missing"] == "nobody knows"
    assert read[0]["front"] == "true"
    assert render_sweep_page(swept(NONE))


def test_what_was_set_is_a_column_where_anything_was():
    plain = swept(figures())
    assert not any("set" in title for title in sweep_grids(plain)[0].head)
    setting = PowerAsked(power_limit_w=200.0, clocks_hz=(1.2e9, 1.5e9))
    limited = msgspec.structs.replace(plain, points=(msgspec.structs.replace(plain.points[0], setting=setting),))
    for grid in sweep_grids(limited):
        assert [grid.rows[0][grid.head.index(title)].text for title in ("set W", "set MHz")] == ["200", "1200-1500"]
    head, row = csv_rows(limited)
    assert [row[head.index(name)] for name in ("power_limit_w", "clock_least_hz", "clock_most_hz")] == [
        "200.0", "1200000000.0", "1500000000.0",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 60, 40])
def test_no_number_is_broken_in_a_narrow_terminal(width):
    each = figures(1234.5, 1.2345e-3, clock_hz=1.98e9, validity="invalid")
    setting = PowerAsked(power_limit_w=700.0, clocks_hz=(1.2e9, 1.5e9))
    found = msgspec.structs.replace(
        swept(each, each),
        points=tuple(msgspec.structs.replace(point, setting=setting) for point in points(each, each)),
    )
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render_sweep(found))
    text = console.file.getvalue()
    words = " ".join(text.split())
    for number in ("1200-1500", "1.234 k [1]", "1.524 W", "1.234 mJ", "±1.00%", "810.0", "1.980 GHz", "1.00 GiB"):
        assert words.count(number) >= 2, number
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("items/s  " in text) is (width == 80)


def test_a_jetson_is_told_of_its_power_modes(monkeypatch, tmp_path):
    board = msgspec.structs.replace(example_cpu(), name="jetson", kind="jetson")
    monkeypatch.setattr(energy_sweep, "find_target", lambda name: Target(device=board, profile=None))
    request = msgspec.structs.replace(
        full_result().request, model="digits_cnn", device="jetson", engines=("onnxruntime",), precisions=("fp32",),
        mode="energy",
    )  # fmt: skip
    with pytest.raises(UsageError, match="power modes") as raised:
        energy_sweep.sweep(request, Axes(batch_sizes=(1,), power_limits_w=(10.0,)), tmp_path)
    command = "hwbench doctor --apply power_mode=15W -- hwbench energy sweep digits_cnn --device jetson"
    assert command in raised.value.hint


# signals


def test_a_signal_waits_until_it_is_let_in():
    order = []

    def work():
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGTERM)
            order.append("changed")
            with interrupts.let_in():
                order.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert order == ["changed"]


def test_a_signal_ends_what_it_is_let_in_to():
    order = []

    def work():
        with Interrupts() as interrupts:
            try:
                with interrupts.let_in():
                    os.kill(os.getpid(), signal.SIGHUP)
                    order.append("never")
            finally:
                os.kill(os.getpid(), signal.SIGINT)  # a second one does not end the putting back
                order.append("put back")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert order == ["put back"]


def test_a_signal_at_the_end_is_not_lost():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
