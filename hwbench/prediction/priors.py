"""What share of a roof to expect before anything was measured: of runtimes that were fitted, and of classes of device.

``priors.json`` holds what was fitted on one CPU with four runtimes; ``tests/benchmarks/test_probe_prediction.py`` makes
it. That is one device: how much another differs cannot be told from it, and the spread between the runtimes stands in.
Of GPUs nothing could be measured: their values are judgement, and their interval says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwbench.files import read_record
from hwbench.prediction.fit import Observation, fit, left_out_errors, log_errors
from hwbench.prediction.machine import Machine
from hwbench.prediction.roofline import PARAMETERS, SECONDS, Array, as_vector
from hwbench.records.prediction import PRIORS_SCHEMA, EnginePriors, Priors

_FILE = Path(__file__).with_name("priors.json")
_JUDGED_GPU = {
    "conv.float": 0.35,
    "conv.int8": 0.25,
    "depthwise.float": 0.05,
    "depthwise.int8": 0.02,
    "matmul.float": 0.4,
    "matmul.int8": 0.3,
    "memory": 0.7,
    "elementwise": 0.6,
    "function": 0.4,
    "border": 0.5,
    "launch": 5e-6,
    "fixed": 40e-6,
}
_JUDGED_GPU_LAUNCH = {"tensorrt": 4e-6, "onnxruntime": 8e-6, "torch-eager": 12e-6, "torch-compile": 7e-6}
_JUDGED_CPU = {
    "conv.float": 0.5,
    "conv.int8": 0.3,
    "depthwise.float": 0.1,
    "depthwise.int8": 0.03,
    "matmul.float": 0.5,
    "matmul.int8": 0.3,
    "memory": 0.6,
    "elementwise": 0.4,
    "function": 0.1,
    "border": 0.15,
    "launch": 2e-6,
    "fixed": 20e-6,
}
EAGER = frozenset({"torch-eager"})
"""Runtimes that launch every operator from Python: no others are predicted from them, nor they from others."""
_JUDGED_SPREAD = 0.5  # log spread of a class of device of which nothing was measured
_OTHER_CPU_SPREAD = 0.25  # log spread between CPUs of unlike make under one runtime: judgement
_WIDE = 0.7  # log spread of one efficiency before a probe


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Parameters to begin with, as logarithms, and log spreads.

    ``between``: of the ``n`` runtimes that were measured, each predicted from the others. ``judged``: between devices,
    of which only one was measured. ``within``: of networks under one runtime.
    """

    logs: Array
    between: float
    judged: float
    within: float
    n: int
    basis: str


@functools.cache
def load_priors() -> Priors:
    """Return what was fitted and ships with hwbench."""
    return read_record(_FILE, Priors, schema=PRIORS_SCHEMA)


def judged() -> tuple[Array, Array]:
    """Return the mean and the spread with which a runtime on a CPU is fitted for the first time."""
    logs = as_vector({name: math.log(value) for name, value in _JUDGED_CPU.items()})
    return logs, np.full(len(PARAMETERS), _WIDE)


def prior_of(machine: Machine, *, without: Collection[str] = ()) -> Prior:
    """Return what to expect of a machine; ``without``: runtimes whose fit may not be used."""
    if machine.processor == "gpu":
        return _gpu(machine)
    priors = load_priors()
    known = [one for one in priors.engines if one.engine not in without]
    compiled = [one for one in known if one.engine not in EAGER]
    of_others = [value for engine, value in priors.held_out.items() if engine not in without]
    between = float(np.sqrt(np.mean(np.square(of_others))))  # about zero, since a bias of the prior is an error too
    own = next((one for one in known if one.engine == machine.engine), None)
    if own is not None:
        basis = f"efficiencies of {own.engine} {own.version} on {own.device}, of {own.n} networks"
        return Prior(
            logs=as_vector(own.logs), between=between, judged=_OTHER_CPU_SPREAD, within=priors.within_spread,
            n=len(of_others), basis=basis,
        )  # fmt: skip
    basis = f"mean efficiencies of {', '.join(one.engine for one in compiled)}: {machine.engine} was never fitted"
    return Prior(
        logs=pooled(compiled), between=between * math.sqrt(2), judged=_OTHER_CPU_SPREAD, within=priors.within_spread,
        n=len(of_others), basis=basis,
    )  # fmt: skip


def pooled(engines: Collection[EnginePriors]) -> Array:
    """Return the mean of the logarithms."""
    return np.asarray(np.mean([as_vector(one.logs) for one in engines], axis=0), dtype=np.float64)


def _gpu(machine: Machine) -> Prior:
    values = {**_JUDGED_GPU, "launch": _JUDGED_GPU_LAUNCH.get(machine.engine, _JUDGED_GPU["launch"])}
    logs = as_vector({name: math.log(value) for name, value in values.items()})
    basis = "efficiencies of a GPU by judgement: hwbench has measured none"
    within = load_priors().within_spread
    return Prior(logs=logs, between=0.0, judged=_JUDGED_SPREAD, within=within, n=0, basis=basis)


def adaptation_spread() -> Array:
    """Return how far a probe may move each parameter: shares by a factor of two, seconds by more."""
    return np.array([1.5 if name in SECONDS else _WIDE for name in PARAMETERS])


def fit_priors(measured: Mapping[str, tuple[str, Sequence[Observation]]], device: str, about: str) -> Priors:
    """Return priors fitted to networks that were measured: by runtime, its version and observations on one thread.

    ``held_out`` is of runtimes that have others of their kind to be predicted from.
    """
    mean, spread = judged()
    engines, errors = [], {}
    for engine, (version, observations) in measured.items():
        logs = fit(observations, mean, spread)
        errors[engine] = left_out_errors(observations, mean, spread)
        engines.append(
            EnginePriors(
                engine=engine, version=version, device=device, threads=1, n=len(observations),
                logs={name: float(value) for name, value in zip(PARAMETERS, logs, strict=True)},
                spread=_root_mean_square(errors[engine]),
            )
        )  # fmt: skip
    held_out = {}
    compiled = [one for one in engines if one.engine not in EAGER]
    for one in compiled:
        others = [other for other in compiled if other is not one]
        if others:
            held_out[one.engine] = float(np.mean(log_errors(measured[one.engine][1], pooled(others))))
    within = _root_mean_square(np.concatenate([errors[one.engine] for one in compiled]))
    return Priors(
        schema_version=PRIORS_SCHEMA, about=about, engines=tuple(engines), held_out=held_out, within_spread=within
    )


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
