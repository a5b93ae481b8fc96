import csv
import io

import msgspec
import pytest
from fixtures_results import HOSTILE, full_result, hostile_result, make_measurement, make_model, make_result
from fixtures_results import throughput_result as make_throughput_result
from rich.console import Console

from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.report.text import layers_table, plain, render_table, to_csv


def show(renderable, width=80, **options):
    console = Console(width=width, file=io.StringIO(), **{"no_color": True, "color_system": None, **options})
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("result", [full_result(), make_throughput_result(), hostile_result()], ids=lambda _: "")
def test_every_line_fits(result, width):
    assert max(len(line) for line in show(render_table(result), width).splitlines()) <= width


def test_at_80_columns_numbers_stay_whole():
    text = show(render_table(full_result()))
    for whole in ("2.320–2.329 ms", "openvino bf16", "58.0 mJ ±5% [1]", "torch-compile fp32", "suspect", "best"):
        assert whole in text
    assert "costs of" in text


def test_a_wide_terminal_gets_one_table():
    text = show(render_table(full_result()), 200)
    assert "costs of" not in text
    line = next(line for line in text.splitlines() if line.startswith("best"))
    assert "2.324 ms" in line
    assert "58.0 mJ" in line
    assert line.rstrip().endswith("suspect")


def test_everything_that_must_be_said_is_said():
    text = " ".join(show(render_table(full_result())).split())
    for part in (
        "UNTRAINED",
        "accuracy and the output values mean nothing",
        "openvino bf16 is fastest",
        "asked auto, built bf16",
        "frequency_drift: the clock fell by 8%",
        "cure: fix the frequency",
        "Failed: openvino int8: the worker was killed by signal 9",
        "Not measured: tensorrt fp16: TensorRT needs an NVIDIA GPU",
        "~210 mJ per inference (between",
        "[4] RAPL counters are readable by root only",
        "NonMaxSuppression",
        "virtualised by kvm",
    ):
        assert part in text


def test_unfinished_and_empty_runs_say_so():
    assert "INTERRUPTED" in show(render_table(full_result(status="interrupted")))
    assert "PARTIAL" in show(render_table(full_result(status="partial")))
    assert "PARTIAL" not in show(render_table(full_result()))
    assert "No engine was measured." in show(render_table(full_result(measurements=())))


def test_trained_weights_are_not_called_untrained():
    result = make_result(make_measurement(), model=make_model(weights="trained"))
    assert "UNTRAINED" not in show(render_table(result))


def test_names_are_not_markup_and_do_not_drive_the_terminal():
    evil = "[red]x[/red] \x1b[2J\x07 \u202egnp\r\x9b1m"
    result = make_result(make_measurement(evil), model=make_model(evil, source=evil))
    text = show(render_table(result), 200, no_color=False, color_system="truecolor", force_terminal=True)
    assert "[red]x[/red] \\x1b[2J\\x07 \\u202egnp\\r\\x9b1m" in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "[bold]" in show(render_table(hostile_result()), 200)


def test_plain_keeps_lines():
    assert plain("a\nb\x00").plain == "a\nb\\x00"


def test_layers_add_up_to_the_median():
    measurement = full_result().measurements[3]
    lines = show(layers_table(measurement, 3), 120).splitlines()
    assert sum(line.startswith(("Conv", "Gemm")) for line in lines) == 3
    text = "\n".join(lines)
    assert f"{len(measurement.layers.rows) - 3} other layers" in text
    assert "no layer (unattributed)" in text
    assert "100.0%" in text
    assert "[1]" in show(layers_table(measurement, 100), 120)


def test_no_layers_gives_the_reason():
    text = show(layers_table(full_result().measurements[1]), 200)
    assert "compiled code has no per-layer clock; use torch-eager" in text


def table(result, what):
    return list(csv.DictReader(io.StringIO(to_csv(result, what), newline="")))


def test_csv_of_measurements_keeps_values_and_reasons():
    result = full_result()
    lines = table(result, "measurements")
    assert [line["outcome"] for line in lines] == ["measured"] * 4 + ["not_measured", "failed"]
    assert float(lines[3]["median_s"]) == result.measurements[3].latency.median_s
    assert lines[0]["p99_s"] == ""
    assert "p99_s: p99 needs 1000 samples" in lines[0]["missing"]
    assert lines[0]["energy_per_inference_j"] == ""
    assert float(lines[0]["estimate_energy_per_inference_j"]) == 0.21
    assert lines[1]["compile_s"] == ""
    assert "killed by signal 9" in lines[5]["missing"]


def test_csv_of_layers_adds_up():
    result = full_result()
    lines = [line for line in table(result, "layers") if line["engine"] == "openvino"]
    assert sum(float(line["scaled_s"]) for line in lines) == pytest.approx(result.measurements[3].layers.median_s)
    assert lines[-1]["name"] == "(unattributed)"
    without = [line for line in table(result, "layers") if line["engine"] == "torch-compile"]
    assert [line["name"] for line in without] == [""]
    assert "no per-layer clock" in without[0]["missing"]


def test_csv_of_samples_has_every_sample_in_order():
    result = full_result()
    lines = [line for line in table(result, "samples") if line["engine"] == "openvino"]
    timed = [int(line["sample_ns"]) for line in lines if line["phase"] == "timed"]
    assert timed == list(result.measurements[3].samples_ns)
    assert sum(line["phase"] == "warmup" for line in lines) == len(result.measurements[3].warmup_ns)


def test_csv_survives_hostile_text_and_disarms_formulas():
    assert table(hostile_result(), "measurements")[3]["engine"] == HOSTILE
    result = make_result(make_measurement("=cmd|'/c calc'!A1"))
    assert table(result, "measurements")[0]["engine"] == "'=cmd|'/c calc'!A1"


def test_csv_of_anything_else_is_refused():
    with pytest.raises(UsageError, match="no table 'cats'"):
        to_csv(full_result(), "cats")


def test_missing_latency_is_a_row_of_reasons():
    gone = Missing(code="crashed", why="the worker died before the first statistic")
    measurement = msgspec.structs.replace(make_measurement(), latency=gone)
    assert "the worker died" in " ".join(show(render_table(make_result(measurement))).split())
