"""Compression methods made for tests: one of every stage, whose work is to multiply weights."""

from __future__ import annotations

import numpy as np

from hwbench import plugins
from hwbench.compress.base import Outcome, Settings
from hwbench.compress.order import ANYWHERE, STAGES
from hwbench.errors import UsageError
from hwbench.graph.linear import set_constant
from hwbench.records.base import Missing
from hwbench.records.compression import Change

KINDS = {"simplify": "rewritten", "depth": "cut", "width": "zeroed", "low-rank": "factorised", "sparsity": "zeroed",
         "share": "shared", "quantise": "quantised"}  # fmt: skip


class Amount(Settings, frozen=True, kw_only=True):
    """How much."""

    amount: float
    """The factor."""
    places: tuple[str, ...] = ()
    """Names."""


class Plain(Settings, frozen=True, kw_only=True):
    """Nothing to set."""


class Scales:
    """Multiplies the weights of convolutions by ``amount``; other layers are none of its business."""

    summary = "multiplies weights"

    def __init__(self, stage):
        self.stage = stage
        self.settings_type = Amount if stage in KINDS else Plain

    def legal(self, subject, settings):
        return {
            name: None if layer.spatial else Missing(code="not_a_convolution", why="it is no convolution")
            for name, layer in subject.layers().items()
        }

    def apply(self, subject, layers, settings):
        changes = []
        for name in layers:
            layer = subject.layers()[name]
            set_constant(layer.node, 1, layer.weight * np.float64(getattr(settings, "amount", 1.0)))
            changes.append(Change(layer=name, kind=KINDS.get(self.stage, "trained"), what="all weights"))
        return Outcome(changes=changes, figures={"layers": len(changes)}, notes=["as was asked"])


def registered(monkeypatch):
    """Register one method a stage, named after it."""
    methods = {stage: Scales(stage) for stage in (*STAGES, *ANYWHERE)}

    def load(kind, name):
        if name not in methods:
            raise UsageError(f"no compressor is called '{name}'")
        return methods[name]

    monkeypatch.setattr(plugins, "load", load)
