"""Which arithmetic TensorRT and TensorRT for RTX offer on which NVIDIA architecture.

One table for the engine that builds and for the predictions of devices that are not here. An architecture goes by its
compute capability, as (major, minor). Which layer can have what is the engine's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from hwbench.records.base import Missing

Capability = tuple[int, int]
Flavour = Literal["tensorrt", "tensorrt-rtx"]
Word = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int8-dynamic", "int8-weights", "int4-weights", "2:4"]

RTX_TARGETS: Final[tuple[Capability, ...]] = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))

SOURCES: Final = {
    "trt": "what is known of the architectures; not held against TensorRT's support matrices",
    "modelopt": "NVIDIA Model Optimizer, support matrix (nvidia.github.io/Model-Optimizer)",
    "rtx": "TensorRT for RTX 1.5, support matrix (docs.nvidia.com/deeplearning/tensorrt-rtx)",
    "rtx-built": "TensorRT for RTX 1.7.1: graphs of one operator built for each target, with no GPU",
    "types": "TensorRT, operator Quantize: the scale must be a build-time constant",
}

_FROM: Final[Mapping[str, tuple[Capability, str, str]]] = {  # word: first architecture, its name, source
    "tf32": ((8, 0), "Ampere", "trt"),
    "bf16": ((8, 0), "Ampere", "trt"),
    "int4-weights": ((8, 0), "Ampere", "modelopt"),
    "int8-weights": ((8, 0), "Ampere", "rtx"),
    "fp8": ((8, 9), "Ada", "modelopt"),
    "2:4": ((8, 0), "Ampere", "trt"),
}
_NO_FP16: Final = frozenset({(5, 0), (5, 2), (6, 1)})
_NO_INT8: Final = frozenset({(5, 0), (5, 2), (5, 3), (6, 0), (6, 2)})
_DYNAMIC: Final = "TensorRT quantises activations with scales that are fixed when the engine is built"
_WEIGHTS: Final = "TensorRT's products with packed weights are for int4 alone: it would unpack int8 weights in building"
_WEIGHTS_CURE: Final = "int4-weights, or int8, which quantises the activations too"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a builder said to a graph that the general table allows; ``source``: a key of :data:`SOURCES`.

    ``operators``: those it concerns, none for all.
    """

    flavour: Flavour
    capabilities: tuple[Capability, ...]
    word: Word
    operators: tuple[str, ...]
    said: str
    source: str


REFUSALS: Final = (
    Refusal(
        flavour="tensorrt-rtx", capabilities=((7, 5),), word="fp32", operators=("Einsum", "Gemm", "MatMul"),
        said="FP32 GEMM is not supported", source="rtx-built",
    ),
    Refusal(
        flavour="tensorrt-rtx", capabilities=((7, 5),), word="bf16", operators=(),
        said="the model contains HW-specific datatypes: b16", source="rtx-built",
    ),
    Refusal(
        flavour="tensorrt-rtx", capabilities=((7, 5),), word="int4-weights", operators=(),
        said="the model contains HW-specific datatypes: int4", source="rtx-built",
    ),
    Refusal(
        flavour="tensorrt-rtx", capabilities=((7, 5), (8, 0), (8, 6)), word="fp8", operators=(),
        said="the model contains HW-specific datatypes: fp8_e4m3", source="rtx-built",
    ),
    Refusal(
        flavour="tensorrt-rtx", capabilities=RTX_TARGETS[1:], word="bf16", operators=("ConvTranspose",),
        said="Could not infer output types for operation", source="rtx-built",
    ),
    Refusal(
        flavour="tensorrt-rtx", capabilities=RTX_TARGETS[1:], word="bf16", operators=("HardSwish", "Mish"),
        said="input is supported for the", source="rtx-built",
    ),
)  # fmt: skip


def legal(capability: Capability, flavour: Flavour) -> dict[Word, Missing | None]:
    """Return for each precision why an architecture cannot have it, or None where it can; ``2:4`` is sparsity.

    Raises:
        ValueError: the flavour is unknown.
    """
    if flavour not in {"tensorrt", "tensorrt-rtx"}:
        raise ValueError(f"no flavour of TensorRT is called '{flavour}'")
    words: tuple[Word, ...] = (
        "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int8-dynamic", "int8-weights", "int4-weights", "2:4",
    )  # fmt: skip
    return {word: _refused(word, capability, flavour) for word in words}


def named(capability: Capability) -> str:
    """Return a compute capability as it is written: ``8.9``."""
    return f"{capability[0]}.{capability[1]}"


def capability_of(text: str) -> Capability:
    """Return ``8.9`` as (8, 9).

    Raises:
        ValueError: it is no compute capability.
    """
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def refused_operators(word: Word, capability: Capability, flavour: Flavour) -> Mapping[str, Refusal]:
    """Return the operators that a builder refuses in a precision that the architecture has, and what it said."""
    return {
        operator: each
        for each in REFUSALS
        if each.word == word and each.flavour == flavour and capability in each.capabilities
        for operator in each.operators
    }


def _refused(word: Word, capability: Capability, flavour: Flavour) -> Missing | None:
    if flavour == "tensorrt-rtx" and capability not in RTX_TARGETS:
        targets = ", ".join(named(each) for each in RTX_TARGETS)
        return Missing(
            code="not_a_target",
            why=f"TensorRT for RTX builds for compute capability {targets}, and this is {named(capability)}",
            cure="the engine tensorrt, on the device itself",
        )
    if word == "int8-dynamic":
        return Missing(code="not_offered", why=_DYNAMIC, cure="int8, with samples to calibrate on (--data)")
    if word == "int8-weights" and flavour == "tensorrt":
        return Missing(code="not_offered", why=_WEIGHTS, cure=_WEIGHTS_CURE)
    return _refused_by_age(word, capability)


def _refused_by_age(word: Word, capability: Capability) -> Missing | None:
    if word in _FROM:
        first, name, _ = _FROM[word]
        return None if capability >= first else _too_old(word, capability, f"{named(first)} ({name}) on")
    if word == "fp16" and capability in _NO_FP16:
        return _too_old(word, capability, "6.0 on but for 6.1, and on 5.3")
    if word == "int8" and capability in _NO_INT8:
        return _too_old(word, capability, "7.0 on, and on 6.1")
    return None


def _too_old(word: str, capability: Capability, since: str) -> Missing:
    what = "2:4 sparsity" if word == "2:4" else word
    return Missing(
        code="no_arithmetic", why=f"{what} is there from compute capability {since}; this is {named(capability)}"
    )
