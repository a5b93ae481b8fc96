"""The list of built-in models, and the one way to make them.

Each network is one file of plain torch, written here after its paper, and nothing is downloaded. One of them,
``digits_cnn``, is trained; the weights of the others are drawn from a fixed stream, which is enough to measure time,
memory and energy and says nothing about accuracy.

Listing imports no torch: a factory is named as ``module:function`` and imported by :func:`create`.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwbench.errors import EngineError, UsageError
from hwbench.records.model import TensorSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A built-in model.

    ``inputs`` are the arguments of ``forward`` at batch size 1, axis 0 being the batch. ``parameters`` counts the
    learnable ones; running statistics of batch normalisation are not among them. ``macs`` counts the multiply-adds of
    convolutions and matrix products for one item of the batch. ``factory`` and ``example`` are ``module:function``.
    """

    name: str
    title: str
    task: str
    source: str
    trained: bool
    inputs: tuple[TensorSpec, ...]
    parameters: int
    macs: int
    factory: str
    example: str = "hwbench.models.examples:unit_variance"


def _float32(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def _int64(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="int64", shape=shape)


_TINY = "Banbury et al. 2021, MLPerf Tiny Benchmark, arXiv:2106.07597"

_MODELS = (
    ZooModel(
        name="digits_cnn",
        title="Digits CNN",
        task="image classification, 10 digits, 8x8",
        source="hwbench; data: scikit-learn's digits (UCI optdigits, Alpaydin & Kaynak 1998)",
        trained=True,
        inputs=(_float32("image", 1, 1, 8, 8),),
        parameters=19_258,
        macs=456_704,
        factory="hwbench.models.digits_cnn:trained_digits_cnn",
        example="hwbench.models.examples:zero_to_one",
    ),
    ZooModel(
        name="resnet8",
        title="ResNet-8 (MLPerf Tiny)",
        task="image classification, 10 classes, 32x32",
        source=_TINY,
        trained=False,
        inputs=(_float32("image", 1, 3, 32, 32),),
        parameters=78_186,
        macs=12_501_632,
        factory="hwbench.models.resnet8:resnet8",
    ),
    ZooModel(
        name="resnet20",
        title="ResNet-20 (CIFAR, option A shortcuts)",
        task="image classification, 10 classes, 32x32",
        source="He et al. 2016, Deep Residual Learning, section 4.2, arXiv:1512.03385",
        trained=False,
        inputs=(_float32("image", 1, 3, 32, 32),),
        parameters=269_722,
        macs=40_551_040,
        factory="hwbench.models.resnet20:resnet20",
    ),
    ZooModel(
        name="ds_cnn",
        title="DS-CNN (MLPerf Tiny)",
        task="keyword spotting, 12 classes, 49 frames of 10 MFCCs",
        source=f"Zhang et al. 2017, Hello Edge, arXiv:1711.07128; {_TINY}",
        trained=False,
        inputs=(_float32("mfcc", 1, 1, 49, 10),),
        parameters=23_756,
        macs=2_656_768,
        factory="hwbench.models.ds_cnn:ds_cnn",
    ),
    ZooModel(
        name="autoencoder",
        title="Deep autoencoder (MLPerf Tiny)",
        task="anomaly detection, 5 frames of 128 log-mel energies",
        source=f"Koizumi et al. 2020, DCASE challenge task 2, arXiv:2006.05822; {_TINY}",
        trained=False,
        inputs=(_float32("features", 1, 640),),
        parameters=267_928,
        macs=264_192,
        factory="hwbench.models.autoencoder:autoencoder",
    ),
    ZooModel(
        name="mobilenet_v2",
        title="MobileNetV2 1.0",
        task="image classification, 1000 classes, 224x224",
        source="Sandler et al. 2018, MobileNetV2, arXiv:1801.04381",
        trained=False,
        inputs=(_float32("image", 1, 3, 224, 224),),
        parameters=3_504_872,
        macs=300_774_272,
        factory="hwbench.models.mobilenet_v2:mobilenet_v2",
    ),
    ZooModel(
        name="resnet50",
        title="ResNet-50 v1.5",
        task="image classification, 1000 classes, 224x224",
        source="He et al. 2016, Deep Residual Learning, arXiv:1512.03385; stride in the 3x3 as in Goyal et al. 2017, "
        "arXiv:1706.02677",
        trained=False,
        inputs=(_float32("image", 1, 3, 224, 224),),
        parameters=25_557_032,
        macs=4_089_184_256,
        factory="hwbench.models.resnet50:resnet50",
    ),
    ZooModel(
        name="vit_tiny",
        title="ViT-Ti/16",
        task="image classification, 1000 classes, 224x224",
        source="Dosovitskiy et al. 2021, ViT, arXiv:2010.11929; size Ti from Touvron et al. 2021, DeiT, "
        "arXiv:2012.12877",
        trained=False,
        inputs=(_float32("image", 1, 3, 224, 224),),
        parameters=5_717_416,
        macs=1_253_683_200,
        factory="hwbench.models.vit_tiny:vit_tiny",
    ),
    ZooModel(
        name="bert_small",
        title="BERT-Small (4 layers, 512 hidden)",
        task="text encoding, 128 tokens, with padding mask",
        source="Devlin et al. 2019, BERT, arXiv:1810.04805; size Small from Turc et al. 2019, arXiv:1908.08962",
        trained=False,
        inputs=(_int64("input_ids", 1, 128), _int64("attention_mask", 1, 128), _int64("token_type_ids", 1, 128)),
        parameters=28_763_648,
        macs=1_677_983_744,
        factory="hwbench.models.bert_small:bert_small",
        example="hwbench.models.examples:sentence_pairs",
    ),
)

ZOO: dict[str, ZooModel] = {model.name: model for model in _MODELS}


def create(name: str, batch_size: int = 1) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Make a built-in model in eval mode on the CPU, and example inputs by the name of forward's argument.

    Both are the same bits on every call and every machine: they come from numpy's PCG64 bit stream, and torch's own
    random state is neither used nor moved.

    Raises:
        UsageError: no such model, or ``batch_size`` below 1.
        EngineError: torch is not installed.
    """
    model = _find(name)
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} was asked for", hint="give a batch size of at least 1")
    factory = _load(model.factory)
    module = factory() if model.trained else _load("hwbench.models.initialise:initialise")(factory, model.inputs)
    return module.eval(), _load(model.example)(model.inputs, batch_size)


def _find(name: str) -> ZooModel:
    if name not in ZOO:
        close = difflib.get_close_matches(name, ZOO, n=3)
        meant = f"did you mean {' or '.join(close)}? " if close else ""
        raise UsageError(f"no built-in model is called '{name}'", hint=f"{meant}there are: {', '.join(ZOO)}")
    return ZOO[name]


def _load(reference: str) -> Any:
    module, function = reference.split(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise EngineError(
            "the built-in models need torch, and it is not installed", hint="pip install 'hwbench-nn[cpu]'"
        ) from error
