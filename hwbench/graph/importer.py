"""Bring a model in: from what the user named to a folder with the hub, its inputs and its description.

Runs as a child process, since it executes the user's code and parses foreign files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from hwbench.bundles.hashing import file_sha256
from hwbench.children import Emit, serve
from hwbench.errors import ModelError
from hwbench.graph.artefact import import_bundle, import_engine
from hwbench.graph.inputs import Arrays, input_specs, random_inputs, read_inputs, specs_in, specs_of
from hwbench.graph.layers import layers_of
from hwbench.graph.lower import fold_batch_norms
from hwbench.graph.onnx_file import fix_axes, graph_inputs, infer_shapes, read_onnx
from hwbench.graph.parts import common_batch, save_inputs, write_graph
from hwbench.graph.precision import arithmetic_of
from hwbench.graph.spec import ModelSpec, parse_spec, with_arguments
from hwbench.graph.torch_inputs import torch_inputs
from hwbench.graph.weights import non_finite_weights
from hwbench.models.zoo import ZOO
from hwbench.records.base import Missing
from hwbench.records.model import ImportJob, ImportResult, InputOrigin, Model, ModelFiles, TensorSpec

if TYPE_CHECKING:
    from hwbench.graph.torch_source import TorchModel


def import_model(job: ImportJob, folder: Path) -> ImportResult:
    """Bring the model in and write its parts into ``folder``.

    Raises:
        UsageError: shapes or inputs do not fit the model.
        ModelError: the model cannot be read, made or exported.
        EngineError: it is a file of a runtime that is not here.
    """
    spec = parse_spec(job.model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"cannot write the model to {folder}: {error.strerror}") from error
    if spec.kind == "bundle":
        return import_bundle(spec, job, folder)
    if spec.kind == "engine":
        return import_engine(spec, job, folder)
    return _import_network(spec, job, folder)


def _import_network(spec: ModelSpec, job: ImportJob, folder: Path) -> ImportResult:
    fixed: dict[str, int] = {}
    arrays: Arrays | None
    state: str | None = None
    if spec.kind == "onnx":
        graph_model, fixed, arrays, origin = _from_onnx(spec, job)
    else:
        from hwbench.graph.torch_source import load_torch

        source = load_torch(spec, batch_size=job.batch_size or 1)
        arrays, origin = torch_inputs(spec, source, job)
        exported = _exported(source, arrays)
        state = None if spec.kind == "pt2" else _save_state(source, folder)
        if isinstance(exported, Missing):
            return _without_graph(spec, source, arrays, origin, exported, folder)
        graph_model = exported
        if origin == "random" and spec.kind == "zoo":
            arrays = None
    _name_nodes(graph_model)
    graph_model = infer_shapes(graph_model)
    hub_sha256 = _save(graph_model, folder, "model.onnx", spec)  # checked: from here on the graph is valid ONNX
    inputs = input_specs(graph_inputs(graph_model))
    if arrays is None:
        arrays = random_inputs(graph_model, inputs, job.seed)
    bad = non_finite_weights(graph_model)
    layers = layers_of(graph_model)
    save_inputs(arrays, folder / "inputs.npz")
    opset = graph_model.opset_imports.get("", 0)
    outputs = specs_of(list(graph_model.graph.outputs))
    weights = [value.const_value for value in graph_model.graph.initializers.values() if value.const_value is not None]
    weight_bytes = sum(weight.nbytes for weight in weights)
    merged = fold_batch_norms(graph_model)
    if merged:
        _save(graph_model, folder, "lowered.onnx", spec)
    model = Model(
        name=spec.name,
        source=spec.text,
        kind=spec.kind,
        source_sha256=_source_hash(spec),
        hub_sha256=hub_sha256,
        weights=("trained" if ZOO[spec.where].trained else "untrained") if spec.kind == "zoo" else "as_given",
        opset=opset,
        inputs=inputs,
        outputs=outputs,
        input_origin=origin,
        inputs_sha256=file_sha256(folder / "inputs.npz"),
        arithmetic=arithmetic_of(graph_model, layers),
        batch_size=common_batch(inputs),
        fixed_axes=fixed,
        layers=layers,
        parameters=sum(layer.parameters for layer in layers),
        weight_bytes=weight_bytes,
        warnings=_warnings(bad),
    )
    files = ModelFiles(
        folder=str(folder.resolve()),
        runtime_graph="lowered.onnx" if merged else "model.onnx",
        merged=merged,
        torch_source=None if spec.kind == "onnx" else _absolute(spec),
        torch_state=state,
    )
    return ImportResult(model=model, files=files)


def _from_onnx(spec: ModelSpec, job: ImportJob) -> tuple[ir.Model, dict[str, int], Arrays | None, InputOrigin]:
    graph_model = read_onnx(Path(spec.where))
    shapes = dict(job.shapes)
    if job.input_data is not None:
        names = {value.name for value in graph_inputs(graph_model)}
        given = {name: spec.shape for name, spec in specs_in(Path(job.input_data)).items() if name in names}
        shapes = given | shapes
    fixed = fix_axes(graph_model, shapes, job.batch_size)
    if job.input_data is None:
        return graph_model, fixed, None, "random"
    arrays = read_inputs(Path(job.input_data), input_specs(graph_inputs(graph_model)))
    return graph_model, fixed, arrays, "file"


def _exported(source: TorchModel, arrays: Arrays) -> ir.Model | Missing:
    import torch

    from hwbench.graph.torch_export import export

    graph_model = export(source, {name: torch.from_numpy(array) for name, array in arrays.items()})
    if isinstance(graph_model, Missing):
        return graph_model
    names = [value.name or "" for value in graph_inputs(graph_model)]
    if set(names) != set(arrays):
        raise ModelError(
            f"the exported graph takes {', '.join(names) or 'nothing'}, forward was given {', '.join(arrays)}",
            hint="an input that the network does not use, or one that is no plain tensor, cannot be benchmarked",
        )
    return graph_model


def _save_state(source: TorchModel, folder: Path) -> str:
    import torch

    torch.save(source.module.state_dict(), folder / "state.pt")
    return "state.pt"


def _without_graph(
    spec: ModelSpec, source: TorchModel, arrays: Arrays, origin: InputOrigin, reason: Missing, folder: Path
) -> ImportResult:
    """Return what is known of a module that cannot be exported; a .pt2 holds none that torch engines could make again.

    Raises:
        ModelError: its forward fails, or it is a .pt2.
    """
    from hwbench.graph import unexported
    from hwbench.graph.torch_source import module_precision

    if spec.kind == "pt2":
        raise ModelError(reason.why, hint=reason.cure)
    outputs = unexported.run_once(source, arrays)
    inputs = tuple(TensorSpec(name=name, dtype=a.dtype.name, shape=tuple(a.shape)) for name, a in arrays.items())
    save_inputs(arrays, folder / "inputs.npz")
    layer = unexported.only_layer(source, inputs, outputs)
    model = Model(
        name=spec.name,
        source=spec.text,
        kind=spec.kind,
        source_sha256=_source_hash(spec),
        hub_sha256=unexported.identity(source, _source_hash(spec)),
        weights="as_given",
        opset=0,
        inputs=inputs,
        outputs=outputs,
        input_origin=origin,
        inputs_sha256=file_sha256(folder / "inputs.npz"),
        arithmetic=module_precision(source.module),
        batch_size=common_batch(inputs),
        layers=(layer,),
        parameters=layer.parameters,
        weight_bytes=unexported.weight_bytes(source),
        warnings=(unexported.warning(reason),),
    )
    files = ModelFiles(
        folder=str(folder.resolve()),
        runtime_graph="state.pt",
        torch_source=_absolute(spec),
        torch_state="state.pt",
        no_graph=reason,
    )
    return ImportResult(model=model, files=files)


def _name_nodes(model: ir.Model) -> None:
    """Give every node a name of its own; those that have one keep it."""
    taken = {node.name for node in model.graph}
    seen: set[str] = set()
    for index, node in enumerate(model.graph):
        base = name = node.name or f"{node.op_type}_{index}"
        suffix = 1
        while name in seen or (name != node.name and name in taken):
            suffix += 1
            name = f"{base}_{suffix}"
        seen.add(name)
        node.name = name


def _save(model: ir.Model, folder: Path, name: str, spec: ModelSpec) -> str:
    """Write a graph, check it with ONNX's own checker, and return the hash of what was written."""
    try:
        files = write_graph(model, folder / name)
        onnx.checker.check_model(str(folder / name))
    except OSError as error:
        raise ModelError(f"cannot write the model to {folder}: {error}") from error
    except Exception as error:
        raise ModelError(f"'{spec.text}' is not a valid ONNX graph: {str(error).strip()[:400]}") from error
    return file_sha256(*files)


def _source_hash(spec: ModelSpec) -> str | Missing:
    if spec.kind == "zoo":
        return Missing(code="built_in", why="a built-in model has no file; its hub_sha256 identifies it")
    path = Path(spec.where)
    if not path.is_file():
        return Missing(code="module", why="the model comes from an importable module; its hub_sha256 identifies it")
    return file_sha256(path)


def _absolute(spec: ModelSpec) -> str:
    """Return the spec so that it means the same from any working folder."""
    if spec.kind == "zoo" or not Path(spec.where).is_file():
        return spec.text
    where = str(Path(spec.where).resolve())
    return with_arguments(f"{where}:{spec.attribute}", spec.arguments) if spec.attribute else where


def _warnings(bad: list[str]) -> tuple[str, ...]:
    if not bad:
        return ()
    listed = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    return (f"weights hold NaN or infinity: {listed}; speed can be measured, the outputs mean nothing",)


def _main(job: ImportJob, folder: Path, emit: Emit) -> ImportResult:
    emit({"event": "phase", "phase": "import"})
    return import_model(job, folder)


if __name__ == "__main__":
    serve(_main, ImportJob)
