"""What repairs bring back without training: ResNet-56 (CIFAR-10) at half its MACs (docs/compress/repair.md).

Half of the channels between the two convolutions of each block go. Calibrated on training images, judged on 5000 test
images. make bench PYTEST_ARGS="-k repair_pays"
"""

from __future__ import annotations

import numpy as np
import pytest
from command import shared_data
from compress_subjects import imported, subject_of

from hwbench.data.samples import Samples
from hwbench.graph.linear import Linear, linear_layers
from hwbench.graph.onnx_file import infer_shapes

torch = pytest.importorskip("torch", reason="the torch view runs the networks")

MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
BATCH = 100


def pictures(name, count):
    stored = np.load(shared_data(f"cifar10/{name}.npz"))
    order = np.random.default_rng(0).permutation(len(stored["x"]))[:count]
    x = stored["x"][order].transpose(0, 3, 1, 2).astype(np.float32) / 255
    return (x - MEAN) / DEVIATION, stored["y"][order]


def spec(folder):
    """The network as its author trained it, with BatchNormalization."""
    weights = shared_data("cifar10/resnet56-4bfd9763.th")
    made = folder / "resnet56.py"
    made.write_text(
        f"import sys\nsys.path.insert(0, {str(weights.parents[1])!r})\nimport loaders\n\n\ndef net():\n"
        f"    import torch\n\n    net = loaders.cifar_resnet({str(weights)!r}, 56)\n"
        f"    return net, (torch.zeros({BATCH}, 3, 32, 32),)\n"
    )
    return f"{made}:net"


def top1(subject, x, y):
    view, right = subject.view(), 0
    with torch.no_grad():
        for start in range(0, len(x), BATCH):
            found = view(torch.from_numpy(x[start : start + BATCH]))[0].argmax(1).numpy()
            right += int((found == y[start : start + BATCH]).sum())
    return 100 * right / len(x)


def macs(model):
    layers = [layer for layer in linear_layers(model) if isinstance(layer, Linear)]
    return sum(layer.weight.size * int(np.prod(layer.output.shape.numpy()[2:])) for layer in layers)


@pytest.mark.timeout(1800)
def test_repair_pays_on_resnet56(benchmark, tmp_path):
    from hwbench.compress.methods.width import Width, WidthSettings
    from hwbench.compress.repair.run import repair

    model = imported(spec(tmp_path), tmp_path, batch=None)
    some, _ = pictures("calib_train", 2000)
    x, y = pictures("test_A", 5000)
    first = next(value.name for value in model.graph.inputs if not value.is_initializer())
    samples = Samples(inputs={first: some}, labels=None, batch=BATCH)
    subject = subject_of(model, tmp_path, samples=samples)
    method, how = Width(), WidthSettings(amount=0.51, criterion="l1")
    inner = [
        name for name, why in method.legal(subject, how).items() if "conv1" in name and "layer" in name and not why
    ]
    method.apply(subject, inner, how)
    subject.model = infer_shapes(subject.model)
    assert macs(subject.model) <= macs(subject.original) / 2
    without = top1(subject, x, y)
    outcome = benchmark.pedantic(repair, args=(subject,), rounds=1)
    repaired = top1(subject, x, y)
    print("\n" + "\n".join(outcome.notes))
    print(f"top-1 of 5000: cut {without:.2f} %, repaired {repaired:.2f} %")
    assert repaired >= without + 20
