"""Which arithmetic a layer runs in on a device: what is asked, what the runtime does by itself, what the chip has."""

from __future__ import annotations

from typing import cast

from hwbench.errors import Unsupported
from hwbench.prediction.machine import Machine
from hwbench.quantize.nvidia import Flavour, Word, capability_of, legal
from hwbench.records.prediction import Work
from hwbench.records.quantization import Floating, Scheme

_CPU_HALF = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "fp16"}}
_STORED_BITS: dict[Scheme, float] = {"int8": 8, "int8-dynamic": 8, "int8-weights": 8, "int4-weights": 4, "fp8": 8}
_TENSORRT: dict[str, Flavour] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}
_FLOAT_BITS = {"fp64": 64.0, "fp32": 32.0, "tf32": 32.0, "fp16": 16.0, "bf16": 16.0}


def floating_of(machine: Machine, floating: Floating) -> str:
    """Return the arithmetic of what is not quantised; ``auto``: what the runtime takes by itself.

    Raises:
        Unsupported: the device has no such arithmetic.
    """
    if floating == "auto":
        return _own(machine)
    _check_builder(machine, floating)
    if floating == "fp32":
        return "fp32"
    has = (
        floating in machine.peaks if machine.processor == "gpu" else bool(_CPU_HALF.get(floating, set()) & machine.isa)
    )
    if not has:
        raise Unsupported(
            f"{machine.profile.title} has no {floating} arithmetic",
            hint=f"it has {', '.join(sorted(machine.peaks))}" if machine.peaks else None,
        )
    return floating


def _own(machine: Machine) -> str:
    """OpenVINO takes bf16 or fp16 where the CPU has it, TensorRT fp16; the others stay in fp32."""
    if machine.engine in _TENSORRT:
        return "fp16" if "fp16" in machine.peaks else "fp32"
    if machine.engine != "openvino":
        return "fp32"
    return next((half for half in ("bf16", "fp16") if _CPU_HALF[half] & machine.isa), "fp32")


def check_scheme(machine: Machine, scheme: Scheme) -> None:
    """Raise Unsupported where a device has no int8 or fp8 for what is to be quantised, or the builder no way to."""
    if scheme != "float":
        _check_builder(machine, scheme)
    if scheme == "fp8" and "fp8" not in machine.peaks:
        raise Unsupported(f"{machine.profile.title} has no fp8 arithmetic", hint="int8, or fp16")
    if scheme in {"int8", "int8-dynamic"} and "int8" not in machine.peaks:
        raise Unsupported(
            f"{machine.profile.title} has no int8 arithmetic", hint="int8-weights saves memory; it computes in float"
        )


def _check_builder(machine: Machine, word: Floating | Scheme) -> None:
    """Refuse what TensorRT does not build for the architecture, where the machine is one that it builds for."""
    flavour, known = _TENSORRT.get(machine.engine), machine.profile.compute_capability
    if flavour is None or known is None or machine.processor != "gpu" or word == "auto":
        return
    missing = legal(capability_of(known), flavour).get(cast("Word", word))
    if missing is not None:
        raise Unsupported(
            f"{machine.engine} builds no {word} for {machine.profile.title}: {missing.why}", hint=missing.cure
        )


def arithmetic_of(machine: Machine, work: Work, floating: str) -> str:
    """Return what a unit is computed in."""
    if work.scheme == "fp8":
        return "fp8"
    if work.scheme == "int8" or (work.scheme == "int8-dynamic" and work.family == "matmul"):
        return "int8"
    return floating if rate_of(machine, floating) else "fp32"


def rate_of(machine: Machine, arithmetic: str) -> float | None:
    """Return the peak in operations a second; a half format without one of its own has twice that of fp32."""
    known = machine.peaks.get(arithmetic)
    if known is None and arithmetic in {"fp16", "bf16"} and machine.processor == "cpu":
        return 2 * machine.peaks["fp32"]
    return known


def bytes_of(work: Work, floating: str) -> tuple[float, float]:
    """Return the bytes of activations and of weights that a unit moves."""
    wide = _FLOAT_BITS[floating] / 8
    moved = (work.elements_in + work.elements_out) * (1.0 if work.scheme in {"int8", "fp8"} else wide)
    stored = _STORED_BITS.get(work.scheme)
    return moved, work.weights * (stored / 8 if stored is not None else wide)
