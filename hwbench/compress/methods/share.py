"""Weight sharing: every weight takes one of few values, found by k-means (Deep Compression, arXiv:1510.00149).

The hub keeps the values themselves. No kernel of any runtime here executes codebooks, so this is about the size of a
file and of memory at rest; the network takes the time that it took. What could be stored is packed by
:mod:`hwbench.compress.codebooks`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hwbench.compress.base import Array, Outcome, Settings, Subject, check_pattern
from hwbench.compress.codebooks import Codebook, Packed, index_counts, mean_code_length, pack
from hwbench.compress.factorise.spectrum import relative_error
from hwbench.compress.patterns import Unstructured, stored_bits
from hwbench.compress.sharing.assign import shared_values
from hwbench.compress.sharing.cluster import Init
from hwbench.compress.sharing.tensors import Weight, grouped, weights_of
from hwbench.compress.statistics.grams import input_matrices
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, Skipped, linear_layers
from hwbench.records.base import Missing
from hwbench.records.compression import Change

SIZE_ONLY = "size only: no kernel executes codebooks; latency unchanged"


class ShareSettings(Settings, frozen=True, kw_only=True):
    """Settings of ``share``."""

    bits: int = 4
    """Bits of an index: a codebook has up to 2^bits values. 2 to 8."""
    scope: Literal["global", "layer", "channel", "position"] = "layer"
    """What has a codebook of its own: all layers together, a layer, an output channel, or a kernel position."""
    init: Init = "auto"
    """``exact``: the best clustering; ``linear``, ``density``, ``kmeans++``: where Lloyd's iteration starts; ``auto``:
    exact where that takes less than a second, otherwise linear."""
    importance: Literal["none", "inputs"] = "none"
    """``inputs``: a weight counts by the mean square of its input on the data."""
    tied: tuple[str, ...] = ()
    """Regular expressions: layers whose whole names match the same one share a codebook. For scope ``layer``."""

    finetune_epochs: int = 0
    """How long the values of the codebooks are trained after the original's outputs, with all other weights."""
    learning_rate: float | None = None
    """Of that training; 0.01 where none is given."""

    def __post_init__(self) -> None:
        if self.finetune_epochs < 0:
            raise UsageError(f"finetune_epochs must not be negative, got {self.finetune_epochs}")
        if self.learning_rate is not None and (self.learning_rate <= 0 or not self.finetune_epochs):
            raise UsageError(
                f"learning_rate must be positive, and with finetune_epochs; got {self.learning_rate:g} "
                f"for {self.finetune_epochs} epochs"
            )
        if not 2 <= self.bits <= 8:
            raise UsageError(f"bits must be 2 to 8, got {self.bits}")
        if self.tied and self.scope != "layer":
            raise UsageError(f"tied layers have one codebook together, and scope={self.scope} says otherwise")
        for pattern in self.tied:
            check_pattern(pattern, "tied:")


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """A group of tensors with one codebook (or one for each channel or position): before, after, and packed."""

    weights: Sequence[Weight]
    before: Sequence[Array]
    packed: Packed
    held: Collection[str]  # initialisers whose zeros stay zeros

    @property
    def size(self) -> int:
        """How many weights there are."""
        return sum(array.size for array in self.before)

    def bits_per_weight(self, weight: Weight) -> float:
        """Return the bits of an index and of a part of the codebooks; held zeros as a mask where that takes less."""
        density = float((weight.array != 0).mean()) if weight.name in self.held else 1.0
        saved = self.packed.bits - stored_bits(Unstructured(), density, self.packed.bits)
        return self.packed.stored_bits / self.size - saved

    @property
    def stored_bits(self) -> float:
        """Of all tensors, codebooks counted in."""
        return sum(self.bits_per_weight(weight) * weight.array.size for weight in self.weights)


class Share:
    """Weights take one of few values."""

    stage: ClassVar[str] = "share"
    summary: ClassVar[str] = "weights from k-means codebooks of 2 to 8 bits (size only: no kernel executes them)"
    settings_type: ClassVar[type[Settings]] = ShareSettings

    def legal(self, subject: Subject, settings: ShareSettings) -> dict[str, Missing | None]:
        found: dict[str, Missing | None] = {}
        for layer in linear_layers(subject.model):
            if isinstance(layer, Skipped):
                found[layer.layer] = Missing(code="unfit_layer", why=layer.reason)
            else:
                found[layer.name] = subject.on_a_grid(layer) or _unfit(layer, settings)
        return found

    def apply(self, subject: Subject, layers: Collection[str], settings: ShareSettings) -> Outcome:
        if settings.finetune_epochs:
            subject.need_samples("share with finetune_epochs")
        grams = (
            input_matrices(subject, layers, "share with importance=inputs") if settings.importance == "inputs" else {}
        )
        chosen = [layer for name, layer in subject.layers().items() if name in layers]
        groups = grouped(weights_of(chosen, grams), together=settings.scope == "global", tied=settings.tied)
        rng = np.random.default_rng(subject.seed)
        done: list[_Shared] = []
        for index, (book, weights) in enumerate(groups.items()):
            subject.report(f"share {book}", index / len(groups))
            done.append(_share(subject, book, weights, settings, rng))
        losses = _tuned(subject, settings)
        changes = {change.layer: change for shared in done for change in _changes(shared, grams)}
        ordered = [changes[layer.name] for layer in chosen]
        return Outcome(changes=ordered, figures=_figures(done) | losses, notes=[SIZE_ONLY])


