"""A small network brought in with its space and ranges, ready to be sampled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from lowered_onnxruntime import calibration, min_max
from residual_graphs import PADDED, drawn, net

from hwbench.graph.importer import import_model
from hwbench.graph.onnx_file import infer_shapes
from hwbench.plan.sites import space_of
from hwbench.records.model import ImportJob, ImportResult
from hwbench.records.planning import Space
from hwbench.records.quantization import Calibration


@dataclass
class Subject:
    imported: ImportResult
    hub: ir.Model
    space: Space
    calibration: Calibration


def graph() -> ir.Model:
    """A stem, a residual block at 16 channels, a linear layer that is large enough for a rank, and a head."""
    lines = [
        ("Conv", "x stem.w", "stem", PADDED),
        ("Relu", "stem", "stem.relu"),
        ("Conv", "stem.relu block.one.w", "block.one", PADDED),
        ("Relu", "block.one", "block.one.relu"),
        ("Conv", "block.one.relu block.two.w", "block.two", PADDED),
        ("Add", "block.two stem.relu", "block/Add"),
        ("Relu", "block/Add", "block.relu"),
        ("GlobalAveragePool", "block.relu", "pool"),
        ("Flatten", "pool", "flat"),
        ("Gemm", "flat up.w", "up"),
        ("Relu", "up", "up.relu"),
        ("Gemm", "up.relu wide.w", "wide"),
        ("Relu", "wide", "wide.relu"),
        ("Gemm", "wide.relu head.w", "head"),
    ]
    weights = {
        "stem.w": drawn(16, 3, 3, 3, seed=1, scale=0.2),
        "block.one.w": drawn(16, 16, 3, 3, seed=2, scale=0.1),
        "block.two.w": drawn(16, 16, 3, 3, seed=3, scale=0.1),
        "up.w": drawn(16, 256, seed=4, scale=0.2),
        "wide.w": drawn(256, 256, seed=5, scale=0.05),
        "head.w": drawn(256, 5, seed=6, scale=0.1),
    }
    return net(lines, weights, x=(1, 3, 12, 12), outputs={"head": (1, 5)})


def subject(folder: Path) -> Subject:
    folder.mkdir(parents=True, exist_ok=True)
    ir.save(graph(), folder / "net.onnx")
    job = ImportJob(model=str(folder / "net.onnx"), batch_size=None, shapes={}, input_data=None, seed=0)
    imported = import_model(job, folder / "imported")
    home = Path(imported.files.folder)
    hub = infer_shapes(ir.load(home / imported.files.hub))
    with np.load(home / imported.files.inputs) as arrays:
        inputs = dict(arrays)
    ir.save(infer_shapes(ir.load(home / imported.files.runtime_graph)), folder / "shaped.onnx")
    ranges = min_max(folder / "shaped.onnx", [inputs], folder)
    return Subject(
        imported=imported, hub=hub, space=space_of(hub, imported.model.hub_sha256), calibration=calibration(ranges)
    )
