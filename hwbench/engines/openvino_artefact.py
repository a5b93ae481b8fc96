"""OpenVINO files as they are: an ``.xml`` with its ``.bin`` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hwbench.engines.edge import translated
from hwbench.engines.openvino_costs import arithmetic_of, layers_of, weight_bytes_of
from hwbench.errors import EngineError, ModelError, UsageError
from hwbench.protocols import ArtefactFacts
from hwbench.records.model import Model, ModelFiles, TensorSpec

if TYPE_CHECKING:
    import openvino as ov

_HEAD_BYTES = 4096
Shapes = Mapping[str, tuple[int, ...]]


def describe(path: Path, shapes: Shapes, batch_size: int | None) -> ArtefactFacts:
    """Read an OpenVINO model with its open axes fixed.

    Raises:
        ModelError: it is no OpenVINO model, it is broken, its weights are missing, or an axis stays open.
        UsageError: ``shapes`` or ``batch_size`` do not fit.
    """
    import openvino as ov

    weights = _check_file(path)
    try:
        with translated("OpenVINO"):
            model = ov.Core().read_model(path)
    except EngineError as error:
        raise ModelError(f"'{path.name}' is a broken OpenVINO model: {error.message}") from error
    _fix_axes(model, shapes, batch_size, path.name)
    layers = layers_of(model)
    return ArtefactFacts(
        inputs=tuple(_spec(port) for port in model.inputs),
        outputs=tuple(_spec(port) for port in model.outputs),
        layers=layers,
        arithmetic=arithmetic_of(model, layers),
        parameters=sum(layer.parameters for layer in layers),
        weight_bytes=weight_bytes_of(model),
        files=(path.name, weights.name) if weights.is_file() else (path.name,),
    )


def read_model(core: ov.Core, path: Path, model: Model) -> ov.Model:
    """Read what a request names; where a saved model has open axes they get the sizes that its description has."""
    read = core.read_model(path)
    if model.artefact is not None and read.is_dynamic():
        sizes = {spec.name: spec.shape for spec in model.inputs}
        read.reshape({index: list(sizes[name_of(port)]) for index, port in enumerate(read.inputs)})
    return read


def show_layers(model: Model, files: ModelFiles, folder: Path) -> tuple[Model, ModelFiles]:
    """Write a saved model again with every layer's floating-point output an output too; return what it is now."""
    import openvino as ov

    core = ov.Core()
    read = core.read_model(Path(files.folder) / files.runtime_graph)
    shown = {spec.name for spec in model.outputs}
    wanted = [name for layer in model.layers for name in layer.outputs if name not in shown]
    ports = {name: port for node in read.get_ordered_ops() for port in node.outputs() for name in port.get_names()}
    added = [(name, ports[name]) for name in wanted if name in ports and ports[name].get_element_type().is_real()]
    specs = tuple(
        TensorSpec(name=name, dtype=port.get_element_type().to_dtype().name, shape=tuple(port.get_shape()))
        for name, port in added
    )
    with translated("OpenVINO could not show the layers"):
        read.add_outputs([name for name, _ in added])
        ov.save_model(read, folder / "exposed.xml", compress_to_fp16=False)
    return (
        msgspec.structs.replace(model, outputs=(*model.outputs, *specs)),
        msgspec.structs.replace(files, folder=str(folder.resolve()), runtime_graph="exposed.xml"),
    )


def name_of(port: Any) -> str:
    """Return the name of an input or output: its tensor's, or its node's where that has none."""
    names = port.get_names()
    if names:
        return str(min(names))
    node = port.get_node()
    return str((node.input_value(0).get_node() if node.get_type_name() == "Result" else node).get_friendly_name())


def _check_file(path: Path) -> Path:
    """Return the file of weights that belongs to ``path``; a model without constants has none."""
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'")
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if b"<net" not in head:
        raise ModelError(f"'{path.name}' is no OpenVINO model: it has no <net> element")
    weights = path.with_suffix(".bin")
    if not weights.is_file() and b'type="Const"' in path.read_bytes():
        raise ModelError(
            f"'{path.name}' needs its weights, and '{weights.name}' is not beside it",
            hint="an OpenVINO model is two files of one name: .xml and .bin",
        )
    return weights


def _fix_axes(model: ov.Model, shapes: Shapes, batch_size: int | None, name: str) -> None:
    """Give every input a fixed shape: as ``shapes`` says, and an open axis 0 ``batch_size`` or 1."""
    inputs = {name_of(port): port for port in model.inputs}
    for asked in shapes:
        if asked not in inputs:
            raise UsageError(f"--shapes names '{asked}', which is no input", hint=f"inputs: {', '.join(inputs)}")
    sizes = {key: _sizes(key, port, shapes.get(key), batch_size) for key, port in inputs.items()}
    if not model.is_dynamic():
        return
    try:
        with translated("OpenVINO"):
            model.reshape({index: sizes[name_of(port)] for index, port in enumerate(model.inputs)})
    except EngineError as error:
        raise UsageError(f"'{name}' does not work out in these shapes: {error.message}") from error
    still = [name_of(port) for port in model.outputs if port.get_partial_shape().is_dynamic]
    if still:
        raise ModelError(f"the shape of output '{still[0]}' of '{name}' depends on the data", hint="none can be fixed")


def _sizes(name: str, port: Any, asked: tuple[int, ...] | None, batch_size: int | None) -> list[int]:
    partial = port.get_partial_shape()
    if partial.rank.is_dynamic:
        if asked is None:
            raise ModelError(f"input '{name}' has no shape in the file", hint=f"give --shapes {name}:1x3x224x224")
        return list(asked)
    if asked is not None and len(asked) != len(partial):
        raise UsageError(f"--shapes gives '{name}' {len(asked)} axes, the model has {len(partial)}")
    return [_size(name, axis, size, asked, batch_size) for axis, size in enumerate(partial)]


def _size(name: str, axis: int, size: Any, asked: tuple[int, ...] | None, batch_size: int | None) -> int:
    wanted = batch_size if axis == 0 and asked is None else None if asked is None else asked[axis]
    if size.is_static and wanted not in {None, size.get_length()}:
        flag = "--batch-size" if asked is None else "--shapes"
        raise UsageError(f"{flag} gives axis {axis} of '{name}' the size {wanted}, the file has {size.get_length()}")
    if size.is_static:
        return int(size.get_length())
    if wanted is None and axis > 0:
        raise ModelError(
            f"axis {axis} of input '{name}' is open and nothing says how long it is", hint=f"give --shapes {name}:..."
        )
    wanted = wanted or 1
    if not size.get_min_length() <= wanted <= (size.get_max_length() if size.get_max_length() > 0 else wanted):
        raise UsageError(f"axis {axis} of '{name}' may be {size}, not {wanted}")
    return wanted


def _spec(port: Any) -> TensorSpec:
    kind = port.get_element_type()
    dtype = "bfloat16" if kind.to_string() == "bf16" else kind.to_dtype().name
    return TensorSpec(name=name_of(port), dtype=dtype, shape=tuple(port.get_shape()))
