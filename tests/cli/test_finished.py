"""A finished run: its files, its JSON, and what ``report`` makes of it."""

import csv
import io
import json

import jsonschema
import pytest
from command import PUBLISHED_SCHEMA, QUICK, engines, failed, hwbench, result_of, tiny_onnx

from hwbench.cli.schema import json_schema


def test_json_is_one_valid_document_and_people_read_stderr(finished):
    document = json.loads(finished.run.stdout)
    jsonschema.Draft202012Validator(json.loads(PUBLISHED_SCHEMA.read_text())).validate(document)
    assert document == result_of(finished.folder)
    assert document["status"] == "complete"
    for words in ("[1/2] onnxruntime fp32", "median", "result: out/result.json", "report: out/report.html"):
        assert words in finished.run.stderr


def test_the_schema_refuses_what_is_no_result(finished):
    document = json.loads(finished.run.stdout)
    del document["measurements"][0]["samples_ns"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json.loads(PUBLISHED_SCHEMA.read_text()))


def test_the_published_schema_is_the_one_of_the_code():
    """When the records change: ``hwbench schema > docs/schemas/profile-result.v1.json`` (``make schema``)."""
    assert PUBLISHED_SCHEMA.read_bytes() == json_schema("profile")


def test_schema_command(tmp_path):
    assert hwbench("schema", cwd=tmp_path, text=False).stdout == json_schema("profile")


def test_the_folder_holds_everything(finished):
    assert {"report.html", "request.json", "result.json", "model", "runs"} <= {
        p.name for p in finished.folder.iterdir()
    }
    assert json.loads((finished.folder / "request.json").read_text()) == result_of(finished.folder)["request"]
    assert {path.name for path in (finished.folder / "runs").iterdir()} == {"onnxruntime-fp32", "stub-good-fp32"}


def test_a_result_is_not_overwritten_unasked(finished):
    before = (finished.folder / "result.json").read_bytes()
    failed(hwbench("profile", "tiny.onnx", "-o", "out", cwd=finished.cwd), 2, "already holds a result", "--force")
    assert (finished.folder / "result.json").read_bytes() == before


def test_force_replaces_it(tmp_path, stubs):
    tiny_onnx(tmp_path / "tiny.onnx")
    arguments = ("profile", "tiny.onnx", *QUICK, *engines("stub-good"), "-o", "out")
    assert hwbench(*arguments, cwd=tmp_path, path=[stubs]).returncode == 0
    first = result_of(tmp_path / "out")
    assert hwbench(*arguments, "--force", "--seed", "5", cwd=tmp_path, path=[stubs]).returncode == 0
    second = result_of(tmp_path / "out")
    assert second["run_id"] != first["run_id"]
    assert second["request"]["seed"] == 5


def test_a_default_folder_of_its_own_for_each_run(tmp_path, stubs):
    tiny_onnx(tmp_path / "tiny.onnx")
    for _ in range(2):
        run = hwbench("profile", "tiny.onnx", *QUICK, *engines("stub-good"), "-q", cwd=tmp_path, path=[stubs])
        assert run.returncode == 0
        assert run.stderr == ""
        assert "stub-good fp32" in run.stdout
    folders = list((tmp_path / "hwbench-results").iterdir())
    assert len(folders) == 2
    assert all(folder.name.startswith("tiny-cpu-") for folder in folders)


def test_quiet_json_says_nothing_else(tmp_path, stubs):
    tiny_onnx(tmp_path / "tiny.onnx")
    arguments = ("tiny.onnx", *QUICK, *engines("stub-good"), "-o", "out", "-q", "--json")
    run = hwbench("profile", *arguments, cwd=tmp_path, path=[stubs])
    assert run.returncode == 0
    assert run.stderr == ""
    assert json.loads(run.stdout) == result_of(tmp_path / "out")


def test_strict_turns_suspect_into_exit_code_4(tmp_path):
    """The weights are NaN, and so are the outputs: suspect on any machine."""
    tiny_onnx(tmp_path / "tiny.onnx", weight=float("nan"))
    arguments = ("tiny.onnx", *QUICK, *engines("onnxruntime"), "-o", "out")
    lenient = hwbench("profile", *arguments, cwd=tmp_path)
    strict = hwbench("profile", *arguments, "--resume", "--strict", cwd=tmp_path)
    assert result_of(tmp_path / "out")["measurements"][0]["validity"]["status"] == "suspect"
    assert (lenient.returncode, strict.returncode) == (0, 4), lenient.stdout + strict.stdout


