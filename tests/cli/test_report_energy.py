"""``hwbench report`` on results that hold energy: the terminal, the page, CSV and JSON."""

import csv
import io
import json

import pytest
from command import failed, hwbench
from fixtures_energy import energy_result, sweep, write_run

from hwbench.files import write_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a result, its traces, and a sweep in files of their own."""
    folder = tmp_path_factory.mktemp("energy")
    write_record(folder / "run" / "result.json", write_run(folder / "run", energy_result()))
    write_record(folder / "run" / "request.json", energy_result().request)
    for number, result in enumerate(sweep()):
        write_record(folder / f"{number}.json", result)
    return folder


def test_the_terminal_shows_energy_once_after_the_table(folder):
    shown = hwbench("report", "run", cwd=folder, COLUMNS="120")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("openvino bf16 needs the least energy") == 1
    assert shown.stdout.count("~10.0 mJ") == 1
    assert "there, with the SHA-256" in shown.stdout


def test_a_result_file_finds_its_traces_as_its_folder_does(folder):
    for given in ("run", "run/result.json"):
        assert hwbench("report", given, "-o", f"{given[-4:]}.html", cwd=folder).returncode == 0
        page = (folder / f"{given[-4:]}.html").read_text(encoding="utf-8")
        assert page.count("Power over time") >= 2
        assert "no power trace" not in page


def test_several_results_side_by_side(folder):
    names = [f"{number}.json" for number in range(5)]
    shown = hwbench("report", *names, "--csv", "energy", cwd=folder)
    assert [row["batch_size"] for row in csv.DictReader(io.StringIO(shown.stdout))] == ["1", "2", "4", "8", "16"]
    written = hwbench("report", *names, "-o", "energy.json", cwd=folder)
    assert (written.returncode, written.stdout) == (0, "")
    document = json.loads((folder / "energy.json").read_text(encoding="utf-8"))
    assert len(document["groups"][0]["rows"]) == 5
    assert json.loads(hwbench("report", *names, "--json", cwd=folder).stdout) == document


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--json", "--csv", "energy"], "--json goes to standard output"),
        (["--json", "-o", "page.html"], "--json goes to standard output"),
        (["--csv", "energy", "-o", "energy.json"], "does not go into a page or JSON"),
        (["--json", "--layers"], "--layers is for the terminal"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments, part, folder):
    failed(hwbench("report", "run", *arguments, cwd=folder), 2, part)
