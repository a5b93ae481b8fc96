"""hwbench's int8 for ONNX Runtime against ONNX Runtime's own recommendation for x86.

That is ``quant_pre_process`` and ``quantize_static`` with Q/DQ pairs, unsigned activations, signed weights with a scale
for each channel, and ranges by minimum and maximum. Speed: blocks of both alternate in one process, and a second
session of the recommendation is the A/A control. Accuracy: real networks on real data, with hwbench's calibration.

    make bench PYTEST_ARGS="-k int8_onnxruntime"
"""

from __future__ import annotations

import csv
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime's own quantisation")

import lowered_onnxruntime as low
import onnxruntime
from command import shared_data
from rivals import by_onnxruntime
from stored_data import lay_down

from hwbench.devices.cpu import CpuFinder
from hwbench.engines.onnxruntime import OnnxRuntime
from hwbench.graph.importer import import_model
from hwbench.protocols import LowerRequest
from hwbench.quantize.calibrate import work
from hwbench.records.model import DataFacts, ImportJob
from hwbench.records.quantization import CalibrateJob, CalibrationSettings, PrecisionPlan

SLOWER = 1.03  # than the recommendation, beyond what the A/A control shows
BLOCK_S = 0.05


def imported(model, folder, *, batch_size=None, input_data=None):
    job = ImportJob(model=str(model), batch_size=batch_size, shapes={}, input_data=input_data, seed=0)
    return import_model(job, folder / "imported")


def recommended(result, samples, folder):
    """What ONNX Runtime's documentation says to do on x86."""
    return by_onnxruntime(
        Path(result.files.folder) / result.files.runtime_graph, samples, result.model.batch_size, folder
    )


def ours(result, samples, folder, settings):
    """The same network, calibrated and lowered by hwbench."""
    folder.mkdir()
    lay_down(folder, **samples)
    plan = PrecisionPlan(default="int8")
    count = len(next(iter(samples.values())))
    job = CalibrateJob(
        model=result.model,
        files=result.files,
        plan=plan,
        settings=settings,
        data=DataFacts(source="benchmark", sha256="0" * 64, samples=count, labels=False),
        data_folder=str(folder),
        threads=1,
    )
    calibrated = work(job, folder, lambda event: None)
    (folder / "lowered").mkdir()
    (device,) = CpuFinder().find().devices
    lowered = OnnxRuntime().lower(
        LowerRequest(
            model=result.model,
            files=calibrated.files,
            plan=plan,
            calibration=calibrated.calibration,
            device=device,
            folder=folder / "lowered",
        )
    )
    return low.Case(imported=result, lowered=lowered, folder=folder / "lowered")


def session(path, settings=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for key, value in (settings or {}).items():
        if "." in key:
            options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ratios(sessions, feeds, rounds):
    """The median over rounds of each session's fastest inference in a block, over that of the first session."""
    for item in sessions.values():
        item.run(None, feeds)
    best = {name: [] for name in sessions}
    for number in range(rounds):
        for name in list(sessions) if number % 2 else reversed(sessions):
            run, times, end = sessions[name].run, [], time.perf_counter() + BLOCK_S
            while not times or time.perf_counter() < end:
                start = time.perf_counter()
                run(None, feeds)
                times.append(time.perf_counter() - start)
            best[name].append(min(times))
    first = next(iter(best.values()))
    return {name: statistics.median(a / b for a, b in zip(times, first, strict=True)) for name, times in best.items()}


@pytest.mark.benchmark(group="int8 onnxruntime")
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "bert_small", "vit_tiny"])
def test_int8_onnxruntime_speed(benchmark, capsys, tmp_path, name):
    result = imported(f"zoo:{name}", tmp_path)
    feeds = dict(np.load(Path(result.files.folder) / "inputs.npz"))
    reference = recommended(result, feeds, tmp_path)
    case = ours(result, feeds, tmp_path / "ours", CalibrationSettings(estimator="minmax", bias_correction=False))
    sessions = {
        "recommended": session(reference),
        "hwbench": session(case.folder / "model.onnx", case.lowered.settings),
        "recommended again": session(reference),
        "fp32": session(Path(result.files.folder) / "model.onnx"),
    }
    found = benchmark.pedantic(ratios, args=(sessions, feeds, 40), rounds=1)
    with capsys.disabled():
        cells = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
        print(f"\n{name:14s} time over the recommendation's: {cells}")
    assert found["hwbench"] <= SLOWER * max(1.0, found["recommended again"])


