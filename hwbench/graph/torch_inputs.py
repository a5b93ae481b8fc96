"""What a torch module is fed: the user's file, the example that came with it, or normal values in the shapes given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import ModelError, UsageError
from hwbench.graph.inputs import Arrays, override_example, read_inputs, specs_in
from hwbench.graph.spec import ModelSpec
from hwbench.records.model import ImportJob, InputOrigin, TensorSpec

if TYPE_CHECKING:
    import torch

    from hwbench.graph.torch_source import TorchModel


def torch_inputs(spec: ModelSpec, source: TorchModel, job: ImportJob) -> tuple[Arrays, InputOrigin]:
    """Return the inputs of a module and where they come from.

    Raises:
        UsageError: nothing tells their shapes, or what does contradicts itself.
        ModelError: an example does not convert to an array.
    """
    example = _example_arrays(source)
    origin: InputOrigin = "random" if example is None or spec.kind == "zoo" else "example"
    if job.input_data is not None:
        arrays, origin = _file_inputs(Path(job.input_data), source, example, job), "file"
    elif example is None and not job.shapes:
        raise UsageError(
            f"'{spec.text}' gives no example inputs, so their shapes are not known",
            hint="return (module, example_inputs) from it, or give --shapes x:1x3x224x224 or --input-data x.npz",
        )
    else:
        given = _normal_inputs(source, job) if example is None else example
        shapes = override_example(given, job.shapes, job.batch_size)
        arrays = {name: np.resize(array, shapes[name]) for name, array in given.items()}
    if spec.kind == "pt2" and any(arrays[name].shape != array.shape for name, array in (example or {}).items()):
        raise UsageError(
            "a .pt2 keeps the shapes it was exported with", hint="export it again with the shapes you want"
        )
    return arrays, origin


def _example_arrays(source: TorchModel) -> Arrays | None:
    return None if source.example is None else {name: _as_array(name, value) for name, value in source.example.items()}


def _as_array(name: str, tensor: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    try:
        return tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        raise ModelError(
            f"example input '{name}' ({tensor.dtype}) does not convert to numpy: {error}",
            hint="give the model a dense input of booleans, integers, float16, float32 or float64",
        ) from error


def _normal_inputs(source: TorchModel, job: ImportJob) -> Arrays:
    """Make standard normal inputs of the shapes asked for; forward's signature tells no types."""
    names = source.argument_names
    if unknown := set(job.shapes) - set(names):
        raise UsageError(f"--shapes names {', '.join(sorted(unknown))}; forward takes {', '.join(names)}")
    generator = np.random.default_rng(job.seed)
    return {name: generator.standard_normal(job.shapes[name], dtype=np.float32) for name in names if name in job.shapes}


def _file_inputs(path: Path, source: TorchModel, example: Arrays | None, job: ImportJob) -> Arrays:
    """Read the inputs that the example has, in its types, or else all that bear the name of one of forward's."""
    found = specs_in(path)
    wanted = source.argument_names if example is None else list(example)
    names = [name for name in wanted if name in found or example is not None]
    if not names:
        raise UsageError(
            f"--input-data '{path}' has none of the arguments of forward: {', '.join(wanted)}",
            hint=f"it has: {', '.join(found) or 'nothing'}",
        )
    specs = [TensorSpec(name=name, dtype=_dtype(name, example, found), shape=_shape(name, found)) for name in names]
    arrays = read_inputs(path, tuple(specs))
    if override_example(arrays, job.shapes, job.batch_size) != {name: array.shape for name, array in arrays.items()}:
        raise UsageError(f"--input-data '{path}' and the shapes asked for differ", hint="give one of the two")
    return arrays


def _dtype(name: str, example: Arrays | None, found: Mapping[str, TensorSpec]) -> str:
    return found[name].dtype if example is None else example[name].dtype.name


def _shape(name: str, found: Mapping[str, TensorSpec]) -> tuple[int, ...]:
    return found[name].shape if name in found else ()
