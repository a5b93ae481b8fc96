"""TensorRT for RTX as the judge of a graph: it builds real engines for a named architecture, with no GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

trt = pytest.importorskip("tensorrt_rtx", reason="builds with TensorRT for RTX")

TARGETS = {(7, 5): "SM75", (8, 0): "SM80", (8, 6): "SM86", (8, 9): "SM89", (12, 0): "SM120"}


@dataclass
class Verdict:
    """What the builder made of a graph; ``said``: its error where it made nothing."""

    engine_bytes: int | None
    weight_bytes: int | None
    said: str

    @property
    def built(self):
        return self.engine_bytes is not None


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors, self.lines = [], []

    def log(self, severity, text):
        self.lines.append(text)
        if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
            self.errors.append(text)


def build(source, capability, flags=()):
    """Parse a file or the bytes of a graph, strongly typed, and build it for a compute capability."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not (parser.parse_from_file(str(source)) if isinstance(source, (str, Path)) else parser.parse(source)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        return Verdict(None, None, "; ".join(f"{each.node_name()}: {each.desc()}" for each in errors))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(getattr(trt.ComputeCapability, TARGETS[capability]), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return Verdict(None, None, " ".join(log.errors))
    weights = [int(found[1]) for line in log.lines if (found := re.search(r"Total Weights Memory: (\d+)", line))]
    return Verdict(engine.nbytes, weights[-1] if weights else None, "")
