"""Every built-in model in every precision, written for TensorRT and built by TensorRT for RTX for all its targets.

What is judged: whether the table of architectures (``hwbench/quantize/nvidia.py``) says what the builder does, and
whether the graph computes what the float network does. No engine is run, so nothing here is about speed.

    HWBENCH_ALL_MODELS=1 make bench PYTEST_ARGS="-k tensorrt_rtx_zoo -s"

Without the variable only the small ones are built, which every run of the tests does.
"""

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT for RTX")
pytest.importorskip("torch", reason="the models are exported from torch")

import tensorrt_lowering as low
import tensorrt_rtx_oracle as rtx
from large import LARGE

from hwbench.errors import Unsupported
from hwbench.quantize.nvidia import legal, named

SMALL = ("digits_cnn", "ds_cnn", "autoencoder")
OTHERS = ("resnet8", "resnet20", "mobilenet_v2", "bert_small", "vit_tiny")
MODELS = (*SMALL, *(pytest.param(name, marks=LARGE) for name in OTHERS))
PLANS = {  # plan, arithmetic of what is not quantised, least signal to noise (dB) of untrained weights
    "fp32": ("float", "fp32", 100),
    "tf32": ("float", "tf32", 100),
    "fp16": ("float", "fp16", 40),
    "bf16": ("float", "bf16", None),  # ONNX Runtime's CPU provider has no bf16
    "int8": ("int8", "auto", 12),
    "fp8": ("fp8", "auto", 12),
    "int8-weights": ("int8-weights", "auto", 30),
    "int4-weights": ("int4-weights", "auto", 8),
}


def written(case, word, capability, folder):
    plan, floating, _ = PLANS[word]
    return low.again(
        case.imported, folder, plan, floating=floating, ranges=case.ranges, feeds=case.feeds,
        capability=capability, flavour="tensorrt-rtx",
    )  # fmt: skip


def cells_of(first, word, folder):
    """One cell for each target, and the graph. It is written once for Turing and once for what came after."""
    cells, refusals, graph = [], [], None
    for at, targets in {(7, 5): [(7, 5)], (8, 9): [each for each in rtx.TARGETS if each > (7, 5)]}.items():
        try:
            case = written(first, word, at, folder / f"{word}-{named(at)}")
        except Unsupported as error:
            refusals.append(error.message)
            cells += ["-"] * len(targets)
            continue
        graph = case
        for target in targets:
            verdict = rtx.build(case.path, target, case.typed.flags)
            is_legal = legal(target, "tensorrt-rtx")[word] is None
            assert verdict.built == is_legal, (word, target, verdict.said)
            cells.append(f"{verdict.engine_bytes / 1e6:.2f}" if verdict.built else "-")
    assert all("compute capability" in message for message in refusals)
    return cells, graph


@pytest.mark.parametrize("name", MODELS)
def test_tensorrt_rtx_zoo(name, tmp_path, capsys):
    first = low.lowered(name, tmp_path, "float", flavour="tensorrt-rtx")
    truth = first.float_outputs()
    rows = []
    for word, (_, _, least) in PLANS.items():
        cells, case = cells_of(first, word, tmp_path)
        signal = ""
        if least is not None:
            found = case.outputs()
            worst = min(low.sqnr_db(truth[key], found[key]) for key in truth)
            signal = f"{worst:.1f}" if np.isfinite(worst) else "same"
            assert worst > least, (word, worst)
        share = f"{sum(got != 'float' for got in case.got.values())}/{len(case.got)}" if case.got else ""
        rows.append((word, share, signal, *cells))
    with capsys.disabled():
        print(f"\n{name}: layers quantised, signal to noise in dB, engine in MB by compute capability (-: refused)")
        head = ("precision", "layers", "dB", *(named(each) for each in rtx.TARGETS))
        for row in (head, *rows):
            print("  " + "".join(f"{cell:>14}" for cell in row))
