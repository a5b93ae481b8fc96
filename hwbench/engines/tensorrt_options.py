"""What a TensorRT build can be told beside precision: ``hwbench build --option NAME=VALUE``.

Every option has the default that ``trtexec`` has, with one exception: 2:4 sparse kernels are tried wherever weights are
2:4 (``trtexec`` wants ``--sparsity=enable``), since TensorRT times them beside the dense ones and keeps the faster. All
of them are stored with the engine. Names and meaning are those of ``IBuilderConfig`` in NVIDIA's API reference
(docs.nvidia.com/deeplearning/tensorrt).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import msgspec

from hwbench.errors import UsageError

Sparse = Literal["auto", "on", "off"]
Cache = Literal["on", "off", "editable"]
Hardware = Literal["none", "ampere-plus", "same-capability"]
Refit = Literal["no", "yes", "identical"]
Constraints = Literal["obey", "prefer"]
HARDWARE_LEVELS: dict[Hardware, str] = {
    "none": "NONE",
    "ampere-plus": "AMPERE_PLUS",
    "same-capability": "SAME_COMPUTE_CAPABILITY",
}

DESCRIPTIONS: dict[str, str] = {
    "sparse": "2:4 sparse kernels: auto (try them where weights are 2:4), on, off",
    "level": "builder optimization level, 0 to 5; 3 is TensorRT's own",
    "timings": "how often a tactic is timed while building; 1 is TensorRT's own",
    "workspace": "memory that tactics may take, in MiB; default: all of the GPU's",
    "aux-streams": "auxiliary streams at most; default: TensorRT's choice",
    "cache": "timing cache, kept by device and version: on, off, editable",
    "hardware": "GPUs it runs on: none (this kind alone), ampere-plus (8.0 and newer), same-capability",
    "versions": "yes: a plan that newer minor versions run too (lean runtime inside)",
    "dla": "number of the DLA core to build for, in fp16; what it cannot run goes to the GPU",
    "refit": "weights can be exchanged later: no, yes, identical",
    "strip": "yes: a plan without weights, to be refitted from model.onnx where it runs",
    "stream": "yes: weights may stay in host memory (weight streaming)",
    "batch": "MIN:BEST:MAX of a batch axis that stays open",
    "constraints": "half precision on TensorRT 8.x: obey (or no engine), prefer (or another type)",
}

# RTX has no DLA and must get no timing cache, which asks the GPU for its kind; it has only strong types, and no lean
# runtime to put into a plan. What says "on the card" its compiler asks the GPU for.
_NOT_RTX = frozenset({"dla", "cache", "constraints", "hardware", "versions"})
RTX_DESCRIPTIONS: dict[str, str] = {
    name: f"{text}; on the card only" if name in {"refit", "strip"} else text
    for name, text in DESCRIPTIONS.items()
    if name not in _NOT_RTX
}


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of one build, resolved."""

    sparse: Sparse = "auto"
    level: int = 3
    timings: int = 1
    workspace_bytes: int | None = None
    aux_streams: int | None = None
    cache: Cache = "on"
    hardware: Hardware = "none"
    versions: bool = False
    dla: int | None = None
    refit: Refit = "no"
    strip: bool = False
    stream: bool = False
    batch: tuple[int, int, int] | None = None
    constraints: Constraints = "obey"


def read_options(given: Mapping[str, str]) -> BuildOptions:
    """Understand options as they were typed.

    Raises:
        UsageError: one is not known, or its value is not.
    """
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in _READERS:
            raise UsageError(f"TensorRT has no option '{name}'", hint=f"it has: {', '.join(DESCRIPTIONS)}")
        field, read = _READERS[name]
        try:
            values[field] = read(text)
        except ValueError as error:
            raise UsageError(f"--option {name}={text}: {error}", hint=DESCRIPTIONS[name]) from error
    return BuildOptions(**values)


def _one_of(kind: Any) -> Callable[[str], str]:
    known = get_args(kind)

    def read(text: str) -> str:
        if text not in known:
            msg = f"it may be {', '.join(known)}"
            raise ValueError(msg)
        return text

    return read


def _number(low: int, high: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal():
            msg = "it is no whole number"
            raise ValueError(msg)
        value = int(text)
        if value < low or (high is not None and value > high):
            msg = f"it may be {low} to {high}" if high is not None else f"it is at least {low}"
            raise ValueError(msg)
        return value

    return read


def _mebibytes(text: str) -> int:
    return _number(1)(text) << 20


def _yes(text: str) -> bool:
    return _one_of(Literal["yes", "no"])(text) == "yes"


def _range(text: str) -> tuple[int, int, int]:
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        msg = "it is three whole numbers, such as 1:8:32"
        raise ValueError(msg)
    low, best, high = (int(part) for part in parts)
    if not 1 <= low <= best <= high:
        msg = "they must rise, from 1 at least"
        raise ValueError(msg)
    return low, best, high


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "sparse": ("sparse", _one_of(Sparse)),
    "level": ("level", _number(0, 5)),
    "timings": ("timings", _number(1)),
    "workspace": ("workspace_bytes", _mebibytes),
    "aux-streams": ("aux_streams", _number(0)),
    "cache": ("cache", _one_of(Cache)),
    "hardware": ("hardware", _one_of(Hardware)),
    "versions": ("versions", _yes),
    "dla": ("dla", _number(0)),
    "refit": ("refit", _one_of(Refit)),
    "strip": ("strip", _yes),
    "stream": ("stream", _yes),
    "batch": ("batch", _range),
    "constraints": ("constraints", _one_of(Constraints)),
}
