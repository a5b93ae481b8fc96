import io
import xml.etree.ElementTree as ET

import pytest
from fixtures_results import HOSTILE, make_energy, make_measurement, make_model, make_result
from rich.console import Console

from hwbench.compare.goals import parse_goal
from hwbench.compare.saved import Choice
from hwbench.compare.wanted import Waived
from hwbench.comparison_pipeline import compare_results
from hwbench.records.comparison import Settings
from hwbench.report.junit import to_junit
from hwbench.report.markdown import escape, to_markdown
from hwbench.report.verdict_text import render_comparison

SETTINGS = Settings(min_effect=0.02, min_latency_s=1e-6, min_memory_bytes=2**20, between_runs=0.005, seed=0)


def comparison(name="mobilenet_v2", scale=1.1, goals=("latency>3%", "energy>50%"), given=("a.json", "b.json")):
    results = tuple(
        make_result(
            make_measurement(n=1000, seed=seed, median_s=4.5e-3 * factor, **make_energy(0.1, 1000)),
            model=make_model(name, hub_sha256=f"{seed}" * 64),
        )
        for seed, factor in ((1, 1.0), (2, scale))
    )
    goals = [parse_goal(text) for text in goals]
    return compare_results(given, results, Choice(), SETTINGS, goals=goals, waived=Waived())


def show(item, width=80):
    console = Console(width=width, file=io.StringIO(), no_color=True, color_system=None)
    console.print(render_comparison(item))
    return console.file.getvalue()


def test_the_text_says_it_all_in_80_columns():
    text = show(comparison())
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for part in (
        "onnxruntime fp32: B is SLOWER than A: latency +10",
        "--fail-if latency>3%: MISSED",
        "--fail-if energy>50%: holds",
        "4.5",
        "intervals hold with 95%",
        "no accuracy: accuracy is not in saved results",
        "compile (no verdict): A 420 ms, B 420 ms",
        "differs: model: mobilenet_v2 1111",
        "not interleaved",
    ):
        assert part in words
    row = next(line for line in text.splitlines() if line.startswith("latency "))
    assert row.split()[-1] == "SLOWER"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_hostile_names_neither_colour_nor_widen_the_text(width):
    text = show(comparison(HOSTILE + "\x1b[31m", given=(HOSTILE, "b\x1b[2J")), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "[bold]" in "".join(text.split())


def test_markdown_has_a_table_and_the_goals():
    text = to_markdown(comparison())
    assert "| metric | A | B | B/A | interval | verdict |" in text
    assert "- **MISSED**:" in text
    rows = [line for line in text.splitlines() if line.startswith("| latency |")]
    assert len(rows) == 1
    assert rows[0].endswith("| SLOWER |")


@pytest.mark.parametrize(
    "hostile", [HOSTILE, "| a | b |\n# title", "[x](http://evil.example)", "`code` **bold**", "<!-- hidden -->", "@all"]
)
def test_markdown_shows_hostile_text_as_it_is(hostile):
    shown = escape(hostile)
    for markup in ("<", "\n", "://"):
        assert markup not in shown
    for character in "|[]`*#@":
        assert character not in shown.replace(f"\\{character}", "").replace("&#8203;", "")
    assert shown in to_markdown(comparison(given=(hostile, "b")))


def test_junit_holds_a_case_a_goal_and_a_metric():
    suite = ET.fromstring(to_junit(comparison(goals=("latency>3%", "peak_memory>1%", "energy>2%")), strict=False))[0]
    cases = {case.get("name"): case for case in suite}
    assert cases["--fail-if latency>3%"].find("failure") is not None
    assert cases["--fail-if energy>2%"].find("skipped") is not None
    assert len(cases["--fail-if peak_memory>1%"]) in {0, 1}
    assert "SLOWER" in cases["latency"].findtext("system-out")
    assert cases["accuracy"].find("skipped") is not None
    assert (suite.get("tests"), suite.get("failures")) == (str(len(suite)), "1")


def test_junit_strict_fails_what_cannot_be_told():
    strict = ET.fromstring(to_junit(comparison(goals=("energy>2%",)), strict=True))[0]
    assert strict[0].find("failure").get("type") == "unknown"


def test_junit_is_well_formed_whatever_the_names_hold():
    hostile = HOSTILE + "\x00\x08\ud800\uffff]]>"
    root = ET.fromstring(to_junit(comparison(HOSTILE, given=(hostile, hostile)), strict=False))
    assert len(root) == 1
    assert b"<script" not in to_junit(comparison(HOSTILE), strict=False)
