"""Every option of ``profile`` does something, is explained, and is refused where it would do nothing."""

import json

import pytest
import typer.main
from command import tiny_onnx

from hwbench.cli.main import app, main

GROUP = typer.main.get_command(app)
PROFILE = GROUP.commands["profile"]

CHANGES_REQUEST = {
    "device": ["--device", "local"],
    "engine": ["--engine", "onnxruntime"],
    "precision": ["--precision", "fp32"],
    "mode": ["--mode", "throughput"],
    "batch_size": ["--batch-size", "4"],
    "shapes": ["--shapes", "x:2x3x8x8"],
    "input_data": ["--input-data", "x.npz"],
    "threads": ["--threads", "7"],
    "streams": ["--mode", "throughput", "--threads", "4", "--streams", "3"],
    "warmup": ["--warmup", "2s"],
    "duration": ["--duration", "4s"],
    "max_duration": ["--max-duration", "30s"],
    "settle": ["--settle", "0.05"],
    "iterations": ["--iterations", "20"],
    "layers": ["--no-layers"],
    "meter": ["--meter", "none"],
    "seed": ["--seed", "3"],
    "timeout": ["--timeout", "2min"],
}
CHANGES_OUTPUT = {  # and where that is tested
    "output": "test_refusals, test_finished",
    "resume": "test_interrupt",
    "force": "test_finished",
    "strict": "test_finished",
    "dry_run": "here",
    "json": "test_finished",
    "quiet": "test_finished",
    "verbose": "test_finished",
    "no_color": "test_terminal",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_onnx(tmp_path / "tiny.onnx")
    return tmp_path


def is_option(parameter):
    return parameter.param_type_name == "option"


def resolved(capsys, *arguments):
    code = main(["profile", "tiny.onnx", "--dry-run", *arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert err == ""
    return json.loads(out)


def refused(capsys, *arguments):
    code = main(["profile", "tiny.onnx", "--dry-run", *arguments])
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert out == ""
    assert err.startswith("error: ")
    return err


def test_no_option_is_forgotten():
    options = {parameter.name for parameter in PROFILE.params if is_option(parameter)} - {"help"}
    assert options == set(CHANGES_REQUEST) | set(CHANGES_OUTPUT)


@pytest.mark.parametrize("option", CHANGES_REQUEST)
def test_option_changes_the_request(option, here, capsys):
    arguments = CHANGES_REQUEST[option]
    without = arguments[:-2] if option == "streams" else []
    assert resolved(capsys, *arguments) != resolved(capsys, *without)


def test_dry_run_measures_nothing_and_shows_the_resolved_request(here, capsys):
    request = resolved(capsys, "-o", "out")
    assert request["model"] == "tiny.onnx"
    assert request["threads"] >= 1
    assert request["streams"] == 1
    assert request["stop"]["settings"] == {
        "min_seconds": 3.0,
        "min_count": 20,
        "max_seconds": 20.0,
        "relative": 0.01,
    }
    assert sorted(path.name for path in here.iterdir()) == ["tiny.onnx"]


def test_shapes_and_repeated_options(here, capsys):
    request = resolved(
        capsys, "--shapes", "x:1x3x8x8,input:0:2x4", "--shapes", "z:7", "-e", "openvino", "-e", "openvino"
    )
    assert request["shapes"] == {"x": [1, 3, 8, 8], "input:0": [2, 4], "z": [7]}
    assert request["engines"] == ["openvino"]


def test_a_short_longest_run_shortens_the_shortest(here, capsys):
    settings = resolved(capsys, "--max-duration", "500ms")["stop"]["settings"]
    assert (settings["min_seconds"], settings["max_seconds"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--shapes", "1x3x8x8"], ["--shapes '1x3x8x8'", "name:1x3x224x224"]),
        (["--shapes", "x:1x-3"], ["--shapes 'x:1x-3'"]),
        (["--shapes", "x:0x3"], ["between 1 and"]),
        (["--shapes", "x:1,x:2"], ["'x' twice"]),
        (["--shapes", "x:" + "9" * 5000], ["--shapes"]),
        (["-e", "tensorflow"], ["no engine is called 'tensorflow'", "openvino"]),
        (["--meter", "wattmeter"], ["no meter is called 'wattmeter'", "rapl"]),
        (["--mode", "fast"], ["--mode 'fast'", "latency", "throughput"]),
        (["-p", "fp23"], ["no precision is called 'fp23'", "bf16"]),
        (["--warmup", "soon"], ["'soon' is not a duration", "10s"]),
        (["--settle", "2"], ["--settle 2"]),
        (["--settle", "nan"], ["--settle nan"]),
        (["--streams", "2"], ["--streams is for throughput mode"]),
        (["--mode", "throughput", "--threads", "2", "--streams", "3"], ["--streams 3", "2 threads", "--streams 2"]),
        (["--mode", "throughput", "--settle", "0.1"], ["--settle is for latency mode"]),
        (["--mode", "throughput", "--max-duration", "9s"], ["--max-duration is for latency mode"]),
        (["--mode", "throughput", "--layers"], ["--layers is for latency mode"]),
        (["--iterations", "5", "--duration", "1s"], ["--iterations", "--duration"]),
        (["--duration", "9s", "--max-duration", "2s"], ["--duration 9s", "--max-duration 2s"]),
        (["--resume"], ["--resume needs --output"]),
        (["--resume", "--force", "-o", "out"], ["--resume", "--force"]),
    ],
)
def test_wrong_options_are_refused(arguments, parts, here, capsys):
    message = refused(capsys, *arguments)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "arguments", [["--iterations", "0"], ["--threads", "0"], ["--seed", "-1"], ["--bogus"], ["a", "b"]]
)
def test_what_the_parser_refuses_is_a_wrong_request_too(arguments, here, capsys):
    assert main(["profile", "tiny.onnx", *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("verb", sorted(GROUP.commands))
def test_every_verb_and_option_is_explained(verb, capsys):
    assert main([verb, "-h"]) == 0
    shown = capsys.readouterr().out
    assert GROUP.commands[verb].help
    for parameter in GROUP.commands[verb].params:
        assert parameter.help, f"{verb} {parameter.name}"
        if is_option(parameter):
            assert parameter.opts[0] in shown


def test_version_and_bare_command(capsys):
    import hwbench

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hwbench {hwbench.__version__}\n"
    assert main([]) == 2
    assert "profile" in "".join(capsys.readouterr())
