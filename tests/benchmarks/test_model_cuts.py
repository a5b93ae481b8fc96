"""Every built-in and real network, cut by a quarter: it runs, it exports, and equals the original with zeros.

Small ones are tested every time (tests/unit/structure/test_small_model_cuts.py).

    make bench PYTEST_ARGS="-k model_cuts"
"""

from __future__ import annotations

import pytest
from command import shared_data
from compress_subjects import imported
from structure_graphs import cut_and_exported

from hwbench.models.zoo import ZOO

FILES = {
    "CIFAR ResNet-20": "cifar10/resnet20.onnx",
    "CIFAR ResNet-56": "cifar10/resnet56.onnx",
    "ResNet-8": "cifar10/mlperf_tiny_resnet8.onnx",
    "DS-CNN": "kws/kws_dscnn.onnx",
    "EfficientNet-Lite0": "imagenet/efficientnet_lite0.onnx",
    "SqueezeNet": "imagenet/squeezenet_v1.0_deep_compressed.onnx",
}
LOADED = {
    "MiniLM": ("bert_encoder", "text/paraphrase-MiniLM-L3-v2.fp16.safetensors", "ids, torch.ones_like(ids)"),
    "stories260K": ("tiny_llama", "lm/stories260K.bin", "ids,"),
}


GROUPS = {
    "digits_cnn": 3, "resnet8": 6, "resnet20": 12, "ds_cnn": 5, "autoencoder": 9, "mobilenet_v2": 25, "resnet50": 37,
    "vit_tiny": 24, "bert_small": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_model_cuts_of_the_zoo(benchmark, name, tmp_path):
    model = imported(name, tmp_path, batch=1)
    found = benchmark.pedantic(cut_and_exported, args=(model,), rounds=1)
    assert len(found) == GROUPS[name]


@pytest.mark.parametrize(
    ("name", "groups"),
    [("CIFAR ResNet-20", 12), ("CIFAR ResNet-56", 30), ("ResNet-8", 6), ("DS-CNN", 5), ("EfficientNet-Lite0", 24),
     ("SqueezeNet", 25)],
)  # fmt: skip
def test_model_cuts_of_real_networks(benchmark, name, groups, tmp_path):
    model = imported(str(shared_data(FILES[name])), tmp_path, batch=1)
    assert len(benchmark.pedantic(cut_and_exported, args=(model,), rounds=1)) == groups


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the loader leaves a file open
@pytest.mark.parametrize(("name", "groups"), [("MiniLM", 6), ("stories260K", 10)])
def test_model_cuts_of_real_transformers(benchmark, name, groups, tmp_path):
    loader, file, given = LOADED[name]
    path = shared_data(file)
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {str(shared_data('loaders.py').parent)!r})\nimport loaders\n\n\n"
        f"def net():\n    import torch\n\n    ids = torch.full((1, 24), 7)\n"
        f"    return loaders.{loader}({str(path)!r}), ({given})\n"
    )
    model = imported(f"{tmp_path / 'net.py'}:net", tmp_path, batch=1)
    assert len(benchmark.pedantic(cut_and_exported, args=(model,), rounds=1)) == groups
