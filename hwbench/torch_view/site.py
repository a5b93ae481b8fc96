"""What a rule sees of one node, and the register of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import onnx_ir as ir
import torch

from hwbench.errors import Unsupported
from hwbench.torch_view.dtypes import torch_dtype

Function = Callable[..., Any]  # tensors in the order of the node's inputs, to its outputs


@dataclass(frozen=True)
class Given:
    """An input: a tensor of its shape and dtype, which has values only where ``constant`` is that tensor."""

    like: torch.Tensor
    constant: torch.Tensor | None


@dataclass
class Site:
    """A node and what is known about its inputs.

    The function that a rule returns is called with the inputs in their order, None for those left out, without the
    ``taken`` ones: those whose values the rule has asked for.
    """

    node: ir.Node
    opset: int
    given: Sequence[Given | None]
    taken: set[int] = field(default_factory=set)

    @property
    def what(self) -> str:
        """Name the node in messages."""
        return f"layer '{self.node.name}' ({self.node.op_type})"

    def refuse(self, why: str) -> NoReturn:
        """Raise :class:`Unsupported`: the torch view has no form for this node."""
        raise Unsupported(f"{self.what}: {why}", hint="the torch view cannot express it; other engines may run it")

    def has(self, index: int) -> bool:
        """Say whether the input is there."""
        return index < len(self.given) and self.given[index] is not None

    def wants(self, index: int) -> bool:
        """Say whether anyone may use the output."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index].name)

    def like(self, index: int = 0) -> torch.Tensor:
        """Return a tensor with the input's shape and dtype; its values must not be used."""
        given = self.given[index] if self.has(index) else None
        if given is None:
            self.refuse(f"input {index} is missing")
        return given.like

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Return the shape of an input."""
        return tuple(self.like(index).shape)

    def rank(self, index: int = 0) -> int:
        """Return the number of axes of an input."""
        return self.like(index).dim()

    def is_constant(self, index: int) -> bool:
        """Say whether the input's values are known now."""
        given = self.given[index] if self.has(index) else None
        return given is not None and given.constant is not None

    def take(self, index: int) -> torch.Tensor | None:
        """Take an input's values out of the function's arguments; None where the node leaves it out.

        Raises:
            Unsupported: they are known only when the network runs.
        """
        self.taken.add(index)
        given = self.given[index] if self.has(index) else None
        if given is None:
            return None
        if given.constant is None:
            self.refuse(f"input {index} ('{self._input_name(index)}') must be a constant")
        return given.constant

    def values(self, index: int) -> torch.Tensor:
        """Take the values of an input that must be there."""
        values = self.take(index)
        return self.refuse(f"input {index} is missing") if values is None else values

    def ints(self, index: int) -> list[int] | None:
        """Take an input of integers."""
        values = self.take(index)
        return None if values is None else [int(value) for value in values.reshape(-1).tolist()]

    def floats(self, index: int) -> list[float] | None:
        """Take an input of floats."""
        values = self.take(index)
        return None if values is None else [float(value) for value in values.reshape(-1).tolist()]

    def ints_of(self, index: int, attribute: str) -> list[int] | None:
        """Take integers that newer opsets have as an input and older ones as an attribute."""
        found = self.attribute(attribute)
        return self.ints(index) if found is None else [int(value) for value in _sequence(found)]

    def number_of(self, index: int, attribute: str) -> float | None:
        """Take a number that newer opsets have as an input and older ones as an attribute."""
        found = self.attribute(attribute)
        if found is not None:
            return float(found)
        values = self.floats(index)
        return values[0] if values else None

    def attribute(self, name: str) -> Any:
        """Return the value of an attribute, or None."""
        attribute = self.node.attributes.get(name)
        return None if attribute is None else attribute.value

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is an integer."""
        value = self.attribute(name)
        return default if value is None else int(value)

    def number(self, name: str, default: float) -> float:
        """Return an attribute that is a float."""
        value = self.attribute(name)
        return default if value is None else float(value)

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a string."""
        value = self.attribute(name)
        return default if value is None else str(value)

    def integers(self, name: str) -> list[int] | None:
        """Return an attribute that is a list of integers."""
        value = self.attribute(name)
        return None if value is None else [int(item) for item in value]

    def axis(self, name: str, default: int, rank: int | None = None) -> int:
        """Return an axis from an attribute, counted from the front."""
        rank = self.rank() if rank is None else rank
        axis = self.integer(name, default)
        return axis + rank if axis < 0 else axis

    def dtype(self, name: str, default: torch.dtype) -> torch.dtype:
        """Return an attribute that is an element type."""
        value = self.attribute(name)
        if value is None:
            return default
        found = torch_dtype(ir.DataType(int(value)))
        if found is None:
            self.refuse(f"torch does not compute in {ir.DataType(int(value)).name}")
        return found

    def _input_name(self, index: int) -> str | None:
        value = self.node.inputs[index]
        return None if value is None else value.name


Rule = Callable[[Site], Function]


class Rules(dict[str, Rule]):
    """Rules by operator."""

    def on(self, *operators: str) -> Callable[[Rule], Rule]:
        """Register a rule for operators."""

        def register(rule: Rule) -> Rule:
            for operator in operators:
                self[operator] = rule
            return rule

        return register

    def plain(self, functions: dict[str, Function]) -> None:
        """Register functions that need nothing of the node but its inputs."""
        for operator, function in functions.items():
            self[operator] = _always(function)


def _always(function: Function) -> Rule:
    return lambda site: function  # noqa: ARG005 - it is the same at every site


def _sequence(value: Any) -> Iterable[Any]:
    return value if isinstance(value, Iterable) else (value,)
