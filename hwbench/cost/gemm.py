"""Arithmetic peaks, by square matrix products through a real runtime; runs as a child process.

A deployed network gets its arithmetic from a runtime's matrix product, so that is what the roofline's ceiling is
measured with: ``C = A B`` with a constant B, as in a linear layer, built as an ONNX graph of one product. For int8,
ONNX Runtime gets ``MatMulInteger`` (u8 x s8 -> s32) and OpenVINO a Q/DQ graph, whose quantising of A counts as time and
not as operations. The arithmetic that ran is read back from the runtime; another than asked for is an error.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from hwbench.children import Emit, serve
from hwbench.cost.gemm_runtimes import PRODUCTS, GemmEngine, GemmPrecision, Product, ProductRequest
from hwbench.errors import EngineError
from hwbench.records.base import Record
from hwbench.units import MonotonicClock

OPS_PER_MAC = 2
SIZES = (256, 512, 1024, 2048, 4096)
SAMPLES = 7
_SAMPLE_AT_LEAST_S = 0.01
_BYTES_AN_ELEMENT = 24  # A, B, C in fp32, the serialised B, the runtime's copy and its packed form
_MEMORY_SHARE = 0.25


class GemmJob(Record, frozen=True, kw_only=True):
    """One engine at one precision; ``seconds`` is the time to spend on timed products."""

    engine: GemmEngine
    precision: GemmPrecision
    cpus: tuple[int, ...]  # one thread on each
    seconds: float
    sizes: tuple[int, ...] = SIZES


class GemmRate(Record, frozen=True, kw_only=True):
    """The rates reached at one size, raw, in the order taken."""

    size: int
    ops_per_s: tuple[float, ...]


class GemmResult(Record, frozen=True, kw_only=True):
    """What the child measured; ``kernel`` is the runtime's own word for what it ran."""

    version: str
    kernel: str
    rates: tuple[GemmRate, ...]


def measure(job: GemmJob, folder: Path, emit: Emit) -> GemmResult:
    """Time products of growing size, as far as time and memory allow.

    Raises:
        EngineError: the runtime did not run the product in the precision asked for, or no size was possible.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cpus)
    rates: list[GemmRate] = []
    version = kernel = ""
    left_s = job.seconds
    for size in job.sizes:
        if not _fits_memory(size) or (rates and _expected_s(rates[-1], size) > left_s):
            break
        emit({"event": "phase", "phase": f"{job.engine} {job.precision} {size}"})
        request = ProductRequest(precision=job.precision, size=size, threads=len(job.cpus), folder=folder)
        product = PRODUCTS[job.engine](request)
        product.run()
        version = product.version
        precision, kernel = product.executed()
        if precision != job.precision:
            raise EngineError(f"{job.engine} ran the product in {precision} ({kernel}), not in {job.precision}")
        seconds, rate = _time(product, size)
        left_s -= seconds
        rates.append(rate)
    if not rates:
        raise EngineError(f"there is not enough memory for a product of size {job.sizes[0]}")
    return GemmResult(version=version, kernel=kernel, rates=tuple(rates))


def _fits_memory(size: int) -> bool:
    return _BYTES_AN_ELEMENT * size * size <= _MEMORY_SHARE * psutil.virtual_memory().available


def _expected_s(last: GemmRate, size: int) -> float:
    return (SAMPLES + 2) * OPS_PER_MAC * size**3 / max(last.ops_per_s)


def _time(product: Product, size: int) -> tuple[float, GemmRate]:
    """Return the seconds spent and the rates; a sample is a batch of products, long enough for the clock."""
    clock = MonotonicClock()
    began = clock.now_ns()
    product.run()
    once_s = (clock.now_ns() - began) / 1e9
    batch = max(1, round(_SAMPLE_AT_LEAST_S / once_s))
    rates: list[float] = []
    for _ in range(SAMPLES):
        start = clock.now_ns()
        for _ in range(batch):
            product.run()
        rates.append(OPS_PER_MAC * size**3 * batch / ((clock.now_ns() - start) / 1e9))
    return (clock.now_ns() - began) / 1e9, GemmRate(size=size, ops_per_s=tuple(rates))


if __name__ == "__main__":
    serve(measure, GemmJob)
