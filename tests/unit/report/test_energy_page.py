import json
import re
from html.parser import HTMLParser

import pytest
from fixtures_energy import (
    energy_result,
    hostile_energy,
    hostile_trace,
    make_run,
    make_trace,
    power_limits,
    power_modes,
    sweep,
    with_run,
    write_run,
)
from fixtures_results import HOSTILE, make_measurement, make_result

from hwbench.report.energy_traces import find_traces
from hwbench.report.html import extract_results, render_page


class Outline(HTMLParser):
    """The elements of a page with their attributes, its text, and its figures."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.inside, self.scripts = [], "", None, []
        self.feed(page)
        self.raw, self.text = self.text, " ".join(self.text.split())
        self.figures = json.loads(self.scripts[1])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in {"script", "style"} else None
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside is None:
            self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("result")
    result = write_run(folder, energy_result())
    return render_page([result], traces=find_traces(result, folder))


def figure(outline, title):
    """Return the figure below a heading."""
    name = next(a["data-figure"] for _, a in outline.tags if title in (a.get("aria-label") or ""))
    return outline.figures[name]


def test_the_page_says_in_order_what_where_how_and_how_sure(page):
    text = Outline(page).text
    order = [
        "Boundary: CPU package and its memory",
        "openvino bf16 needs the least energy: 120.0 mJ per inference",
        "measured by a sensor on the board (rapl); repeats within ±0.88%; absolute within ±10% (k=2)",
        "What was measured",
        "Operating point",
        "Performance",
        "J/inference, total",
        "idle_active: model loaded, no work",
        "p95 and peak are of means over",
        "crosscheck",
        "What the flags mean",
        "Energy over latency",
        "Energy per inference by domain",
        "Power over time, onnxruntime fp32",
        "Energy not measured",
        "Energy, ESTIMATED: not measured",
    ]
    places = []
    for part in order:
        places.append(text.find(part, places[-1] if places else 0))
    assert -1 not in places, order[places.index(-1)]


def test_every_chart_is_placed_once_and_can_be_read_out(page):
    outline = Outline(page)
    placed = [attrs["data-figure"] for _, attrs in outline.tags if "data-figure" in attrs]
    assert sorted(placed) == sorted(outline.figures)
    energy = [attrs for _, attrs in outline.tags if "aria-label" in attrs and "data-figure" in attrs]
    assert len(energy) == 8  # two groups, the plane, two breakdowns, two traces, the estimate
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 40 for attrs in energy)
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for tag, attrs in outline.tags if tag == "a"} <= {f"#{name}" for name in ids}
    heads = [attrs for tag, attrs in outline.tags if tag == "th" and "scope" in attrs]
    assert {attrs["scope"] for attrs in heads} == {"row", "col"}


def test_no_cell_of_a_table_is_blank(page):
    body = page.partition("<script")[0]
    section = body.partition("Energy, measured")[2].partition("Latency distribution")[0]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", section, re.DOTALL)
    assert len(cells) > 60
    assert all(re.sub(r"<[^>]+>", "", cell).strip() for cell in cells)


def test_the_trace_has_its_phases_channels_and_temperature(page):
    drawn = figure(Outline(page), "Power over time, openvino bf16")
    assert [trace["name"] for trace in drawn["data"]] == ["package-0", "regulator (crosscheck)", "package temperature"]
    assert drawn["data"][2]["yaxis"] == "y2"
    assert len(drawn["layout"]["shapes"]) == 8
    assert [note["text"] for note in drawn["layout"]["annotations"]][:3] == ["idle before", "warm-up", "window 1"]


def test_without_a_temperature_there_is_no_panel_for_it_and_that_is_said(tmp_path):
    result = write_run(tmp_path, energy_result(), heat=False)
    outline = Outline(render_page([result], traces=find_traces(result, tmp_path)))
    assert "yaxis2" not in figure(outline, "Power over time, openvino bf16")["layout"]
    assert "No temperature is in the trace" in outline.text


def test_a_trace_that_was_not_found_is_said_to_be(tmp_path):
    result = write_run(tmp_path, energy_result())
    assert "no power trace: made from the result alone" in Outline(render_page([result])).text
    (tmp_path / "runs/0/trace.jsonl").write_text("something else")
    text = Outline(render_page([result], traces=find_traces(result, tmp_path))).text
    assert "no power trace: the trace 'runs/0/trace.jsonl' was changed since" in text
    assert "Power over time, openvino bf16" in text


def test_measured_and_estimated_are_visibly_apart(page):
    outline = Outline(page)
    bars = figure(outline, "Estimated energy per inference")["data"][0]
    assert bars["marker"]["pattern"]["shape"] == "/"
    assert all(name.startswith("~ ") for name in bars["y"])
    for title in ("Energy per inference. ", "Energy over latency"):
        names = json.dumps(figure(outline, title)["data"])
        assert "torch-eager" not in names
        assert "pattern" not in names
    estimated = page.partition('<section class="estimated"')[2].partition("</section>")[0]
    for part in ("~10.0 mJ per inference", "between 4.00 mJ and 19.0 mJ", "utilisation x rated power", "rated_power_w"):
        assert part in estimated
    assert "Nothing below was measured" in estimated


def test_both_bands_are_drawn():
    drawn = figure(Outline(render_page([energy_result()])), "Energy per inference. ")
    whole, repeats = drawn["data"]
    assert whole["x"] == repeats["x"] == pytest.approx([0.12, 0.2])
    assert repeats["error_x"]["array"][1] == pytest.approx(0.00176, rel=0.01)
    assert whole["error_x"]["array"][1] == pytest.approx(0.0201, rel=0.01)


def test_a_sweep_side_by_side():
    outline = Outline(render_page(sweep()))
    drawn = figure(outline, "Efficiency over batch size")
    items, ring, each = drawn["data"]
    assert items["x"] == [1, 2, 4, 8, 16]
    assert items["y"] == pytest.approx([12.5, 16.0, 16.667, 17.256, 16.543], rel=1e-3)
    assert each["y"][-1] == pytest.approx(16.543 / 16, rel=1e-3)
    assert (ring["x"], ring["name"]) == ([4], "knee")
    assert ring["y"] == [pytest.approx(items["y"][2])]
    assert "knee at batch 4 (ring), the smallest measured with at least 95%" in outline.text
    assert "Only the points were measured" in outline.text
    assert "E: openvino bf16, batch 16" in outline.text


def test_power_limits_and_modes_side_by_side():
    outline = Outline(render_page(power_limits()))
    assert figure(outline, "Efficiency over power limit")["data"][0]["x"] == [300, 500, 700]
    assert "most inferences per joule measured at 300 W" in outline.text
    outline = Outline(render_page(power_modes()))
    drawn = figure(outline, "Efficiency over power mode")["data"][0]
    assert (drawn["x"], drawn["mode"]) == (["15W", "30W", "MAXN"], "markers")
    assert "Efficiency over power limit" not in outline.text


def test_different_boundaries_are_said_not_to_compare():
    board = make_run(80.0, 4e-3, boundary="the whole board, at its input")
    result = make_result(with_run("a", "fp32", make_run(50.0, 4e-3)), with_run("b", "fp32", board))
    assert "never ranked against each other" in Outline(render_page([result])).text
    assert "never ranked against each other" not in Outline(render_page([energy_result()])).text


def test_a_result_without_energy_has_no_section():
    text = Outline(render_page([make_result(make_measurement())])).text
    assert "Energy, measured" not in text
    assert "RAPL counters are readable by root only" in text


def test_hostile_strings_stay_text():
    evil = hostile_energy()
    run = evil.measurements[0].energy_run
    page = render_page([evil], traces=hostile_trace(run))
    outline, harmless = Outline(page), Outline(render_page([energy_result()], traces={"0" * 64: make_trace(50.0)}))
    assert {tag for tag, _ in outline.tags} <= {tag for tag, _ in harmless.tags}
    assert len(outline.scripts) == 4
    assert not [attrs for _, attrs in outline.tags for name in attrs if name.startswith("on")]
    for data in outline.scripts[:2]:
        assert not re.search("[<>&\u2028\u2029]", data)
    drawn = json.dumps(outline.figures)
    assert "onerror" in drawn
    assert "<img" not in drawn
    assert outline.raw.count(HOSTILE) > 20
    assert extract_results(page) == [evil]
