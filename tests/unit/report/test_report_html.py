import hashlib
import html
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import msgspec
import pytest
from fixtures_results import (
    HOSTILE,
    full_result,
    hostile_result,
    make_device,
    make_measurement,
    make_model,
    make_result,
    throughput_result,
)

from hwbench.errors import StorageError
from hwbench.records.base import Missing
from hwbench.report.html import extract_results, render_page


class Outline(HTMLParser):
    """What a browser would see: the elements with their attributes, scripts apart, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts, self.text, self.script = [], [], "", None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.script = ""

    def handle_endtag(self, tag):
        if tag == "script":
            self.scripts.append(self.script)
            self.script = None

    def handle_data(self, data):
        if self.script is None:
            self.text += data
        else:
            self.script += data


@pytest.fixture(scope="module")
def full_page():
    return render_page([full_result()])


@pytest.fixture(scope="module")
def hostile_page():
    return render_page([hostile_result()])


@pytest.mark.parametrize("result", [full_result(), throughput_result(), hostile_result()], ids=["full", "rate", "evil"])
def test_a_page_turns_back_into_its_results(result):
    assert extract_results(render_page([result])) == [result]


def test_the_page_says_what_the_terminal_says(full_page):
    text = " ".join(Outline(full_page).text.split())
    for part in (
        "openvino bf16 is fastest",
        "UNTRAINED",
        "asked auto, built bf16",
        "Cure: fix the frequency",
        "the worker was killed by signal 9",
        "TensorRT needs an NVIDIA GPU",
        "~210 mJ per inference",
        "RAPL counters are readable by root only",
        "Roofs: measured here by 'hwbench calibrate'",
        "no layer (unattributed)",
        "thinned for drawing",
        '"timeout_s": 600.0',
    ):
        assert part in text, part


def test_every_chart_has_a_figure_and_every_footnote_a_target(full_page):
    outline = Outline(full_page)
    figures = json.loads(outline.scripts[1])
    placed = [attrs["data-figure"] for _, attrs in outline.tags if "data-figure" in attrs]
    assert sorted(placed) == sorted(figures)
    assert len(placed) == len(set(placed)) == 13
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {attrs["href"] for tag, attrs in outline.tags if tag == "a"}
    assert links <= {f"#{name}" for name in ids}


def test_hostile_strings_stay_text(full_page, hostile_page):
    outline, harmless = Outline(hostile_page), Outline(full_page)
    assert len(outline.scripts) == len(harmless.scripts) == 4
    assert outline.scripts[2:] == harmless.scripts[2:]
    assert {tag for tag, _ in outline.tags} == {tag for tag, _ in harmless.tags}
    assert not [attrs for _, attrs in outline.tags for name in attrs if name.startswith("on")]
    assert HOSTILE in outline.text
    assert html.escape(HOSTILE, quote=False) in hostile_page
    assert "{{7*7}}" in outline.text
    assert json.loads(outline.scripts[0])[0]["model"]["name"] == HOSTILE
    for data in outline.scripts[:2]:
        assert not re.search("[<>&\u2028\u2029]", data)


def test_nothing_is_fetched_and_only_our_scripts_run(full_page):
    outline = Outline(full_page)
    assert not [attrs for _, attrs in outline.tags if "src" in attrs]
    assert all(attrs["href"].startswith("#") for _, attrs in outline.tags if "href" in attrs)
    policy = next(attrs["content"] for tag, attrs in outline.tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    assert policy.count("'sha256-") == 2
    assert "url(" not in full_page.partition("</style>")[0]


def test_plotly_is_the_one_that_the_readme_names():
    assets = files("hwbench.report").joinpath("assets")
    script = assets.joinpath("plotly-basic.min.js").read_bytes()
    readme = assets.joinpath("README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(script).hexdigest() in readme
    assert re.search(rb"plotly\.js \(basic - minified\) v([\d.]+)", script)[1].decode() in readme
    assert b"</script" not in script.lower()
    assert "MIT License" in assets.joinpath("plotly-basic.LICENSE").read_text(encoding="utf-8")


def test_no_roofline_gives_the_reason():
    gone = Missing(code="not_calibrated", why="this machine was never calibrated", cure="hwbench calibrate")
    text = Outline(render_page([full_result(roofline_source=gone)])).text
    assert "No roofline: this machine was never calibrated; hwbench calibrate." in text
    assert "no bandwidth is known" in Outline(render_page([full_result(bandwidth_bytes_per_s={})])).text
    invalid = make_result(full_result().measurements[1])
    assert "no measurement that may be believed has per-layer times" in Outline(render_page([invalid])).text


def test_a_result_without_measurements_is_still_a_page():
    text = Outline(render_page([full_result(measurements=(), status="interrupted")])).text
    assert "No engine was measured." in text
    assert "INTERRUPTED" in text


def test_several_results_are_compared_with_the_reserve():
    first = full_result()
    second = full_result(scale=1.1, run_id="later", device=make_device("Raspberry Pi 5", fingerprint="other"))
    page = render_page([first, second])
    assert extract_results(page) == [first, second]
    text = " ".join(Outline(page).text.split())
    assert "These results were not interleaved" in text
    assert "small differences here are no evidence" in text
    assert "(1.100x)" in text
    assert "Conditions that differ." in text
    assert "Raspberry Pi 5" in text


def test_ratios_refer_to_the_baseline_which_comes_first():
    base, other = full_result(scale=2.0, run_id="base"), full_result(run_id="other")
    page = render_page([other], baseline=base)
    assert extract_results(page) == [base, other]
    assert "(0.500x)" in Outline(page).text
    assert extract_results(render_page([other, base], baseline=base)) == [base, other]


def test_no_ratio_between_different_networks_or_with_what_is_not_believed():
    first = full_result()
    other = full_result(scale=3.0, model=make_model("resnet50", hub_sha256="0" * 64))
    text = Outline(render_page([first, other])).text
    assert "another network or batch size" in text
    assert "3.000x" not in text
    again = Outline(render_page([make_result(first.measurements[1]), make_result(first.measurements[1])])).text
    assert "1.000x" not in again


def test_engines_of_one_result_only_are_dashes_in_the_comparison():
    page = render_page([make_result(make_measurement("a")), make_result(make_measurement("b"))])
    assert "not measured in this result" in Outline(page).text


def test_a_page_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one result"):
        render_page([])


@pytest.mark.parametrize(
    "damage",
    [
        lambda page: "<html>a letter</html>",
        lambda page: page[: page.index('id="hwbench-data"') + 500],
        lambda page: page.replace('"schema_version":1', '"schema_version":', 1),
        lambda page: page.replace('"schema_version":1', '"schema_version":999', 1),
        lambda page: page.replace('"run_id":', '"walk_id":', 1),
        lambda page: page.replace('id="hwbench-data">[', 'id="hwbench-data">{', 1),
    ],
    ids=["foreign", "cut", "not-json", "newer", "wrong-field", "not-a-list"],
)
def test_a_damaged_page_is_refused(full_page, damage):
    with pytest.raises(StorageError):
        extract_results(damage(full_page))


def test_a_result_with_one_layer_of_no_time_is_drawn():
    measurement = make_measurement()
    table = measurement.layers
    rows = (msgspec.structs.replace(table.rows[0], scaled_s=0.0, measured_s=0.0, share=0.0), *table.rows[1:5])
    measurement = msgspec.structs.replace(measurement, layers=msgspec.structs.replace(table, rows=rows))
    assert "saw no time in it" in Outline(render_page([make_result(measurement)])).text
