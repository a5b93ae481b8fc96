"""How well networks are predicted that a device never ran, and what a probe adds; and the priors that ship.

Every runtime in turn is the unseen device: tier C predicts it from what the *other* runtimes reached, tier B from that
and a probe of it. One machine, one thread, times of the CPU (others may be on the machine). Predicted beforehand, in
planner.md: tier B within 5 to 15 %, tier C within 40 % or worse.

    pytest tests/benchmarks/test_probe_prediction.py --benchmark-only -s
    HWBENCH_WRITE_PRIORS=priors.json pytest ...    # what hwbench/prediction/priors.json was made by
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from real_tasks import DATA

from hwbench.devices.profiles import load_profiles
from hwbench.files import write_record
from hwbench.intake import Intake
from hwbench.prediction.fit import Observation, log_errors
from hwbench.prediction.machine import machine_of
from hwbench.prediction.predict import predictor_of
from hwbench.prediction.priors import fit_priors
from hwbench.prediction.probe.pack import write_pack
from hwbench.prediction.probe.read import read_probe
from hwbench.prediction.roofline import bases_of
from hwbench.prediction.work import works_of

ENGINES = {"onnxruntime": "onnx", "litert": "tflite", "torch-eager": "torch", "openvino": None}
ZOO = (
    "digits_cnn",
    "resnet8",
    "resnet20",
    "ds_cnn",
    "mobilenet_v2",
    "resnet50",
    "autoencoder",
    "bert_small",
    "vit_tiny",
)
FILES = ("imagenet/efficientnet_lite0.onnx", "imagenet/squeezenet_v1.0_deep_compressed.onnx")
BUILT = {"onnxruntime": ("int8",), "openvino": ("int8",), "litert": ("fp32", "int8")}
NOT_BUILT = {"digits_cnn", "vit_tiny"}  # int8 of the one is all overhead; the other takes minutes to convert
PROFILE = "amd-epyc-genoa"


def child(arguments, folder):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": ""}
    subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, env=env, check=True, capture_output=True)


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """Return the hubs, and by runtime its version and the seconds of each network it ran (``resnet8 int8``)."""
    folder = tmp_path_factory.mktemp("prediction")
    intake = Intake(folder=folder, watch=lambda *_: None, threads=1, timeout_s=600, seed=0)
    files = [str(DATA / name) for name in FILES if (DATA / name).exists()]
    hubs, jobs = {}, {engine: {} for engine in ENGINES}
    for spec in (*(f"zoo:{name}" for name in ZOO), *files):
        name = Path(spec).stem.removeprefix("zoo:").partition("_v1")[0]
        imported = intake.model(spec, name, batch_size=1)
        place = folder / f"{name}.json"
        place.write_bytes(msgspec.json.encode(imported))
        hubs[name] = ir.load(Path(imported.files.folder) / imported.files.hub)
        for engine in ("onnxruntime", "openvino", *(["torch-eager"] if spec.startswith("zoo:") else [])):
            jobs[engine][f"{name} float"] = (str(place), "fp32")
        for engine, precisions in BUILT.items() if name not in NOT_BUILT else ():
            for precision in precisions:
                bundle = built(folder, spec, name, imported, engine, precision)
                lifted = intake.model(str(bundle), f"{bundle.name}-in")
                place = folder / f"{bundle.name}.json"
                place.write_bytes(msgspec.json.encode(lifted))
                jobs[engine][f"{name} {'int8' if precision == 'int8' else 'float'}"] = (str(place), "auto")
    return hubs, {engine: timed(folder, engine, models) for engine, models in jobs.items()}


def built(folder, spec, name, imported, engine, precision):
    """Build one bundle, calibrated on noise: its weights do not matter, nor what it answers."""
    data = folder / f"{name}.npz"
    if not data.exists():
        given = np.load(Path(imported.files.folder) / imported.files.inputs)
        np.savez(data, **{key: np.repeat(value, 8, 0) for key, value in given.items()})
    out = folder / f"{name}-{engine}-{precision}"
    options = ["-e", engine, "-p", precision, "--data", data, "--threads", "1", "--no-measure", "--no-verify"]
    child(["-m", "hwbench", "build", spec, *options, "-o", out], folder)
    return next(path.parent for path in out.rglob("manifest.json"))


def timed(folder, engine, models):
    job, out = folder / f"job-{engine}.json", folder / f"times-{engine}.json"
    job.write_text(json.dumps({"engine": engine, "rounds": 12, "models": models}))
    child([Path(__file__).with_name("runtime_times.py"), job, out], folder)
    found = json.loads(out.read_text())
    return found["version"].partition("-")[0], found["median_s"]


def observations(hubs, engine, medians):
    machine = machine_of(load_profiles()[PROFILE], engine=engine)
    found = {}
    for label, median_s in sorted(medians.items()):
        name, scheme = label.rsplit(" ", 1)
        units = works_of(hubs[name], default=scheme).units
        found[label] = Observation(bases=bases_of(units, machine, "fp32"), measured_s=median_s)
    return found


def row(label, errors, half):
    relative = np.abs(np.expm1(-errors))
    inside = float(np.mean(np.abs(errors) <= half))
    print(
        f"{label:44s} N={len(errors):2d} MAPE {relative.mean():5.1%} median {np.median(relative):5.1%} P90 "
        f"{np.quantile(relative, 0.9):6.1%} interval x/: {np.exp(half):4.2f} covers {inside:4.0%}"
    )


def test_an_unseen_runtime(benchmark, gathered, tmp_path):
    hubs, times = gathered
    profile = load_profiles()[PROFILE]
    observed = {engine: observations(hubs, engine, medians) for engine, (_, medians) in times.items()}
    for engine, target in ENGINES.items():
        errors_of, seen = list(observed[engine].values()), predictor_of(profile, engine=engine)
        unseen = predictor_of(profile, engine=engine, without=[engine])
        print()
        row(f"{engine} {times[engine][0]}, tier C, in the fit", log_errors(errors_of, seen.logs), half(seen))
        row(f"{engine}, tier C, never seen", log_errors(errors_of, unseen.logs), half(unseen))
        if target is None:
            continue
        probe = probed(tmp_path / target, target)
        lifted = predictor_of(profile, engine=engine, without=[engine], probe=probe)
        errors = log_errors(errors_of, lifted.logs)
        row(f"{engine}, tier B, {lifted.n} anchors, never seen", errors, half(lifted))
        for label, error in zip(observed[engine], errors, strict=True):
            one = observed[engine][label].measured_s
            print(f"    {label:28s} measured {one * 1e3:9.4f} ms, predicted {one * np.exp(-error) * 1e3:9.4f} ms")
    if "HWBENCH_WRITE_PRIORS" in os.environ:
        about = f"Fitted by tests/benchmarks/test_probe_prediction.py on one machine ({profile.title}), one thread, CPU time"
        measured = {engine: (times[engine][0], list(found.values())) for engine, found in observed.items()}
        write_record(Path(os.environ["HWBENCH_WRITE_PRIORS"]), fit_priors(measured, PROFILE, about))
    benchmark.pedantic(lambda: predictor_of(profile, engine="litert"), rounds=1)


def half(predictor):
    return float(np.log(predictor.interval(1.0).high))


def probed(folder, target):
    write_pack(folder, target)
    child(["run_probe.py", "--seconds", "20", "--clock", "cpu"], folder)
    return read_probe(folder / "probe.json")
