import io

import pytest
from fixtures_energy import energy_result, hostile_energy, power_modes, sweep, write_run
from fixtures_results import full_result, make_measurement, make_result
from rich.console import Console

from hwbench.report.energy_text import render_energy
from hwbench.report.energy_traces import find_traces


def show(renderable, width=100, **options):
    console = Console(width=width, file=io.StringIO(), **{"no_color": True, "color_system": None, **options})
    console.print(renderable)
    return console.file.getvalue()


def lines_of(text):
    return " ".join(text.split())


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("results", [[energy_result()], [hostile_energy()], sweep(), power_modes(), [full_result()]])
def test_every_line_fits(results, width):
    assert max(len(line) for line in show(render_energy(results), width).splitlines()) <= width


def test_a_wide_terminal_has_a_row_a_narrower_one_a_column_for_each_measurement():
    wide = show(render_energy([energy_result()]), 160).splitlines()
    head = next(line for line in wide if "J/inference, total" in line)
    row = wide[wide.index(head) + 2]
    assert "inferences/J" in head
    assert row.split()[:2] == ["openvino", "bf16"]
    assert "120.0 mJ" in row
    narrow = show(render_energy([energy_result()]), 80).splitlines()
    assert next(line for line in narrow if "J/inference, total" in line).split()[-4:] == ["120.0", "mJ", "200.0", "mJ"]


def test_everything_that_must_be_said_is_said(tmp_path):
    result = write_run(tmp_path, energy_result())
    (tmp_path / "runs/1/trace.jsonl").unlink()
    text = lines_of(show(render_energy([result], find_traces(result, tmp_path))))
    for part in (
        "openvino bf16 needs the least energy",
        "±0.88%, n=5",
        "instrument (Type B, k=2)",
        "idle_active: model loaded, no work",
        "clocks_not_locked: the clocks may change",
        "One plain window each, not the plateau method",
        "torch-compile fp32: 420.0 mJ per inference",
        "repeatability not known (one window)",
        "trace of onnxruntime fp32: runs/0/trace.jsonl: there",
        "trace of openvino bf16: runs/1/trace.jsonl: the trace 'runs/1/trace.jsonl' cannot be read",
        "torch-eager fp32: RAPL counters are readable by root only",
        "Energy, ESTIMATED: not measured",
        "torch-eager fp32: ~10.0 mJ per inference (between 4.00 mJ and 19.0 mJ)",
    ):
        assert part in text, part


def test_several_results_stand_in_one_table():
    text = show(render_energy(power_modes()), 200)
    assert text.count("J/inference, total") == 1
    for name in ("A: tensorrt fp16, mode 15W", "B: tensorrt fp16, mode 30W", "C: tensorrt fp16, mode MAXN"):
        assert name in text


def test_without_energy_nothing_is_shown():
    assert render_energy([make_result(make_measurement())]) is None


def test_names_do_not_drive_the_terminal():
    text = show(render_energy([hostile_energy()]), 200, no_color=False, color_system="truecolor", force_terminal=True)
    assert "[bold]&" in text
    assert "\u2028" not in text
