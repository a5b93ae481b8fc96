"""What a compression method is, and the network that methods work on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
import numpy as np
import onnx_ir as ir

from hwbench.data.samples import Samples
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, linear_layers
from hwbench.records.base import Missing
from hwbench.records.compression import Change, LeftAlone

if TYPE_CHECKING:
    import torch

    from hwbench.compress.codebooks import Codebook

Array = np.ndarray[Any, np.dtype[Any]]
Report = Callable[[str, float | None], None]  # what goes on, in words, and the fraction done


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the settings of a method: every field has a type, a default where there is a good one, and a docstring.

    ``amount`` is called so wherever a method takes one: it is what ``--amount`` sets.
    """


def check_pattern(pattern: str, where: str, hint: str | None = None) -> None:
    """Refuse what is no regular expression; ``where`` it was given.

    Raises:
        UsageError: it is none.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{where} '{pattern}' is no regular expression: {error}", hint=hint) from error


S_contra = TypeVar("S_contra", bound=Settings, contravariant=True)


@dataclass
class Subject:
    """A network under compression. Methods change ``model`` in place and keep the books below up to date.

    ``model`` is the hub: layers keep their names, shapes are inferred, the batch axis is fixed to ``batch``. What a
    method makes anew is named after what it replaces (``conv1`` -> ``conv1.down``, ``conv1.up``), and the tensor that
    came out of the layer keeps its name, so that it can be held against the original's.
    """

    model: ir.Model
    original: ir.Model  # as it came in, never changed; after a transfer to another task, as it was after that
    batch: int
    samples: Samples | None
    folder: Path  # scratch space
    report: Report
    seed: int = 0
    threads: int = 1
    device: str = "cpu"  # torch's name of where gradients are computed
    transferred: bool = False
    """Whether a transfer to another task has made a new original."""
    kept: dict[str, dict[int, Array]] = field(default_factory=dict)
    """By name of a tensor (activation or weight) and axis: the indices of the original that are left, in order."""
    held_zeros: set[str] = field(default_factory=set)
    """Initialisers whose zeros must stay zeros when the network is trained or repaired."""
    bits: dict[str, float] = field(default_factory=dict)
    """Bits a weight, by initialiser, as it could be stored: codebooks, scales and masks counted in."""
    on_grid: set[str] = field(default_factory=set)
    """Initialisers whose values lie on a grid or come from a codebook: what trains later leaves them as they are."""
    codebooks: dict[str, Codebook] = field(default_factory=dict)
    """By initialiser: the codebook that its values come from; :func:`hwbench.compress.codebooks.write` packs them."""

    def layers(self) -> dict[str, Linear]:
        """Return the layers with weights that can be worked on, by name, in graph order."""
        return {layer.name: layer for layer in linear_layers(self.model) if isinstance(layer, Linear)}

    def on_a_grid(self, layer: Linear) -> Missing | None:
        """Say why the weights of a layer must be left where they are, if an earlier step has placed them."""
        value = layer.node.inputs[1]
        if value is None or value.name not in self.on_grid:
            return None
        return Missing(
            code="on_a_grid",
            why=f"an earlier step has put '{value.name}' on a grid or codebook",
            cure="choose other --layers for one of the two",
        )

    def view(self) -> torch.fx.GraphModule:
        """Return a fresh torch view of the network as it is now, in evaluation mode, on :attr:`device`.

        Raises:
            Unsupported: the network has an operator that torch cannot express.
        """
        return self._view(self.model)

    def teacher(self) -> torch.fx.GraphModule:
        """Return a torch view of the original, in evaluation mode, on :attr:`device`."""
        return self._view(self.original)

    def need_samples(self, what: str) -> Samples:
        """Return the data, which ``what`` cannot do without.

        Raises:
            UsageError: there are none.
        """
        if self.samples is None:
            raise UsageError(f"{what} needs samples, and there are none", hint="give --data; docs/data.md")
        return self.samples

    def tensors(self, inputs: Mapping[str, Array]) -> tuple[torch.Tensor, ...]:
        """Return a batch as the arguments of a view, on :attr:`device`."""
        import torch

        names = [value.name for value in self.model.graph.inputs if not value.is_initializer()]
        return tuple(torch.from_numpy(np.array(inputs[name or ""])).to(self.device) for name in names)

    def keep(self, tensor: str, axis: int, indices: Array) -> None:
        """Note that of ``axis`` only ``indices`` are left, counted as the tensor was before this cut."""
        before = self.kept.setdefault(tensor, {}).get(axis)
        self.kept[tensor][axis] = indices if before is None else before[indices]

    def forget_gone(self) -> None:
        """Take out of the books of values what is no constant of the network any more."""
        constants = (node.outputs[0].name or "" for node in self.model.graph if node.op_type == "Constant")
        there = {*self.model.graph.initializers, *constants}
        self.held_zeros &= there
        self.bits = {name: bits for name, bits in self.bits.items() if name in there}
        self.codebooks = {name: book for name, book in self.codebooks.items() if name in there}

    def _view(self, model: ir.Model) -> torch.fx.GraphModule:
        from hwbench.torch_view.build import to_torch
        from hwbench.torch_view.place import on_device

        return on_device(to_torch(model), self.device)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a method has done. ``figures`` are numbers it tells beside the layers; ``notes`` are sentences."""

    changes: Sequence[Change]
    left_alone: Sequence[LeftAlone] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Compressor(Protocol, Generic[S_contra]):
    """A method: one file, one entry point in ``hwbench.compressors``.

    ``stage`` places it in the order of :mod:`hwbench.compress.order`. ``summary``: one line for people.
    """

    stage: ClassVar[str]
    summary: ClassVar[str]
    settings_type: ClassVar[type[Settings]]

    def legal(self, subject: Subject, settings: S_contra) -> dict[str, Missing | None]:
        """Return the layers (or blocks) that this method is about, in graph order: None, or why it must not.

        Cheap: nothing is run. What cannot be done safely is found here, before anything is changed.
        """
        ...

    def apply(self, subject: Subject, layers: Collection[str], settings: S_contra) -> Outcome:
        """Change ``layers``, all of them legal, in place.

        Raises:
            UsageError: the settings do not fit, or data or labels are wanting.
            ModelError: the network puts out NaN on the data.
        """
        ...