@dataclass
class Task:
    """A real network with data to calibrate on, and labelled data that it is judged on."""

    model: str
    calibrate: dict[str, np.ndarray]
    judge: dict[str, np.ndarray]
    labels: np.ndarray
    batch: int


def cifar(model, scaled):
    def task():
        seen, held = np.load(shared_data("cifar10/calib_train.npz")), np.load(shared_data("cifar10/test_A.npz"))
        images = [item["x"].transpose(0, 3, 1, 2).astype(np.float32) for item in (seen, held)]
        if scaled:
            mean, deviation = (np.float32(item).reshape(3, 1, 1) for item in (IMAGENET_MEAN, IMAGENET_DEVIATION))
            images = [(item / 255 - mean) / deviation for item in images]
        return Task(str(shared_data(f"cifar10/{model}")), {"x": images[0][:500]}, {"x": images[1]}, held["y"], 50)

    return task


IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def keywords():
    data = np.load(shared_data("kws/kws01_A.npz"))
    values = (data["x"].astype(np.float32) - int(data["zero_point"])) * np.float32(data["scale"])
    values = values.transpose(0, 3, 1, 2)
    return Task(str(shared_data("kws/kws_dscnn.onnx")), {"x": values[:100]}, {"x": values[100:]}, data["y"][100:], 20)


