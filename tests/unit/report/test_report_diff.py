import csv
import io
import math

import pytest
from fixtures_results import hostile_result, make_measurement, make_result
from rich.console import Console

from hwbench.diff.compare import compare
from hwbench.records.base import Missing
from hwbench.report.diff_text import difference_csv, render_difference


def pair(a_s=4.5e-3, b_s=2.3e-3):
    a, b = make_measurement("onnxruntime", "fp32", median_s=a_s), make_measurement("openvino", "bf16", median_s=b_s)
    return (make_result(a), a), (make_result(b), b)


def show(difference, width=80, top=20):
    console = Console(width=width, file=io.StringIO(), no_color=True, color_system=None)
    console.print(render_difference(difference, top))
    return console.file.getvalue()


def hostile():
    result = hostile_result()
    a, b = [m for m in result.measurements if not isinstance(m.layers, Missing)][:2]
    return compare((result, a), (result, b))


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("by", ["unit", "module", "op"])
def test_every_line_fits_and_numbers_stay_whole(width, by):
    text = show(compare(*pair(), grouping=by), width)
    assert max(map(len, text.splitlines())) <= width
    end = next(line for line in text.splitlines() if line.startswith("end to end"))
    assert "-2.21 ms" in end
    assert "in no unit" in text


def test_what_is_said():
    text = " ".join(show(compare(*pair()), 200).split())
    assert "A: onnxruntime fp32" in text
    assert "B: openvino bf16" in text
    assert "-48.9% of A" in text or "-48.8% of A" in text
    assert "cannot be told" not in text
    assert "features.1.depthwise + features.1.add" in text
    assert "inserted by the runtime in B" in text
    assert "median of one profiling run" in text


def test_top_sums_up_the_rest():
    found = compare(*pair())
    text = show(found, 200, top=2)
    line = next(line for line in text.splitlines() if "other rows" in line)
    assert line.startswith(f"{len(found.rows) - 2} other rows")
    assert "other rows" not in show(found, 200, top=None)


def test_a_difference_within_the_noise_is_said_to_be():
    assert "cannot be told" in " ".join(show(compare(*pair(4.5e-3, 4.501e-3))).split())


def test_csv_adds_up_and_has_one_line_a_row():
    found = compare(*pair())
    lines = list(csv.DictReader(io.StringIO(difference_csv(found))))
    assert len(lines) == len(found.rows) + 1
    assert lines[-1]["kind"] == "unattributed"
    assert math.fsum(float(line["difference_s"]) for line in lines) == pytest.approx(found.difference_s, abs=1e-15)
    assert {line["missing"] for line in lines} == {""}


def test_csv_without_a_difference_says_why_there_is_no_share():
    lines = list(csv.DictReader(io.StringIO(difference_csv(compare(*pair(4e-3, 4e-3))))))
    assert all(line["share"] == "" and "no difference" in line["missing"] for line in lines)


def test_hostile_names_do_nothing():
    text = show(hostile())
    assert "\u2028" not in text
    assert "[bold]" in " ".join(text.split()).replace(" ", "")
    for line in csv.reader(io.StringIO(difference_csv(hostile()))):
        assert not any(cell.startswith(("=", "@")) for cell in line)
