"""``hwbench energy`` and ``--mode energy`` from outside, with a recorded meter."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main
from command import ROOT, failed, hwbench, result_of, tiny_onnx
from large import LARGE
from synthetic_traces import ExternalRun, Schedule, channel, external_result, span, trace_of

from hwbench.cli.main import app
from hwbench.energy.trace import write_trace

ENERGY = typer.main.get_command(app).commands["energy"]
RUN = ("--mode", "energy", "--meter", "replay", "--energy-window", "1s", "--energy-repeats", "2", "--max-warmup", "1s")


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    """Ten minutes of a power sensor that shows about 50 W, whatever happens."""
    path = tmp_path_factory.mktemp("tape") / "tape.jsonl"
    lines = [json.dumps({"t_s": i * 0.1, "power_w": 50 + (i * 7919 % 13) * 0.1}) for i in range(6000)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tape, stubs):
    cwd = tmp_path_factory.mktemp("energy")
    tiny_onnx(cwd / "tiny.onnx", weight=0.0)
    run = hwbench(
        "profile", "tiny.onnx", *RUN, "-e", "stub-good", "-o", "out", cwd=cwd, path=[stubs],
        HWBENCH_REPLAY_TRACE=str(tape),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return SimpleNamespace(cwd=cwd, folder=cwd / "out")


@pytest.mark.slow
def test_an_energy_run_is_in_the_result_with_its_trace_beside(measured):
    (measurement,) = result_of(measured.folder)["measurements"]
    run = measurement["energy_run"]
    assert run["kind"] == "energy_run"
    assert run["meter"] == "replay"
    assert len(run["windows"]) == 2
    assert (measured.folder / run["trace"]).exists()
    assert measurement["latency"]["n"] == len(measurement["samples_ns"])
    assert measurement["stopped_by"] == "windows"


@pytest.mark.slow
def test_recompute_says_what_the_result_says(measured):
    saved = result_of(measured.folder)["measurements"][0]["energy_run"]
    again = hwbench("energy", "recompute", measured.folder / saved["trace"], "--json", cwd=measured.cwd)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == saved


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "energy.jsonl"
    write_trace(path, Schedule().trace(channel()))
    return path


def test_recompute_in_words(trace):
    run = hwbench("energy", "recompute", trace, cwd=trace.parent)
    assert run.returncode == 0, run.stderr
    for part in ("an inference", "1.000 J", "above idle", "800.0 mJ", "idle_active", "SHA-256"):
        assert part in run.stdout


def test_recompute_of_another_modes_trace_is_the_reading_of_its_window(tmp_path):
    samples = {"board": [(0.1 * i, 50.0 + i % 2) for i in range(300)]}
    write_trace(tmp_path / "energy.jsonl", trace_of([channel()], samples, span("window", 5.0, 25.0)))
    run = hwbench("energy", "recompute", "energy.jsonl", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "1.010 kJ in 20.0 s" in run.stdout
    data = json.loads(hwbench("energy", "recompute", "energy.jsonl", "--json", cwd=tmp_path).stdout)
    assert data["energy_j"] == pytest.approx(1010, abs=1)


def test_recompute_of_what_is_no_trace(tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n{}\n")
    failed(hwbench("energy", "recompute", "x.jsonl", cwd=tmp_path), 3, "is no trace")


def test_recompute_of_marks_alone(tmp_path):
    write_trace(tmp_path / "marks.jsonl", ExternalRun().trace())
    failed(hwbench("energy", "recompute", "marks.jsonl", cwd=tmp_path), 4, "marks alone", "hwbench energy import")


def test_import(tmp_path):
    run = ExternalRun()
    folder = external_result(tmp_path, run)
    recording = run.record(tmp_path / "meter.csv")
    done = hwbench("energy", "import", folder, recording, "-e", "onnxruntime", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "measured external" in " ".join(done.stdout.split())
    assert "clocks" in done.stdout
    assert "result.before-import-1.json" in done.stderr
    saved = result_of(folder)["measurements"][0]["energy_run"]
    assert saved["settings"]["imported_file"] == "meter.csv"
    shown = hwbench("report", folder / "result.json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr


def test_import_of_a_column_that_is_not_named(tmp_path):
    failed(hwbench("energy", "import", ".", "x.csv", "--column", "power", cwd=tmp_path), 2, "does not name a column")


def test_selftest_skips_where_there_is_no_meter(tmp_path):
    run = hwbench("energy", "selftest", "--meter", "replay", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["status"] == "skipped"
    assert result["meter"]["code"] == "no_trace"
    words = hwbench("energy", "selftest", "--meter", "replay", cwd=tmp_path)
    assert words.stdout.startswith("skipped: no meter to test")


def test_selftest_of_no_meter(tmp_path):
    failed(hwbench("energy", "selftest", "--meter", "none", cwd=tmp_path), 2, "no meter that can be tested")


@pytest.mark.slow
@LARGE  # more than a minute of real load; the checks themselves are tested on made meters
def test_selftest_of_a_meter_that_sees_nothing_fails(tmp_path, tape):
    run = hwbench(
        "energy", "selftest", "--meter", "replay", "--json", "--trace", "raw.jsonl", cwd=tmp_path,
        HWBENCH_REPLAY_TRACE=str(tape),
    )  # fmt: skip
    assert run.returncode == 4, run.stderr
    result = json.loads(run.stdout)
    failing = {check["name"] for check in result["checks"] if check["status"] == "failed"}
    assert {"load_above_idle", "duty_is_linear"} <= failing
    assert (tmp_path / "raw.jsonl").exists()


def test_an_energy_run_without_a_meter_is_refused_before_it_begins(tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx")
    run = hwbench("profile", "tiny.onnx", "--mode", "energy", "--meter", "replay", "-o", "out", cwd=tmp_path)
    failed(run, 3, "no energy can be measured", "replay: no trace", "--meter external")
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--meter", "external"], "--meter external is for energy mode"),
        (["--mode", "energy", "--meter", "none"], "needs a meter"),
        (["--energy-repeats", "5"], "--energy-repeats is for energy mode"),
        (["--mode", "energy", "--duration", "5s"], "--duration is for"),
        (["--mode", "energy", "--energy-window", "0s"], "no length of time"),
    ],
)
def test_requests_that_cannot_be(arguments, part, tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx")
    failed(hwbench("profile", "tiny.onnx", *arguments, cwd=tmp_path), 2, part)


def test_layers_of_a_saved_result(tmp_path):
    external = ExternalRun()
    folder = external_result(tmp_path, external)
    imported = hwbench("energy", "import", folder, external.record(tmp_path / "meter.csv"), cwd=tmp_path)
    assert imported.returncode == 0, imported.stderr
    shown = hwbench("energy", "layers", folder, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "by time share" in shown.stdout
    assert "assumes that all layers draw the same power" in " ".join(shown.stdout.split())
    data = json.loads(hwbench("energy", "layers", folder, "--json", cwd=tmp_path).stdout)["measurements"]
    assert any(energies.get("method") == "time_share" for energies in data.values())


def test_layers_refuse_what_would_do_nothing(tmp_path):
    folder = external_result(tmp_path, ExternalRun())
    failed(hwbench("energy", "layers", folder, "--parts", "3", cwd=tmp_path), 2, "--parts is for a model")
    failed(hwbench("energy", "layers", "digits_cnn", cwd=tmp_path), 2, "--output FOLDER")


@pytest.mark.slow
def test_layers_of_a_model_are_measured(tmp_path, tape):
    run = hwbench(
        "energy", "layers", "digits_cnn", *RUN[2:], "--parts", "2", "-o", "fit", "--json", cwd=tmp_path,
        HWBENCH_REPLAY_TRACE=str(tape),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert len(result["variants"]) == 2
    assert result["energies"]["method"] == "fit"
    assert sum(row["energy_j"] for row in result["energies"]["rows"]) + result["energies"]["unattributed_j"] == (
        pytest.approx(result["variants"][-1]["energy_j"])
    )
    assert json.loads((tmp_path / "fit" / "layers.json").read_text()) == result


@pytest.mark.parametrize("verb", list(ENERGY.commands))
def test_options_and_defaults_are_documented(verb):
    section = (Path(ROOT) / "docs/commands.md").read_text(encoding="utf-8").partition("## `hwbench energy`\n")[2]
    section = section.partition("\n## ")[0]
    assert f"`hwbench energy {verb}`" in section
    rows = [line for line in section.splitlines() if line.startswith(f"| `{verb}` |")]
    documented = {name for row in rows for name in re.findall(r"`(-[\w-]+)", row.split("|")[2])}
    options = [p for p in ENERGY.commands[verb].params if p.param_type_name == "option" and p.name != "help"]
    shared = {"--quiet", "-q", "--verbose", "-v", "--no-color"}
    assert documented == {name for option in options for name in (*option.opts, *option.secondary_opts)} - shared
    for option in options:
        row = next((row for row in rows if f"`{option.opts[0]}`" in row), "")
        told = re.search(r"Default: ([\d.]*\w+)", option.help or "")
        default = told[1] if told else option.default
        if row and isinstance(default, str | float | int) and not isinstance(default, bool):
            assert str(default) in row.split("|")[3], f"the default of {option.opts[0]} is {default}"