def test_an_engine_that_computes_something_else_is_invalid(tmp_path, stubs):
    """The stub answers zeros, ONNX Runtime the truth."""
    tiny_onnx(tmp_path / "tiny.onnx")
    arguments = ("tiny.onnx", *QUICK, *engines("onnxruntime", "stub-good"), "-o", "out")
    run = hwbench("profile", *arguments, cwd=tmp_path, path=[stubs])
    assert run.returncode == 4
    assert result_of(tmp_path / "out")["measurements"][1]["validity"]["status"] == "invalid"
    assert "outputs_differ" in run.stdout


def test_report_shows_the_table_again(finished):
    shown = hwbench("report", "out", cwd=finished.cwd)
    assert shown.returncode == 0
    assert "onnxruntime fp32" in shown.stdout
    assert shown.stderr == ""
    assert hwbench("report", "out/result.json", cwd=finished.cwd).stdout == shown.stdout


def test_report_to_csv(finished):
    shown = hwbench("report", "out", "--csv", "measurements", cwd=finished.cwd)
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert [row["engine"] for row in rows] == ["onnxruntime", "stub-good"]
    written = hwbench("report", "out", "-o", "out.csv", "--csv", "samples", cwd=finished.cwd)
    assert written.returncode == 0
    assert written.stdout == ""
    with (finished.cwd / "out.csv").open(newline="") as stream:
        samples = [int(row["sample_ns"]) for row in csv.DictReader(stream) if row["phase"] == "timed"]
    assert samples == [s for m in result_of(finished.folder)["measurements"] for s in m["samples_ns"]]


def test_two_results_on_one_page(finished, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("result.json", "request.json"):
            (tmp_path / name / file).write_bytes((finished.folder / file).read_bytes())
    run = hwbench("report", "a", "b", "-o", "two.html", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "two.html").read_text(encoding="utf-8")
    assert page.count("<section id=") == 2
    below = hwbench("report", ".", "--csv", "measurements", cwd=tmp_path)
    assert len(below.stdout.splitlines()) == 1 + 2 * 2


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["nowhere"], 3, ["cannot read nowhere"]),
        (["empty"], 3, ["'empty' holds no result"]),
        (["tiny.onnx"], 3, ["tiny.onnx is not JSON"]),
        (["out", "-o", "out.pdf"], 2, ["'out.pdf' ends in none of .html, .csv, .json"]),
        (["out", "out", "--csv", "layers"], 2, ["--csv layers is for one result"]),
        (["out", "--csv", "measurements", "-o", "out.html"], 2, ["--csv"]),
        (["out", "--layers", "-o", "out.html"], 2, ["--layers"]),
    ],
)
def test_what_report_cannot_do(arguments, code, parts, finished):
    (finished.cwd / "empty").mkdir(exist_ok=True)
    failed(hwbench("report", *arguments, cwd=finished.cwd), code, *parts)


def test_a_result_of_a_newer_version_is_refused(finished, tmp_path):
    document = result_of(finished.folder) | {"schema_version": 99}
    (tmp_path / "result.json").write_text(json.dumps(document))
    failed(hwbench("report", "result.json", cwd=tmp_path), 3, "newer hwbench", "upgrade")


def test_lists(tmp_path):
    models = hwbench("models", cwd=tmp_path)
    assert models.returncode == 0
    assert "resnet8" in models.stdout
    plugins = hwbench("plugins", cwd=tmp_path)
    assert "onnxruntime" in plugins.stdout
    devices = hwbench("devices", cwd=tmp_path)
    assert devices.returncode == 0
    for words in ("Devices here", "cpu", "Engines", "openvino", "Meters", "rapl", "jetson-orin-nano-8gb"):
        assert words in devices.stdout
    one = hwbench("devices", "raspberry-pi-5", cwd=tmp_path)
    assert "bandwidth_bytes_per_s.dram" in one.stdout
    assert "datasheet" in one.stdout
    assert json.loads(hwbench("devices", "raspberry-pi-5", "--json", cwd=tmp_path).stdout)["name"] == "raspberry-pi-5"
    assert {"devices", "engines", "meters"} <= set(json.loads(hwbench("devices", "--json", cwd=tmp_path).stdout))
