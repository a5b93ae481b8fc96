"""What a probe measured, as observations to fit: every anchor as units of work on the machine, with its time."""

from __future__ import annotations

import functools

import onnx_ir as ir

from hwbench.errors import UsageError
from hwbench.prediction.fit import Observation
from hwbench.prediction.legality import floating_of
from hwbench.prediction.machine import Machine
from hwbench.prediction.probe.anchors import BY_NAME
from hwbench.prediction.probe.onnx_files import onnx_model
from hwbench.prediction.probe.read import FEWEST
from hwbench.prediction.roofline import bases_of
from hwbench.prediction.work import Works, works_of
from hwbench.records.prediction import Probe
from hwbench.records.quantization import Floating, Scheme

_FLOATING: dict[str, Floating] = {"fp32": "fp32", "fp16": "fp16", "int8": "fp32"}


def observations_of(probe: Probe, machine: Machine) -> list[Observation]:
    """Return the anchors that a machine can have run, as observations.

    Raises:
        UsageError: the probe is of another runtime or number of threads than the machine, or too little is left of it.
    """
    if probe.runtime != machine.engine:
        raise UsageError(
            f"the probe is of {probe.runtime}, and the prediction is for {machine.engine}",
            hint=f"--engine {probe.runtime}, or a pack for {machine.engine}",
        )
    if machine.processor == "cpu" and probe.threads != machine.threads:
        raise UsageError(
            f"the probe ran with {probe.threads} threads, and the prediction is for {machine.threads}",
            hint=f"--threads {probe.threads}, or run the probe again",
        )
    found = []
    for point in probe.points:
        if point.precision == "int8" and "int8" not in machine.peaks:
            continue
        kind = floating_of(machine, _FLOATING[point.precision])
        works = anchor_works(point.anchor, "int8" if point.precision == "int8" else "float")
        found.append(Observation(bases=bases_of(works.units, machine, kind), measured_s=point.median_s))
    if len(found) < FEWEST:
        raise UsageError(f"{len(found)} anchors of the probe fit {machine.profile.title}; it takes {FEWEST}")
    return found


@functools.lru_cache(maxsize=128)
def anchor_works(name: str, scheme: Scheme) -> Works:
    """Return the units of an anchor."""
    return works_of(ir.serde.deserialize_model(onnx_model(BY_NAME[name], "fp32")), default=scheme)
