"""PyTorch as the user's own code runs it: eager, in inference mode."""

from __future__ import annotations

from hwbench.engines import torch_module
from hwbench.engines.edge import installed
from hwbench.engines.torch_module import Placed, TorchRunner, load_module
from hwbench.protocols import BuildRequest
from hwbench.records.base import Missing, Support

NOTHING_TO_COMPILE = Missing(code="not_applicable", why="eager torch compiles nothing")


class TorchEager:
    """The user's module, made again and given the exported weights."""

    name = "torch-eager"

    def installed(self) -> Support:
        return installed("torch", "cpu")

    supports = torch_module.supports
    precisions = torch_module.precisions
    start = torch_module.start

    def load(self, request: BuildRequest) -> TorchEagerProgram:
        return TorchEagerProgram(load_module(self.name, request), request)


class TorchEagerProgram:
    """A module in memory."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = NOTHING_TO_COMPILE

    def __init__(self, loaded: Placed, request: BuildRequest) -> None:
        self.loaded = loaded
        self.request = request

    def compile(self) -> TorchRunner:
        return TorchRunner("torch-eager", self.loaded.module, self.loaded, self.request)