def imagenet(model, prepare):
    def task():
        image = pytest.importorskip("PIL.Image", reason="reads JPEG files")
        with shared_data("imagenet/images_A.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        read = [np.asarray(image.open(shared_data("imagenet/images_A") / row["file"]).convert("RGB")) for row in rows]
        values = np.ascontiguousarray(prepare(np.stack(read).transpose(0, 3, 1, 2).astype(np.float32)))
        labels = np.array([int(row["class_index"]) for row in rows])
        seen = np.arange(len(values)) % 5 == 0  # a fifth to calibrate on, the others to judge by
        return Task(str(shared_data(f"imagenet/{model}")), {"x": values[seen]}, {"x": values[~seen]}, labels[~seen], 10)

    return task


def lite(images):
    return (images - 127) / 128


def caffe(images):
    return images[:, ::-1] - np.float32([104, 117, 123]).reshape(3, 1, 1)


TASKS = {
    "resnet8": cifar("mlperf_tiny_resnet8.onnx", scaled=False),
    "resnet20": cifar("resnet20.onnx", scaled=True),
    "resnet56": cifar("resnet56.onnx", scaled=True),
    "ds_cnn": keywords,
    "efficientnet_lite0": imagenet("efficientnet_lite0.onnx", lite),
    "squeezenet": imagenet("squeezenet_v1.0_deep_compressed.onnx", caffe),
}


def answers(run, arrays, size):
    """The class of every sample."""
    count = len(next(iter(arrays.values())))
    found = [run({name: array[i : i + size] for name, array in arrays.items()}) for i in range(0, count, size)]
    return np.concatenate(found).argmax(axis=1)


@pytest.mark.benchmark(group="int8 onnxruntime")
@pytest.mark.parametrize("name", TASKS)
def test_int8_onnxruntime_accuracy(benchmark, capsys, tmp_path, name):
    task = TASKS[name]()
    result = imported(task.model, tmp_path, batch_size=task.batch)
    (spec,) = result.model.inputs
    calibrate, judge = ({spec.name: item["x"]} for item in (task.calibrate, task.judge))
    case = benchmark.pedantic(ours, args=(result, calibrate, tmp_path / "ours", CalibrationSettings()), rounds=1)
    plain = ours(result, calibrate, tmp_path / "plain", CalibrationSettings(estimator="minmax", bias_correction=False))
    sessions = {
        "fp32": session(Path(result.files.folder) / result.files.runtime_graph),
        "recommended": session(recommended(result, calibrate, tmp_path)),
        "hwbench": session(case.folder / "model.onnx", case.lowered.settings),
        "hwbench, min-max": session(plain.folder / "model.onnx", plain.lowered.settings),
    }
    right = {
        key: answers(lambda feeds, item=item: item.run(None, feeds)[0], judge, task.batch) == task.labels
        for key, item in sessions.items()
    }
    with capsys.disabled():
        cells = ", ".join(f"{key} {100 * value.mean():.2f} %" for key, value in right.items())
        print(f"\n{name:18s} N {len(task.labels)}: {cells}")
    better, worse = ((right["hwbench"] & ~right["recommended"]).sum(), (~right["hwbench"] & right["recommended"]).sum())
    assert worse - better <= 2 * np.sqrt(worse + better + 1)  # paired: no worse beyond chance


SENTENCES, TOKENS = 300, 64
NET = """
import sys
sys.path.insert(0, {folder!r})
import loaders


def net():
    return loaders.bert_encoder({weights!r})
"""


def encoded(texts):
    """Tokens and mask of sentences, all of one length."""
    tokenizers = pytest.importorskip("tokenizers", reason="splits sentences into tokens")
    tokenizer = tokenizers.Tokenizer.from_file(str(shared_data("text/tokenizer.json")))
    tokenizer.enable_padding(length=TOKENS)
    tokenizer.enable_truncation(TOKENS)
    found = tokenizer.encode_batch(texts)
    return {
        "ids": np.array([item.ids for item in found], np.int64),
        "mask": np.array([item.attention_mask for item in found], np.int64),
    }


def spearman(left, right):
    ranks = []
    for values in (left, right):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.mark.benchmark(group="int8 onnxruntime")
def test_int8_onnxruntime_accuracy_of_sentences(benchmark, capsys, tmp_path):
    pytest.importorskip("torch", reason="the encoder comes as weights of a torch module")
    weights = shared_data("text/paraphrase-MiniLM-L3-v2.fp16.safetensors")
    (tmp_path / "net.py").write_text(NET.format(folder=str(weights.parents[1]), weights=str(weights)))
    with shared_data("text/sst2_dev.tsv").open(encoding="utf-8") as stream:
        calibrate = encoded([line.split("\t")[0] for line in stream][:SENTENCES])
    with shared_data("text/stsb-en-dev.csv").open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    judge = encoded([row[side] for side in (0, 1) for row in rows])
    truth = [float(row[2]) for row in rows]
    np.savez(tmp_path / "batch.npz", **{name: array[:20] for name, array in calibrate.items()})
    result = imported(f"{tmp_path / 'net.py'}:net", tmp_path, input_data=str(tmp_path / "batch.npz"))
    settings = CalibrationSettings()
    case = benchmark.pedantic(ours, args=(result, calibrate, tmp_path / "ours", settings), rounds=1)
    sessions = {
        "fp32": session(Path(result.files.folder) / result.files.runtime_graph),
        "recommended": session(recommended(result, calibrate, tmp_path)),
        "hwbench": session(case.folder / "model.onnx", case.lowered.settings),
    }
    found = {}
    for key, item in sessions.items():
        starts = range(0, len(judge["ids"]), 20)
        feeds = [{name: array[i : i + 20] for name, array in judge.items()} for i in starts]
        vectors = np.concatenate([item.run(None, each)[0] for each in feeds])
        found[key] = spearman((vectors[: len(rows)] * vectors[len(rows) :]).sum(axis=1), truth)
    with capsys.disabled():
        cells = ", ".join(f"{key} {100 * value:.2f}" for key, value in found.items())
        print(f"\nMiniLM-L3           N {len(rows)} pairs, Spearman of STS-B: {cells}")
    assert found["hwbench"] >= found["recommended"] - 0.005