def _unfit(layer: Linear, settings: ShareSettings) -> Missing | None:
    if settings.scope == "channel" and layer.node.op_type == "ConvTranspose" and layer.groups > 1:
        return Missing(
            code="no_channel_axis", why="a transposed convolution in groups has no axis of output channels",
            cure="take another scope",
        )  # fmt: skip
    if settings.importance == "inputs":
        from hwbench.compress.statistics.grams import no_gram

        trouble = no_gram(layer)
        if trouble is not None:
            return trouble
    tensor = layer.node.inputs[1]
    assert tensor is not None
    assert tensor.dtype is not None
    shape, width = layer.weight.shape, int(tensor.dtype.itemsize * 8)
    size, books = math.prod(shape), math.prod(shape[axis] for axis in _axes(layer, settings))
    codes = min(2**settings.bits, size // books)
    packed = size * (codes - 1).bit_length() + books * codes * width
    if settings.scope == "global" or settings.tied or packed < size * width:
        return None
    return Missing(
        code="no_gain",
        why=f"{books} x {codes} values and {size} indices take {packed} bits, the weights themselves {size * width}",
        cure="take fewer bits, or a wider scope",
    )


def _axes(layer: Linear, settings: ShareSettings) -> tuple[int, ...]:
    if settings.scope == "channel":
        return (layer.output_axis,)
    return tuple(range(2, layer.weight.ndim)) if settings.scope == "position" else ()


def _tuned(subject: Subject, settings: ShareSettings) -> dict[str, float]:
    if not settings.finetune_epochs:
        return {}
    from hwbench.compress.sharing.tuning import tune

    return tune(subject, epochs=settings.finetune_epochs, learning_rate=settings.learning_rate or 0.01)


def _share(
    subject: Subject, book: str, weights: Sequence[Weight], settings: ShareSettings, rng: np.random.Generator
) -> _Shared:
    axes, before = _axes(weights[0].layers[0], settings), [weight.array for weight in weights]
    importance = [weight.importance for weight in weights if weight.importance is not None]
    after = shared_values(
        before, importance or None, axes, bits=settings.bits, init=settings.init, rng=rng,
        hold_zeros=any(weight.name in subject.held_zeros for weight in weights),
    )  # fmt: skip
    packed = pack(after, axes)
    assert packed is not None
    shared = _Shared(weights=weights, before=before, packed=packed, held=subject.held_zeros)
    for weight, array in zip(weights, after, strict=True):
        weight.write(array)
        subject.codebooks[weight.name] = Codebook(name=book, axes=axes, codes=packed.values.shape[1])
        subject.on_grid.add(weight.name)
        subject.bits[weight.name] = shared.bits_per_weight(weight)
    return shared


def _changes(shared: _Shared, grams: Mapping[str, Array]) -> Iterator[Change]:
    books, codes = shared.packed.values.shape
    for weight, before in zip(shared.weights, shared.before, strict=True):
        for layer in weight.layers:
            old, new = (_matrix(layer, array) for array in (before, weight.array))
            gram = grams.get(layer.name)
            many = f"{books} codebooks of up to {codes}" if books > 1 else f"{codes}"
            partners = len(shared.weights) - 1
            yield Change(
                layer=layer.name,
                kind="shared",
                what=f"{many} values, indices of {shared.packed.bits} bits"
                + (f", together with {partners} other weight{'s' if partners > 1 else ''}" if partners else "")
                + f"; squared error of the weights {relative_error(old, new):.3g}",
                shape_before=before.shape,
                shape_after=before.shape,
                zeros=float((weight.array == 0).mean()),
                error=None if gram is None else relative_error(old, new, gram),
                bits_per_weight=shared.bits_per_weight(weight),
            )


def _matrix(layer: Linear, array: Array) -> Array:
    blocks = layer.to_blocks(array.astype(np.float64))
    return blocks.reshape(*blocks.shape[:2], -1)


def _figures(done: Sequence[_Shared]) -> dict[str, float]:
    """Return sizes over all layers; ``huffman_bytes``: had the indices of each codebook been entropy-coded."""
    if not done:
        return {}
    weights = sum(shared.size for shared in done)
    packed = sum(shared.stored_bits for shared in done)
    coded = sum(
        shared.size * mean_code_length(index_counts(shared.packed)) + 8 * shared.packed.values.nbytes for shared in done
    )
    return {
        "weights": float(weights),
        "bytes_before": float(sum(array.nbytes for shared in done for array in shared.before)),
        "packed_bytes": packed / 8,
        "huffman_bytes": coded / 8,
        "bits_per_weight": packed / weights,
    }
