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
    "rate": ["--mode", "server", "--rate", "30"],
    "latency_bound": ["--preset", "mlperf-server", "--rate", "9", "--latency-bound", "15ms"],
    "rest": ["--mode", "burst", "--rest", "9s"],
    "max_warmup": ["--mode", "steady", "--max-warmup", "15s"],
    "processes": ["--mode", "cold", "--processes", "3"],
    "repeat_build": ["--repeat-build", "3"],
    "preset": ["--preset", "mlperf-single-stream"],
    "energy_repeats": ["--mode", "energy", "--energy-repeats", "7"],
    "energy_window": ["--mode", "energy", "--energy-window", "60s"],
    "layers": ["--no-layers"],
    "require_device": ["--require-device", "GPU"],
    "require_precision": ["--require-precision", "int8"],
    "require_delegate": ["--require-delegate", "XNNPACK"],
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
    without = (
        arguments[:-2]
        if option
        in {
            "streams",
            "rest",
            "max_warmup",
            "processes",
            "energy_repeats",
            "energy_window",
        }
        else []
    )
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


@pytest.mark.parametrize(
    ("arguments", "mode", "settings"),
    [
        (["mlperf-single-stream"], "latency", {"seconds": 600, "min_count": 64}),
        (["mlperf-multi-stream"], "latency", {"seconds": 600, "min_count": 662}),
        (["mlperf-offline", "-b", "10"], "throughput", {"seconds": 600, "min_count": 2458}),
        (["mlperf-offline", "--duration", "1min"], "throughput", {"seconds": 60, "min_count": 20}),
    ],
)
def test_presets_bring_their_limits(arguments, mode, settings, here, capsys):
    request = resolved(capsys, "--preset", *arguments)
    assert (request["mode"], request["preset"], request["stop"]["settings"]) == (mode, arguments[0], settings)
    assert request["batch_size"] == {"mlperf-multi-stream": 8, "mlperf-single-stream": 1}.get(
        arguments[0], 10 if "-b" in arguments else None
    )


def test_defaults_of_the_modes(here, capsys):
    burst = resolved(capsys, "--mode", "burst")
    assert (burst["mode_settings"]["rest_s"], burst["stop"]["settings"]["seconds"]) == (5.0, 2.0)
    sustained = resolved(capsys, "--mode", "sustained")
    assert (sustained["mode_settings"], sustained["stop"]["settings"]["seconds"]) == ({"bin_s": 60.0}, 600.0)
    server = resolved(capsys, "--mode", "server", "--rate", "7", "--threads", "2")
    assert (server["streams"], server["mode_settings"]) == (2, {"rate_per_s": 7.0, "spin_s": 0.0})
    assert resolved(capsys, "--mode", "server", "--rate", "7", "--streams", "1")["mode_settings"]["spin_s"] == 0.001
    assert resolved(capsys, "--mode", "cold")["stop"]["settings"] == {"count": 10}
    assert resolved(capsys, "--mode", "steady")["mode_settings"]["max_warmup_s"] == 300.0


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
        (["--streams", "2"], ["--streams is for throughput or server mode"]),
        (["--mode", "server"], ["--mode server needs --rate"]),
        (["--mode", "server", "--rate", "0"], ["--rate 0"]),
        (["--mode", "server", "--rate", "nan"], ["--rate nan"]),
        (["--mode", "server", "--rate", "1e6"], ["1000000 queries", "--duration"]),
        (["--mode", "server", "--rate", "9", "--latency-bound", "1s"], ["--latency-bound is for --preset"]),
        (["--rate", "9"], ["--rate is for server mode", "--mode server"]),
        (["--mode", "burst", "--warmup", "2s"], ["--warmup is for latency, throughput, steady, sustained or server"]),
        (["--mode", "burst", "--iterations", "5"], ["--iterations is for"]),
        (["--mode", "burst", "--duration", "0"], ["--duration 0 is no length"]),
        (["--mode", "sustained", "--settle", "0.1"], ["--settle is for latency or steady mode"]),
        (["--rest", "1s"], ["--rest is for burst mode"]),
        (["--max-warmup", "1s"], ["--max-warmup is for steady or energy mode"]),
        (["--mode", "steady", "--warmup", "9s", "--max-warmup", "2s"], ["--warmup (9 s) is longer"]),
        (["--mode", "steady", "--max-warmup", "10s"], ["--max-warmup 10 s is too short", "13s or more"]),
        (["--mode", "cold", "--duration", "9s"], ["--duration is for"]),
        (["--mode", "cold", "--meter", "rapl"], ["--meter rapl", "cold start"]),
        (["--processes", "3"], ["--processes is for cold mode"]),
        (["--mode", "throughput", "--repeat-build", "3"], ["--repeat-build is for latency or steady mode"]),
        (["--preset", "mlperf"], ["--preset 'mlperf' is no preset", "mlperf-offline"]),
        (["--preset", "mlperf-offline", "--mode", "server"], ["mlperf-offline is of mode throughput, not server"]),
        (["--preset", "mlperf-server", "--rate", "9"], ["needs --latency-bound"]),
        (["--preset", "mlperf-single-stream", "--iterations", "9"], ["says itself when to stop"]),
        (["--preset", "mlperf-multi-stream", "-b", "4"], ["8 samples in a query"]),
        (["--mode", "throughput", "--threads", "2", "--streams", "3"], ["--streams 3", "2 threads", "--streams 2"]),
        (["--mode", "throughput", "--settle", "0.1"], ["--settle is for latency or steady mode"]),
        (["--mode", "throughput", "--max-duration", "9s"], ["--max-duration is for latency or steady mode"]),
        (["--mode", "throughput", "--layers"], ["--layers is for latency or energy mode"]),
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
