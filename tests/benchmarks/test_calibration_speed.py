"""What calibration costs beside the tools that people would use without hwbench.

Each pair runs alternately in one process, ours twice, so that the ratio of ours to ours (A/A) shows what this machine
can resolve. The bounds: entropy at least ten times as fast as onnxruntime's on the same tensors with as fine a
histogram; calibrating ResNet-50, repairs included, and
writing the IR no slower than ``nncf.quantize`` on the same samples and saving what it gives.

    make bench PYTEST_ARGS="-k calibration_speed"

``HWBENCH_BENCH_SAMPLES`` sets the number of images, 300 by default.
"""

from __future__ import annotations

import itertools
import logging
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stored_data import lay_down

from hwbench.devices.cpu import CpuFinder
from hwbench.engines.openvino import OpenVino
from hwbench.graph.importer import import_model
from hwbench.protocols import LowerRequest
from hwbench.quantize.calibrate import work
from hwbench.quantize.estimators import entropy
from hwbench.quantize.histogram import Histogram
from hwbench.records.model import DataFacts, ImportJob
from hwbench.records.quantization import CalibrateJob, CalibrationSettings, PrecisionPlan

SAMPLES = int(os.environ.get("HWBENCH_BENCH_SAMPLES", "300"))
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the median ratio ours / theirs, and ours / ours."""
    rows = [(seconds(ours), seconds(theirs), seconds(ours)) for _ in range(rounds)]
    for first, other, second in rows:
        print(f"\nours {first:.2f} s, theirs {other:.2f} s, ours {second:.2f} s", end="")
    ratio = statistics.median((first + second) / 2 / other for first, other, second in rows)
    return ratio, statistics.median(first / second for first, _, second in rows)


@pytest.mark.parametrize("bins", [128, 2048])
def test_calibration_speed_of_entropy(benchmark, bins):
    """With its default of 128 bins, onnxruntime tries one clip, that at the largest value; ours tries up to 1921.

    So only the comparison with bins of a comparable width holds a search against a search; the other is printed.
    """
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate", reason="the tool to be compared with")
    generator = np.random.default_rng(0)
    tensors = {f"t{index}": np.abs(generator.standard_normal(200_000)).astype(np.float32) for index in range(3)}

    def ours() -> None:
        for values in tensors.values():
            histogram = Histogram()
            histogram.add(values)
            entropy(histogram)

    def theirs() -> None:
        collector = calibrate.HistogramCollector("entropy", False, bins, 128, 99.999, "")
        collector.collect({name: [values] for name, values in tensors.items()})
        collector.compute_collection_result()

    ratio, control = benchmark.pedantic(interleaved, args=(ours, theirs, 3), rounds=1)
    print(f"\nentropy, {bins} bins: onnxruntime takes {1 / ratio:.1f} times as long as ours; A/A {control:.2f}")
    if bins == 2048:
        assert ratio <= 0.1


def test_calibration_speed_of_resnet50(benchmark, tmp_path):
    nncf = pytest.importorskip("nncf", reason="the tool to be compared with")
    openvino = pytest.importorskip("openvino", reason="what it works on")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    imported = import_model(
        ImportJob(model="zoo:resnet50", batch_size=1, shapes={}, input_data=None, seed=0), tmp_path / "model"
    )
    path = Path(imported.files.folder) / imported.files.runtime_graph
    (spec,) = imported.model.inputs
    images = np.random.default_rng(0).standard_normal((SAMPLES, *spec.shape[1:]), dtype=np.float32)
    lay_down(tmp_path / "data", **{spec.name: images})
    plan, device = PrecisionPlan(default="int8"), CpuFinder().find().devices[0]
    job = CalibrateJob(
        model=imported.model,
        files=imported.files,
        plan=plan,
        settings=CalibrationSettings(),
        data=DataFacts(source="random", sha256="0" * 64, samples=SAMPLES, labels=False),
        data_folder=str(tmp_path / "data"),
        threads=THREADS,
    )
    folders = (tmp_path / f"run-{number}" for number in itertools.count())

    def ours() -> None:
        folder = next(folders)
        (folder / "lowered").mkdir(parents=True)
        found = work(job, folder, lambda event: None)
        OpenVino().lower(
            LowerRequest(
                model=imported.model,
                files=found.files,
                plan=plan,
                calibration=found.calibration,
                device=device,
                folder=folder / "lowered",
            )
        )

    def theirs() -> None:
        data = nncf.Dataset([images[index : index + 1] for index in range(SAMPLES)])
        quantized = nncf.quantize(openvino.Core().read_model(path), data, subset_size=SAMPLES)
        openvino.save_model(quantized, tmp_path / "theirs.xml", compress_to_fp16=False)

    ratio, control = benchmark.pedantic(interleaved, args=(ours, theirs, 1), rounds=1)
    print(f"\nResNet-50, {SAMPLES} samples to a saved IR: ours / NNCF = {ratio:.2f}; A/A {control:.2f}")
    assert ratio <= 1
