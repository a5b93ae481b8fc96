"""An engine that was built for a device which is not attached: what can be known of its numbers here.

It cannot be loaded. But what it was built from is an ONNX graph with every precision written into it, and ONNX Runtime
executes that on the CPU, as it is written. So the graph's outputs are held against the original network's; that is the
graph's accuracy on the example inputs, and says nothing about what the engine's kernels round differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from hwbench import plugins
from hwbench.bundles.layout import EXPECTED
from hwbench.errors import EngineError, HwbenchError, PluginError, UsageError
from hwbench.inference import run_once
from hwbench.protocols import BuildRequest, Engine
from hwbench.records.base import Missing
from hwbench.records.build import BundleJob
from hwbench.records.bundle import GraphChecked
from hwbench.records.device import NAMES_THERE, Device
from hwbench.records.measurement import Built
from hwbench.records.model import Artefact, Model, ModelFiles
from hwbench.records.quantization import Lowered

_RUNTIME = "onnxruntime"
_AS_WRITTEN = {"graph_optimization_level": "ORT_DISABLE_ALL"}
_NOT_ASKED = Missing(code="not_looked_up", why="numbers are wanted here, and no times")
_HERE = Device(
    name="cpu", kind="cpu", title="the CPU of the machine that builds", fingerprint="cpu", profile=_NOT_ASKED,
    memory_bytes=_NOT_ASKED, memory_limit_bytes=_NOT_ASKED, virtual=_NOT_ASKED, container=_NOT_ASKED,
    power_mode=_NOT_ASKED,
)  # fmt: skip
_NOT_FINITE = Missing(code="not_finite", why="the graph's outputs hold NaN or infinity")
Outputs = dict[str, "np.ndarray[Any, np.dtype[Any]]"]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What is known from running an engine, or why it was not run; ``expected``: whose outputs were left."""

    built: Built | Missing
    load_s: float | Missing
    expected: Literal["engine", "graph", "original"]
    graph_checked: GraphChecked | Missing


def not_attached(device: Device) -> Missing:
    """Return why nothing is known of an engine that ran nowhere, and what to type on the machine of its device."""
    there = f"--device {NAMES_THERE.get(device.kind, device.name)}"
    return Missing(
        code="not_attached",
        why="the device is not attached: the engine was built, and neither run nor timed",
        cure=f"take the bundle to the device: hwbench measure BUNDLE {there}, hwbench verify BUNDLE --data D {there}",
    )


def not_ran(job: BundleJob, lowered: Lowered, engine: Path, folder: Path) -> Ran:
    """Run the graph that the engine in the folder ``engine`` was built from, and leave its outputs in ``folder``.

    Raises:
        EngineError: the original network cannot be run here either, or the engine kept no graph.
    """
    if lowered.graph is None:
        raise EngineError(f"'{job.engine}' kept no graph of what it built, so nothing can be known of its numbers")
    model, files, away = job.imported.model, job.imported.files, not_attached(job.device)
    with np.load(Path(files.folder) / files.inputs, allow_pickle=False) as archive:
        inputs = {name: archive[name] for name in archive.files}
    original = _run(model, files, inputs, folder / "original")
    try:
        found = _run(model, _files(engine, lowered.graph, files), inputs, folder / "graph")
    except HwbenchError as error:
        why = f"the graph that the engine was built from was not run: {_refused(error.message, engine)}"
        np.savez(folder / EXPECTED, **original)  # type: ignore[arg-type]
        missing = Missing(code="graph_not_run", why=why, cure=away.cure)
        return Ran(built=away, load_s=away, expected="original", graph_checked=missing)
    np.savez(folder / EXPECTED, **found)  # type: ignore[arg-type]
    checked = _difference(found, original, lowered.graph)
    return Ran(built=away, load_s=away, expected="graph", graph_checked=checked)


def _refused(said: str, folder: Path) -> str:
    """Return why ONNX Runtime does not run a graph: the operator that it has not in that type, or its own words."""
    found = re.search(r"'tensor\((\w+)\)' of input parameter .* of operator \((\w+)\)", said)
    if found is None:
        return said.replace(f"{folder}/", "")
    kind = {"bfloat16": "bf16", "float16": "fp16"}.get(found[1], found[1])
    operator = {"Conv": "convolution"}.get(found[2], found[2])
    return f"ONNX Runtime's CPU has no {kind} {operator}"


def _run(model: Model, files: ModelFiles, inputs: Outputs, scratch: Path) -> Outputs:
    """Run an ONNX graph as it is written."""
    try:
        engine: Engine = plugins.load("engines", _RUNTIME)
        engine.start()
    except (UsageError, PluginError) as error:
        raise EngineError(error.message, hint=error.hint) from error
    scratch.mkdir()
    as_written = Artefact(engine=_RUNTIME, sha256="", files=(files.runtime_graph,), label="graph", settings=_AS_WRITTEN)
    request = BuildRequest(
        model=msgspec.structs.replace(model, artefact=as_written),
        files=files,
        device=_HERE,
        precision="auto",
        threads=1,
        streams=1,
        profile_layers=False,
        workdir=scratch,
    )
    runner = engine.load(request).compile()
    try:
        return run_once(runner, _RUNTIME, inputs)
    finally:
        runner.close()


def _files(folder: Path, graph: str, files: ModelFiles) -> ModelFiles:
    return ModelFiles(folder=str(folder), hub=graph, runtime_graph=graph, merged=files.merged)


def _difference(found: Outputs, original: Outputs, graph: str) -> GraphChecked:
    """Compare outputs by name; those of the graph may have another type."""
    if found.keys() != original.keys():
        raise EngineError(f"the graph puts out {', '.join(found)}, the original {', '.join(original)}")
    absolute = relative = 0.0
    for name, expected in original.items():
        reference, value = expected.astype(np.float64), found[name].astype(np.float64)
        off = float(np.abs(value - reference).max(initial=0))
        largest = float(np.abs(reference).max(initial=0))
        absolute = max(absolute, off)
        relative = max(relative, off / largest if largest > 0 else off)
    finite = all(bool(np.isfinite(array.astype(np.float64)).all()) for array in found.values())
    return GraphChecked(
        graph=graph,
        runtime=_RUNTIME,
        max_absolute=absolute if finite else _NOT_FINITE,
        max_relative=relative if finite else _NOT_FINITE,
        finite=finite,
    )
