"""A plan that came as a file of its own: what it tells of itself.

A plan says what it is to nobody but the TensorRT that built it, on the kind of GPU it was built for: there is no
documented format, and even the names of its inputs take a runtime and a driver to read. In a bundle of hwbench's all of
it lies beside, and nothing need be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hwbench.engines.tensorrt_api import api
from hwbench.engines.tensorrt_engine import inspected, open_engine, tensors
from hwbench.engines.tensorrt_inspect import Unit, read_units
from hwbench.errors import EngineError, ModelError, UsageError
from hwbench.protocols import ArtefactFacts
from hwbench.quantize.nvidia import Flavour
from hwbench.records.base import Missing
from hwbench.records.model import Layer, TensorSpec

_NO_COST = Missing(code="not_counted", why="a plan does not tell how its layers are shaped")
_CURE = "give the bundle that it came in, or the source model; or read it where it runs"


def describe(
    path: Path, shapes: Mapping[str, tuple[int, ...]], batch_size: int | None, flavour: Flavour
) -> ArtefactFacts:
    """Read a plan through TensorRT.

    Raises:
        ModelError: there is no such file, no driver, or TensorRT cannot load it.
        UsageError: other shapes are asked for than it was built with.
    """
    from hwbench.cuda.driver import probe

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror}") from error
    found = probe()
    if isinstance(found, Missing):
        raise ModelError(f"'{path.name}' is a plan, which only a runtime with a GPU can read: {found.why}", hint=_CURE)
    try:
        adapter = api(flavour)
        engine = open_engine(adapter, data)
        inputs, outputs = tensors(engine)
        units = read_units(inspected(adapter, engine))
    except EngineError as error:
        raise ModelError(f"'{path.name}': {error.message}", hint=error.hint or _CURE) from error
    _require(inputs, shapes, batch_size, path.name)
    return ArtefactFacts(
        inputs=inputs,
        outputs=outputs,
        layers=_layers(units),
        arithmetic=_arithmetic(units),
        parameters=0,
        weight_bytes=len(data),
        files=(path.name,),
    )


def _require(
    inputs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]], batch_size: int | None, name: str
) -> None:
    """Refuse shapes that the plan was not built for."""
    known = {spec.name: spec.shape for spec in inputs}
    for asked, shape in shapes.items():
        if asked not in known:
            raise UsageError(f"--shapes names '{asked}', which is no input", hint=f"inputs: {', '.join(known)}")
        if tuple(shape) != known[asked]:
            raise UsageError(f"'{name}' was built with {known[asked]} for '{asked}', not {tuple(shape)}")
    if batch_size is not None and any(shape and shape[0] != batch_size for shape in known.values()):
        raise UsageError(f"'{name}' was not built for a batch of {batch_size}", hint="leave --batch-size out")


def _layers(units: Sequence[Unit]) -> tuple[Layer, ...]:
    """Return the plan's own layers; the inspector tells no tensors that join them, so each stands alone."""
    return tuple(
        Layer(
            name=unit.name, op=unit.kind, module=None, inputs=(), outputs=(), parameters=0, macs=_NO_COST,
            moved_bytes=_NO_COST,
        )
        for unit in units
    )  # fmt: skip


def _arithmetic(units: Sequence[Unit]) -> str:
    """Return the type that most layers have: of multiply-adds the plan tells nothing."""
    kinds = [unit.precision for unit in units if isinstance(unit.precision, str)]
    return max(set(kinds), key=kinds.count) if kinds else "fp32"
