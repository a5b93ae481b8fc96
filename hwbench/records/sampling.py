"""What the child that builds and times variants of a network is asked for, and what it brings back."""

from __future__ import annotations

from hwbench.records.base import Missing, Record
from hwbench.records.device import Device
from hwbench.records.model import ImportResult
from hwbench.records.planning import Design, Space
from hwbench.records.quantization import Calibration


class SampleJob(Record, frozen=True, kw_only=True):
    """Designs of one network to be built by one engine and timed.

    ``calibration``: ranges of the whole network's tensors, None where nothing is quantised. ``cpus``: the logical CPUs
    to run on; empty where the operating system cannot pin. ``meter``: what reads the energy of each;
    ``none`` for nothing.
    """

    imported: ImportResult
    space: Space
    calibration: Calibration | None
    designs: tuple[Design, ...]
    engine: str
    device: Device
    threads: int
    cpus: tuple[int, ...]
    meter: str = "none"


class NotSampled(Record, frozen=True, kw_only=True):
    """A design that could not be built or timed, and why."""

    design: Design
    reason: Missing


class SamplingDone(Record, frozen=True, kw_only=True):
    """The last word of the child: the samples themselves went ahead, one by one."""

    timed: int
    not_sampled: tuple[NotSampled, ...]
