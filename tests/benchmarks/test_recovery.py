"""Recovery: half of the multiply-adds of ResNets for CIFAR-10 cut away, then at most three epochs of distillation.

    make bench PYTEST_ARGS="-k recovery"

No labels are used. HWBENCH_SHARED_DATA names the folder of networks and data. It has 2000 images to learn from;
HWBENCH_CIFAR10_TRAIN may name an .npz of all 50 000 training images (``x``: uint8 [N, 32, 32, 3]), HWBENCH_IMAGES how
many of them to take, HWBENCH_TEST how many images to test on, HWBENCH_DEVICE where to train, HWBENCH_RECOVERY ("none")
what repairs come before. The networks come with their BatchNorm, from the folder's own loaders.
"""

from __future__ import annotations

import importlib
import os
import sys

import numpy as np
import onnx_ir as ir
import pytest
from command import shared_data

torch = pytest.importorskip("torch", reason="training is done by torch")

from hwbench.compress.api import compress  # noqa: E402
from hwbench.records.compression import Step  # noqa: E402

BATCH = 32
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
RECIPE = {
    "epochs": 3, "labels": False, "optimizer": "sgd", "warmup": 0.1, "clip_norm": 1.0, "precision": "bf16",
    "features": "layer.*/Relu_2", "held_out": 0.02, "flip": True, "shift": 2,
}  # fmt: skip
OF_EACH = {
    "resnet20": {"learning_rate": 0.1, "feature_weight": 20.0, "weight_decay": 2e-4},
    "resnet56": {"learning_rate": 0.07, "feature_weight": 10.0},
}
WEIGHTS = {"resnet20": "cifar10/resnet20-12fca82f.th", "resnet56": "cifar10/resnet56-4bfd9763.th"}


def prepared(x):
    return (x.transpose(0, 3, 1, 2).astype(np.float32) / 255 - MEAN) / DEVIATION


def training_images():
    with np.load(os.environ.get("HWBENCH_CIFAR10_TRAIN") or shared_data("cifar10/calib_train.npz")) as stored:
        x = stored["x"]
    count = int(os.environ.get("HWBENCH_IMAGES", len(x)))
    return prepared(x[np.random.default_rng(0).permutation(len(x))[:count]])


def right(model, x, y):
    """The fraction of images that ONNX Runtime puts into the right class."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
    session = runtime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: x[at : at + BATCH]})[0].argmax(1) for at in range(0, len(x), BATCH)]
    assert len(x) % BATCH == 0
    return float((np.concatenate(found) == y).mean())


def network(name):
    """The network as its authors trained it, as a graph of the batch of training."""
    weights = shared_data(WEIGHTS[name])
    sys.path.insert(0, str(shared_data("loaders.py").parent))
    try:
        loaders = importlib.import_module("loaders")
    finally:
        sys.path.pop(0)
    module = loaders.cifar_resnet(str(weights), int(name.removeprefix("resnet")))
    example = {"x": torch.zeros(BATCH, 3, 32, 32)}
    return compress(module, [], example=example).model


def half_the_work(model):
    """The amount of channels that, taken away by norm, leaves half of the multiply-adds."""
    low, high = 0.2, 0.8
    for _ in range(7):
        middle = (low + high) / 2
        made = compress(model, [Step(method="width", layers=".*conv1.*", settings={"amount": middle})], repair="none")
        low, high = (middle, high) if made.after.macs > made.before.macs / 2 else (low, middle)
    return high


@pytest.mark.parametrize(("name", "allowed_pp"), [("resnet20", 2.0), ("resnet56", 1.0)])
def test_recovery_of_half_a_resnet(benchmark, name, allowed_pp):
    model = network(name)
    entry = model.graph.inputs[0].name
    with np.load(shared_data("cifar10/test_A.npz")) as stored:
        count = int(os.environ.get("HWBENCH_TEST", len(stored["y"]))) // BATCH * BATCH
        chosen = np.random.default_rng(1).permutation(len(stored["y"]))[:count]
        x, y = prepared(stored["x"][chosen]), stored["y"][chosen]
    images = training_images()
    width = Step(method="width", layers=".*conv1.*", settings={"amount": half_the_work(model), "criterion": "l1"})
    repair = os.environ.get("HWBENCH_RECOVERY", "default")
    cut = compress(model, [width], inputs={entry: images}, repair="none")
    mended = cut if repair == "none" else compress(model, [width], inputs={entry: images}, repair=repair)
    after_repair = [Step(method="repair")] if repair != "none" else []
    steps = [width, *after_repair, Step(method="finetune", settings=RECIPE | OF_EACH[name])]
    trained = benchmark.pedantic(
        compress, (model, steps), {"inputs": {entry: images}, "repair": repair,
                                   "device": os.environ.get("HWBENCH_DEVICE", "cpu")}, rounds=1,
    )  # fmt: skip
    found = {label: 100 * right(each, x, y) for label, each in (
        ("before", model), ("cut", cut.model), ("repaired", mended.model), ("recovered", trained.model))}  # fmt: skip
    figures = trained.applied[-1].figures
    lost = found["before"] - found["recovered"]
    benchmark.extra_info.update(found, images=len(images), tested=count, lost_pp=lost)
    print(
        f"\n{name}: multiply-adds {trained.before.macs / 1e6:.1f} M -> {trained.after.macs / 1e6:.1f} M, "
        f"{trained.before.parameters} -> {trained.after.parameters} parameters; amount {width.settings['amount']:.3f}\n"
        f"learned from N = {len(images)} images without labels, {figures['epochs']:.0f} epochs, "
        f"{figures['steps']:.0f} steps; tested on N = {count}\n"
        + ", ".join(f"{label} {value:.2f} %" for label, value in found.items())
        + f"; lost {lost:.2f} pp of {allowed_pp:g} pp allowed"
    )
    assert trained.after.macs <= trained.before.macs / 2
    assert lost <= allowed_pp
