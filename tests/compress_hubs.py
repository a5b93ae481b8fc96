"""Hubs of real networks and of built-in models, imported once a test session and batch size."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import onnx_ir as ir
import pytest
from compress_subjects import imported

from hwbench.models.zoo import ZOO

DATA = Path(os.environ.get("HWBENCH_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FILES = {
    "cifar_resnet20": "cifar10/resnet20.onnx",
    "cifar_resnet56": "cifar10/resnet56.onnx",
    "mlperf_resnet8": "cifar10/mlperf_tiny_resnet8.onnx",
    "mlperf_ds_cnn": "kws/kws_dscnn.onnx",
    "efficientnet_lite0": "imagenet/efficientnet_lite0.onnx",
    "squeezenet": "imagenet/squeezenet_v1.0_deep_compressed.onnx",
}
MODULES = {
    "mini_lm": (
        "text/paraphrase-MiniLM-L3-v2.fp16.safetensors",
        "def net():\n    import torch\n\n    ids = torch.full((2, 16), 7)\n"
        "    return loaders.bert_encoder({path!r}), (ids, torch.ones_like(ids))\n",
    ),
    "stories260k": (
        "lm/stories260K.bin",
        "def net():\n    import torch\n\n    return loaders.tiny_llama({path!r}), (torch.full((2, 16), 7),)\n",
    ),
}
REAL = (*FILES, *MODULES)
QUICK_ZOO = ("digits_cnn",)
SLOW_ZOO = tuple(name for name in ZOO if name not in QUICK_ZOO)


def hub(name: str, batch: int) -> ir.Model:
    """Return the hub of a built-in model or a real network, fresh; skips the test where the files are not here."""
    return ir.from_proto(ir.to_proto(_hub(name, batch)))


@functools.lru_cache(maxsize=32)
def _hub(name: str, batch: int) -> ir.Model:
    with tempfile.TemporaryDirectory() as folder:
        return imported(_spec(name, Path(folder)), Path(folder), batch=batch)


def _spec(name: str, folder: Path) -> str:
    if name in ZOO:
        return name
    path = DATA / (FILES.get(name) or MODULES[name][0])
    if not path.exists():
        pytest.skip(f"needs {path.name} of the shared data")
    if name in FILES:
        return str(path)
    if path.suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="reads the weights")
    module = folder / f"{name}_module.py"
    head = f"import sys\nsys.path.insert(0, {str(DATA)!r})\nimport loaders\n\n\n"
    module.write_text(head + MODULES[name][1].format(path=str(path)))
    return f"{module}:net"
