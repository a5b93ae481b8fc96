"""``gradual``: weights set to zero one after the other, the smallest first, while the rest is trained.

Zhu & Gupta 2017 (arXiv:1710.01878): along a cubic schedule, so that most go while there is much to choose from. All
layers are trained; zeros are made in the chosen ones.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import ClassVar, Literal

import onnx_ir as ir

from hwbench.compress.base import Array, Outcome, Subject
from hwbench.compress.format_pattern import OfFormat
from hwbench.compress.patterns import NofM, Unstructured, parse_pattern, stored_bits
from hwbench.compress.training import TrainingSettings, recover, trained_changes, zero_part
from hwbench.compress.zeros import prunable
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing
from hwbench.records.compression import Change
from hwbench.train.settings import within


class GradualSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many zeros, where, and when."""

    amount: float | None = None
    """The fraction of the weights that is zero in the end, 0 to 1. Not with N:M."""
    pattern: str = "unstructured"
    """Where zeros may lie: unstructured; N:M, at most N of M neighbouring inputs left, such as 2:4; or where a format
    of the sparse kernels holds them, such as format:vw16."""
    scope: Literal["layer", "global"] = "layer"
    """Among what the smallest are taken: each layer, or all chosen layers together."""
    begin: float = 0.0
    """The fraction of the training after which the first weights go."""
    end: float = 0.7
    """The fraction of the training after which the last weights have gone; then the rest settles."""
    updates: int = 50
    """In how many portions they go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("amount", self.amount, 0, 1, above=True, below=True)
        within("begin", self.begin, 0, 1)
        within("end", self.end, 0, 1)
        within("updates", self.updates, 1)
        within("epochs", self.epochs, 1)
        if self.begin >= self.end:
            raise UsageError(f"begin is {self.begin:g}, end is {self.end:g}", hint="begin must come before end")
        if (self.amount is None) == (self.block is None):
            raise UsageError("gradual needs an amount, or a pattern N:M, and not both", hint="--amount 0.5")
        if self.block is not None and self.scope == "global":
            raise UsageError(f"pattern={self.pattern} takes the same everywhere, so it has no scope")
        if self.of_format is not None and self.scope == "global":
            raise UsageError(f"pattern={self.pattern} chooses in each layer, so scope=global cannot be")

    @property
    def block(self) -> tuple[int, int] | None:
        """N and M; None: another pattern."""
        pattern = parse_pattern(self.pattern)
        if isinstance(pattern, NofM):
            return pattern.keep, pattern.of
        if not isinstance(pattern, (Unstructured, OfFormat)):
            hint = "unstructured, N:M such as 2:4, or format:vw16"
            raise UsageError(f"gradual has no pattern '{self.pattern}'", hint=hint)
        return None

    @property
    def of_format(self) -> OfFormat | None:
        """The sparse format; None: another pattern."""
        pattern = parse_pattern(self.pattern)
        return pattern if isinstance(pattern, OfFormat) else None


class Gradual:
    """Gradual magnitude pruning."""

    stage: ClassVar[str] = "train"
    summary: ClassVar[str] = "set weights to zero little by little while training"
    settings_type: ClassVar[type[GradualSettings]] = GradualSettings

    def legal(self, subject: Subject, settings: GradualSettings) -> dict[str, Missing | None]:
        pattern, layers = parse_pattern(settings.pattern), subject.layers()
        return {
            name: reason or pattern.refused(layers[name].blocks().shape) if name in layers else reason
            for name, reason in prunable(subject.model).items()
        }

    def apply(self, subject: Subject, layers: Collection[str], settings: GradualSettings) -> Outcome:
        from hwbench.train.gradual_pruning import GradualPruning

        chosen = {name: layer for name, layer in subject.layers().items() if name in layers}
        weights = {_weight(layer): 1 - layer.output_axis for layer in chosen.values()}
        of_format = settings.of_format
        kept = (
            {_weight(layer): functools.partial(_kept, of_format, layer) for layer in chosen.values()}
            if of_format is not None
            else None
        )
        training = recover(
            subject,
            settings,
            lambda view: [
                GradualPruning(
                    view,
                    weights,
                    settings.amount or 0.0,
                    begin=settings.begin,
                    end=settings.end,
                    updates=settings.updates,
                    scope=settings.scope,
                    block=settings.block,
                    keep=kept,
                )
            ],
        )
        subject.held_zeros |= set(weights)
        changes = [_change(subject, name, layer, settings) for name, layer in chosen.items()]
        changes += trained_changes(subject.model, training.before, leave_out=chosen)
        return Outcome(changes=changes, figures=training.figures, notes=training.notes)


def _kept(pattern: OfFormat, layer: Linear, values: Array, amount: float) -> Array:
    """Return the mask, as the weights lie in the node, of what the format keeps."""
    return layer.from_blocks(pattern.kept(layer.to_blocks(values), amount))


def _weight(layer: Linear) -> str:
    value = layer.node.inputs[1]
    assert value is not None
    return value.name or ""


def _change(subject: Subject, name: str, layer: Linear, settings: GradualSettings) -> Change:
    pattern, told, trained = parse_pattern(settings.pattern), "", subject.layers()[name]
    if isinstance(pattern, OfFormat):
        trained.set_blocks(pattern.held(trained.blocks(), name))
    zeros, shape = zero_part(subject.model, name), tuple(layer.weight.shape)
    tensor = ir.convenience.get_const_tensor(layer.node.inputs[1]) if layer.node.inputs[1] is not None else None
    assert tensor is not None
    if isinstance(pattern, OfFormat):
        bits, told = pattern.stored(trained.blocks())
    else:
        bits = stored_bits(pattern, 1 - zeros, 8 * tensor.dtype.itemsize)
    subject.bits[_weight(layer)] = bits
    return Change(
        layer=name, kind="zeroed", what=f"{zeros:.1%} of {layer.weight.size} weights, the rest trained{told}",
        shape_before=shape, shape_after=shape, zeros=zeros, bits_per_weight=bits,
    )  # fmt: skip
