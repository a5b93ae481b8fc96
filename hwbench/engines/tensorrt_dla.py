"""Layers on a Jetson's DLA: which of them it takes, asked one by one before the build.

``IBuilderConfig.can_run_on_DLA`` answers for the layer alone; what is really put there, the inspector shows afterwards
(the builder may also send a layer to the GPU because of its neighbours). DLA computes in int8 too, with ranges set
tensor by tensor; hwbench writes int8 as explicit Q/DQ pairs, which DLA does not take (github.com: NVIDIA/TensorRT
issue 2222, NVIDIA/Model-Optimizer pull request 1661), so such a plan is refused for it.
NVIDIA, "Working with DLA" (docs.nvidia.com/deeplearning/tensorrt).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwbench.engines.tensorrt_api import Api
from hwbench.errors import Unsupported

_MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which layers can run on the DLA core, and which go to the GPU, by TensorRT's names."""

    core: int
    dla: tuple[str, ...]
    gpu: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.gpu[:_MOST_NAMED]) + (" ..." if len(self.gpu) > _MOST_NAMED else "")
        rest = f"; on the GPU: {shown}" if self.gpu else ""
        return f"DLA core {self.core} can run {len(self.dla)} of {len(self.dla) + len(self.gpu)} layers{rest}"


def place_on_dla(api: Api, builder: Any, config: Any, network: Any, core: int) -> Placement:
    """Make a DLA core the default of every layer, and ask which it can run.

    Raises:
        Unsupported: the device has no such core, or DLA takes no layer.
    """
    cores = int(builder.num_DLA_cores)
    if core >= cores:
        there = f"it has {cores}" if cores else "it has none"
        raise Unsupported(f"DLA core {core} was asked for, and of them {there} here", hint="leave --option dla out")
    config.default_device_type = api.member("DeviceType", "DLA")
    config.DLA_core = core
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    can = {layer.name: bool(config.can_run_on_DLA(layer)) for layer in layers}
    placed = Placement(
        core=core,
        dla=tuple(name for name, able in can.items() if able),
        gpu=tuple(name for name, able in can.items() if not able),
    )
    if not placed.dla:
        raise Unsupported("DLA can run no layer of this network", hint="of what hwbench builds DLA takes -p fp16")
    return placed
