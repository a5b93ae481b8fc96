"""How many channels a machine computes at once: between multiples of that, a channel less saves nothing."""

from __future__ import annotations

from hwbench.records.planning import Platform
from hwbench.records.quantization import Scheme

_FLOAT_LANES = (("avx512f", 16), ("avx2", 8))  # of 32 bits; anything else has 128-bit vectors
_TENSOR_CORES: dict[str, int] = {"fp32": 1, "tf32": 4, "int8": 16, "fp8": 16}  # channels in 16 bytes; halves: 8
_INT8_STEPS = (("amx_int8", 64), ("avx512_vnni", 16), ("avx_vnni", 8), ("i8mm", 8))


def quantum(platform: Platform, scheme: Scheme) -> int:
    """Return the step of the staircase that latency is over widths: lanes of a vector, rows of a tile.

    16 lanes of fp32 in AVX-512; int8 with VNNI adds four products into each of 16 lanes; AMX multiplies tiles of 64
    bytes. NVIDIA's tensor cores read 16 bytes of a row at once ("Matrix Multiplication Background User's Guide",
    docs.nvidia.com/deeplearning/performance). A runtime need not follow the machine: which steps are there is for the
    measured times to say.
    """
    isa = set(platform.isa)
    if any(name.startswith("sm_") for name in isa):
        return _TENSOR_CORES.get(scheme if scheme in {"int8", "fp8"} else platform.floating, 8)
    if scheme == "int8":
        return next((step for name, step in _INT8_STEPS if name in isa), _lanes(isa))
    if "amx_bf16" in isa and platform.floating in {"auto", "bf16"}:
        return 32
    return _lanes(isa)


def padded(channels: int, step: int) -> int:
    """Round a number of channels up to a multiple of ``step``."""
    return -(-channels // step) * step


def _lanes(isa: set[str]) -> int:
    return next((lanes for name, lanes in _FLOAT_LANES if name in isa), 4)
