"""The page in a real browser: charts drawn, nothing fetched, nothing that a hostile name could run."""

import re
import shutil
import subprocess

import pytest
from fixtures_energy import energy_result, hostile_energy, hostile_trace, make_trace, power_modes, sweep
from fixtures_results import full_result, hostile_result, throughput_result

from hwbench.records.sweep import PowerAsked, SweepFigures, SweepPoint, SweepResult
from hwbench.report.html import extract_results, render_page
from hwbench.report.sweep import render_sweep_page

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")

PAGES = {
    "full": [full_result()],
    "throughput": [throughput_result()],
    "hostile": [hostile_result()],
    "several": [full_result(), full_result(scale=1.1, run_id="later")],
    "energy": [energy_result()],
    "energy sweep": sweep(),
    "energy modes": power_modes(),
    "hostile energy": [hostile_energy()],
}
TRACES = {"0" * 64: make_trace(50.0)}


def run_browser(path, profile, *actions):
    """Open the page, do what the flags say, and return stdout and the browser's log."""
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            f"--user-data-dir={profile}",
            *actions,
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("name", PAGES)
def test_charts_are_drawn_and_nothing_is_fetched(name, tmp_path):
    path = tmp_path / "page.html"
    traces = hostile_trace(hostile_energy().measurements[0].energy_run) if name.startswith("hostile") else TRACES
    page = render_page(PAGES[name], traces=traces)
    path.write_text(page, encoding="utf-8")
    dom, log = run_browser(path, tmp_path / "profile", "--dump-dom")
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []
    plots = re.findall(r'<div class="plot[^"]*" data-figure="([^"]+)"', dom)
    drawn = re.split(r'<div class="plot[^"]*" data-figure="', dom)[1:]
    assert len(plots) == page.count('data-figure="') >= 4
    assert all('class="main-svg"' in part for part in drawn)
    assert "This chart needs JavaScript" not in dom
    without_scripts = re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//", without_scripts)
    assert not re.search(r"<img[^>]*onerror", without_scripts)
    assert extract_results(dom) == PAGES[name]


def test_a_sweep_is_drawn(tmp_path):
    path = tmp_path / "sweep.html"
    path.write_text(render_sweep_page(hostile_sweep()), encoding="utf-8")
    dom, log = run_browser(path, tmp_path / "profile", "--dump-dom")
    assert dom.count('class="main-svg"') >= 2
    assert "Uncaught" not in log
    assert "<img src=x" not in dom


def hostile_sweep():
    figures = SweepFigures(
        items_per_s=10.0, power_w=20.0, item_j=2.0, item_low_j=1.9, item_high_j=2.1, relative_uncertainty=0.1,
        items_per_j=0.5, clock_hz=1e9, memory_bytes=1, memory_of="a", boundary="b", provenance="measured_onboard",
        validity="valid", front=True,
    )  # fmt: skip
    setting = PowerAsked(power_limit_w=300.0)
    return SweepResult(
        schema_version=1, hwbench="0", created_at="", model="<script>alert(1)</script>",
        device="<img src=x onerror=alert(1)>",
        engine="e", precision="p", points=(SweepPoint(batch_size=1, setting=setting, folder="f", figures=figures),),
    )  # fmt: skip


def test_charts_are_still_there_in_print(tmp_path):
    """The script redraws for paper before printing; a page whose charts vanish there prints far less ink."""
    path, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    path.write_text(render_page(PAGES["throughput"]), encoding="utf-8")
    run_browser(path, tmp_path / "profile", f"--print-to-pdf={paper}")
    drawn = paper.stat().st_size
    bare = re.sub(r'<div class="plot".*?</div>', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    path.write_text(bare, encoding="utf-8")
    run_browser(path, tmp_path / "profile", f"--print-to-pdf={paper}")
    assert drawn > 2 * paper.stat().st_size
