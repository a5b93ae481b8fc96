"""Trained networks with labelled data, one function a task, for benchmarks of accuracy.

The files are not part of the repository: HWBENCH_SHARED_DATA names their folder. Calibration and test data are
disjoint everywhere.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

DATA = Path(os.environ.get("HWBENCH_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
Arrays = dict[str, np.ndarray]
Outputs = list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A network (a file, or a callable in one), samples to calibrate on, samples to test on, and the score of outputs.

    ``score``: one number per case, whose mean is the task's, or the task's own number from all outputs.
    """

    name: str
    spec: str
    calibration: Arrays
    test: Arrays
    score: Callable[[Outputs], float]
    unit: str
    labels: np.ndarray
    allowed: str  # the largest drop, as --max-drop has it
    kind: str = "classification"
    transformer: bool = False


def _file(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared data")
    return path


def _top1(labels: np.ndarray) -> Callable[[Outputs], float]:
    return lambda outputs: (
        100 * float(np.mean([out.argmax() == label for out, label in zip(outputs, labels, strict=True)]))
    )


def _of_images(
    name: str, spec: str, x: np.ndarray, y: np.ndarray, calibration: np.ndarray, entry: str, allowed: str = "0.5pp"
) -> Task:
    return Task(
        name=name,
        spec=str(_file(spec)),
        calibration={entry: calibration.astype(np.float32)},
        test={entry: x.astype(np.float32)},
        score=_top1(y),
        unit="% top-1",
        labels=y.astype(np.int64),
        allowed=allowed,
    )


def _cifar(name: str, spec: str, entry: str, prepare: Callable[[np.ndarray], np.ndarray]) -> Task:
    train, test = np.load(_file("cifar10/calib_train.npz")), np.load(_file("cifar10/test_A.npz"))
    order = np.random.default_rng(0).permutation(len(train["x"]))[:300]
    first = np.random.default_rng(1).permutation(len(test["x"]))[:3000]
    channels_first = (0, 3, 1, 2)
    return _of_images(
        name, spec, prepare(test["x"][first].transpose(channels_first)), test["y"][first],
        prepare(train["x"][order].transpose(channels_first)), entry,
    )  # fmt: skip


def imagenet_scale(x: np.ndarray) -> np.ndarray:
    mean, deviation = (
        np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (x / np.float32(255) - mean) / deviation


def resnet20() -> Task:
    return _cifar("CIFAR ResNet-20", "cifar10/resnet20.onnx", _input("cifar10/resnet20.onnx"), imagenet_scale)


def resnet56() -> Task:
    return _cifar("CIFAR ResNet-56", "cifar10/resnet56.onnx", _input("cifar10/resnet56.onnx"), imagenet_scale)


def resnet8() -> Task:
    spec = "cifar10/mlperf_tiny_resnet8.onnx"
    return _cifar("ResNet-8", spec, _input(spec), lambda x: x.astype(np.float32))


def ds_cnn() -> Task:
    data = np.load(_file("kws/kws01_A.npz"))
    x = ((data["x"].astype(np.float32) - int(data["zero_point"])) * np.float32(data["scale"])).reshape(-1, 1, 49, 10)
    order = np.random.default_rng(0).permutation(len(x))
    few, rest = order[:100], order[100:]
    spec = "kws/kws_dscnn.onnx"
    return _of_images("DS-CNN", spec, x[rest], data["y"][rest], x[few], _input(spec))


def efficientnet() -> Task:
    spec = "imagenet/efficientnet_lite0.onnx"
    return _imagenet("EfficientNet-Lite0", spec, lambda x: (x - 127) / 128)


def squeezenet() -> Task:
    spec, mean = "imagenet/squeezenet_v1.0_deep_compressed.onnx", np.array([104, 117, 123]).reshape(1, 3, 1, 1)
    return _imagenet("SqueezeNet", spec, lambda x: x[:, ::-1] - mean)


def _imagenet(name: str, spec: str, prepare: Callable[[np.ndarray], np.ndarray]) -> Task:
    image = pytest.importorskip("PIL.Image", reason="reads JPEG images")
    with _file("imagenet/images_A.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    pixels = [np.asarray(image.open(DATA / "imagenet" / "images_A" / row["file"]).convert("RGB")) for row in rows]
    x = prepare(np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32))
    y = np.array([int(row["class_index"]) for row in rows])
    order = np.random.default_rng(0).permutation(len(x))
    few, rest = order[:100], order[100:]
    return _of_images(name, spec, x[rest], y[rest], x[few], _input(spec), "1pp")


def _input(spec: str) -> str:
    import onnx

    return onnx.load(_file(spec), load_external_data=False).graph.input[0].name


def mini_lm(folder: Path) -> Task:
    """Spearman's correlation x 100 of cosine similarity and human scores on 700 pairs of the STS benchmark."""
    tokenizers = pytest.importorskip("tokenizers", reason="splits sentences")
    stats = pytest.importorskip("scipy.stats", reason="Spearman's correlation")
    weights = _file("text/paraphrase-MiniLM-L3-v2.fp16.safetensors")
    module = folder / "mini_lm.py"
    module.write_text(
        f"import sys\nsys.path.insert(0, {str(DATA)!r})\nimport loaders\n\n\n"
        f"def net():\n    import torch\n\n    ids = torch.full((2, 64), 7)\n"
        f"    return loaders.bert_encoder({str(weights)!r}), (ids, torch.ones_like(ids))\n"
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(_file("text/tokenizer.json")))
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(64)
    with _file("text/stsb-en-dev.csv").open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    order = np.random.default_rng(0).permutation(len(rows))
    few, rest = [rows[i] for i in order[:150]], [rows[i] for i in order[150:850]]

    def encoded(pairs: list[list[str]]) -> Arrays:
        found = tokenizer.encode_batch([text for pair in pairs for text in pair[:2]])
        ids, mask = ([getattr(one, name) for one in found] for name in ("ids", "attention_mask"))
        return {"ids": np.array(ids, np.int64), "mask": np.array(mask, np.int64)}

    def spearman(outputs: Outputs) -> float:
        vectors = np.concatenate(outputs)
        cosine = (vectors[::2] * vectors[1::2]).sum(axis=1)
        return 100 * float(stats.spearmanr(cosine, [float(row[2]) for row in rest]).statistic)

    return Task(
        name="MiniLM-L3",
        spec=f"{module}:net",
        calibration=encoded(few),
        test=encoded(rest),
        score=spearman,
        unit="Spearman x 100",
        labels=np.array([float(row[2]) for row in rest]),
        allowed="0.005",
        kind="embedding",
        transformer=True,
    )


def stories(folder: Path) -> Task:
    """Perplexity of a decoder (stories260K) on 32 texts of 256 tokens that it has written itself."""
    weights = _file("lm/stories260K.bin")
    module = folder / "stories.py"
    module.write_text(
        f"import sys\nsys.path.insert(0, {str(DATA)!r})\nimport loaders, torch\n\n\n"
        f"def net():\n    return loaders.tiny_llama({str(weights)!r}), (torch.full((2, 256), 7),)\n"
    )
    with np.load(_file("lm/self_generated_tokens.npz")) as file:
        ids = file[file.files[0]].astype(np.int64)
    labels, half = next_tokens(ids), len(ids) // 2
    test = labels[half:]

    def perplexity(outputs: Outputs) -> float:
        losses = [_cross_entropy(out, wanted) for out, wanted in zip(outputs, test, strict=True)]
        return float(np.exp(np.mean(losses)))

    return Task(
        name="stories260K",
        spec=f"{module}:net",
        calibration={"ids": ids[:half]},
        test={"ids": ids[half:]},
        score=perplexity,
        unit="perplexity",
        labels=test,
        allowed="0.05",
        kind="tokens",
        transformer=True,
    )


def next_tokens(ids: np.ndarray) -> np.ndarray:
    """Return each token's successor; the last one's is not judged (-100)."""
    return np.concatenate([ids[:, 1:], np.full((len(ids), 1), -100)], axis=1)


def _cross_entropy(logits: np.ndarray, wanted: np.ndarray) -> float:
    scores = logits.astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    judged = wanted >= 0
    return float(-scores[judged, wanted[judged]].mean())


def task(name: str, folder: Path) -> Task:
    """Return the task of a name; skips the test where its data are not here."""
    makers = {
        "resnet20": resnet20,
        "resnet56": resnet56,
        "resnet8": resnet8,
        "ds_cnn": ds_cnn,
        "efficientnet": efficientnet,
        "squeezenet": squeezenet,
    }
    texts = {"mini_lm": mini_lm, "stories": stories}
    return texts[name](folder) if name in texts else makers[name]()


NAMES = ("resnet20", "resnet56", "resnet8", "ds_cnn", "efficientnet", "squeezenet", "mini_lm")
