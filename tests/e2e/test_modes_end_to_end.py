"""Every mode for real, on a small model and for a moment."""

import pytest
from command import engines, hwbench, result_of

ARGUMENTS = {
    "burst": ("--rest", "300ms", "--duration", "500ms"),
    "steady": ("--warmup", "100ms", "--max-warmup", "13s", "--duration", "200ms", "--max-duration", "500ms"),
    "sustained": ("--warmup", "100ms", "--duration", "1s"),
    "server": ("--warmup", "100ms", "--rate", "100", "--duration", "1s", "--streams", "1"),
    "cold": ("--processes", "2"),
}


def profile(cwd, *arguments, names=("onnxruntime",)):
    run = hwbench("profile", "digits_cnn", *engines(*names), "-p", "fp32", "-o", "out", *arguments, cwd=cwd)
    assert run.returncode in {0, 4}, run.stderr  # a busy machine may stall a queue for good
    return result_of(cwd / "out"), run


def findings(measurement):
    return {finding["code"] for finding in measurement["validity"]["findings"]}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ARGUMENTS)
def test_a_mode(mode, tmp_path):
    names = ("onnxruntime", "torch-eager") if mode == "server" else ("onnxruntime",)
    result, run = profile(tmp_path, "--mode", mode, *ARGUMENTS[mode], names=names)
    assert [m["settings"]["mode"] for m in result["measurements"]] == [mode] * len(names)
    assert mode in run.stdout
    assert "Seen in this mode" in run.stdout
    for m in result["measurements"]:
        present = {name for name in ("steady_state", "series", "server", "cold") if m[name]["kind"] != "missing"}
        assert present == {{"burst": "series", "steady": "steady_state", "sustained": "series"}.get(mode, mode)}
        assert m["layers"]["kind"] == "missing"
    shown = hwbench("report", "out", "-o", "page.html", cwd=tmp_path)
    assert shown.returncode == 0
    rows = hwbench("report", "out", "--csv", "series", cwd=tmp_path).stdout.splitlines()
    assert len(rows) > 5 if mode in {"burst", "sustained"} else len(rows) == 1 + len(names)


@pytest.mark.slow
def test_cold_starts_add_up_and_sustained_says_that_it_was_short(tmp_path):
    result, _ = profile(tmp_path, "--mode", "cold", *ARGUMENTS["cold"])
    for m in result["measurements"]:
        for start in m["cold"]["starts"]:
            parts = [start[name] for name in start if name != "total_s" and isinstance(start[name], float)]
            assert sum(parts) == pytest.approx(start["total_s"], rel=1e-6)
            assert start["interpreter_s"] > 0.01
        assert "too_few_samples" in findings(m)
        assert m["energy"]["kind"] == "missing"


@pytest.mark.slow
def test_repeated_builds_and_a_preset(tmp_path):
    result, run = profile(
        tmp_path, "--repeat-build", "2", "--preset", "mlperf-single-stream", "--warmup", "50ms", "--duration", "300ms",
        "--no-layers",
    )  # fmt: skip
    assert "NOT an MLPerf result" in run.stdout
    for m in result["measurements"]:
        assert len(m["more_builds"]) == 1
        assert m["latency"]["n"] == len(m["samples_ns"]) + len(m["more_builds"][0]["samples_ns"])
        assert len(m["builds"]["medians_s"]) == 2
        assert "preset_not_kept" in findings(m)
        assert {rule["name"]: rule["verdict"] for rule in m["preset"]["requirements"]}["LoadGen"] == "does_not_hold"
    refused = hwbench("compare", "out", "out", cwd=tmp_path)
    assert refused.returncode in {0, 4}, refused.stderr
