"""A prediction and a probe in words: that nothing was measured, and what is assumed, stands there."""

import io

import onnx_ir as ir
from rich.console import Console

from hwbench.devices.profiles import load_profiles
from hwbench.prediction.predict import predict, predictor_of
from hwbench.prediction.probe.anchors import BY_NAME
from hwbench.prediction.probe.onnx_files import onnx_model
from hwbench.records.prediction import Probe, ProbePoint
from hwbench.report.prediction_text import render_prediction, render_probe


def shown(renderable):
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


def test_a_prediction_says_what_it_is():
    hub = ir.serde.deserialize_model(onnx_model(BY_NAME["model-residual"], "fp32"))
    predictor = predictor_of(load_profiles()["raspberry-pi-5"], engine="litert")
    text = shown(render_prediction(predict(hub, predictor, name="net", hub_sha256="0", precision="int8"), top=3))
    for part in ("net on Raspberry Pi 5: litert, int8, 1 thread", "not measured: tier C", "n = 3", "(90%)", "mJ"):
        assert part in text
    assert text.count("assumed: ") == 4
    assert "The 3 longest of 13 units" in text
    assert "conversions" in text


def test_a_probe_says_what_speaks_against_it():
    point = ProbePoint(anchor="small-chain", precision="fp32", warmup=5, samples_ns=(10, 20, 30), median_s=2e-8)
    probe = Probe(
        schema_version=1, program="hwbench-probe", pack=1, runtime="litert", runtime_version="2.3", provider="xnnpack",
        threads=2, clock="wall", started_at="2026-11-23T00:00:00Z", peak_rss_bytes=None, facts={"cpus": "8"},
        points=(point,), failed={"x fp16": "no"}, sha256="0",
    )  # fmt: skip
    text = shown(render_probe(probe, ["it was busy"]))
    for part in ("2 threads", "cpus: 8", "doubt: it was busy", "failed: x fp16: no", "20.0 ns", "memory unknown"):
        assert part in text
