"""Quantisation-aware training of the network on the bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from hwbench.compress.base import Array, Subject
from hwbench.compress.quantising import OnGrid, largest_of, on_grid
from hwbench.compress.simulated import folded, on_integers, scratch
from hwbench.data.samples import Samples
from hwbench.graph.linear import Linear
from hwbench.records.quantization import TensorRange

if TYPE_CHECKING:
    from hwbench.compress.methods.quantize import QuantizeSettings
    from hwbench.fake_quant.grids import Grid
    from hwbench.fake_quant.qat import Prepared
    from hwbench.train.losses import Loss

_HELD_OUT = 0.1
_ENOUGH = 20  # samples from which on some are held out, to keep the best epoch


def train(
    subject: Subject, layers: Mapping[str, Linear], settings: QuantizeSettings, ranges: Mapping[str, TensorRange]
) -> tuple[dict[str, OnGrid], dict[str, TensorRange]]:
    """Train with weights (and activations that have ranges) rounded; return the weights and ranges that came out.

    The hub gets all weights that were trained, those of ``layers`` on their grids; what an earlier step put on a grid
    or codebook stays there. Labels are learned where the samples have some, otherwise the original's outputs (Hinton
    et al., arXiv:1503.02531).

    Raises:
        UsageError: there are no samples, or they do not fit.
        ModelError: the loss is NaN.
    """
    from hwbench.fake_quant.qat import WeightScheme, prepare
    from hwbench.torch_view.tables import weights_back
    from hwbench.train.hooks import HoldZeros
    from hwbench.train.parameters import by_initializer
    from hwbench.train.settings import TrainSettings
    from hwbench.train.trainer import Trainer

    samples = subject.need_samples("quantisation-aware training")
    grain, schemes = settings.grain, {}
    for name, layer in layers.items():
        bits = settings.bits_of(name)
        start = on_grid(layer, bits, grain, settings.scale)
        schemes[name] = WeightScheme(
            scales=start.scales, largest=start.largest, group=grain.group, axis=1 - layer.output_axis
        )
    view = subject.view()
    for name, tensor in by_initializer(view).items():
        tensor.requires_grad_(name not in subject.on_grid)
    grids = _grids(subject, list(layers), settings, ranges)
    prepared = prepare(view, subject.model, schemes, grids, learned=settings.learned_steps)
    view.to(subject.device)
    part, held_out = _parts(samples, subject.seed)
    trainer = Trainer(
        view,
        part,
        _loss(samples),
        TrainSettings(
            epochs=settings.qat_epochs,
            learning_rate=settings.learning_rate,
            optimizer="adamw",
            weight_decay=0.0,
        ),
        hooks=[HoldZeros(view, subject.held_zeros)] if subject.held_zeros else [],
        validation=held_out,
        teacher=None if samples.labels is not None else subject.teacher(),
        device=subject.device,
        folder=scratch(subject) / "qat",
        report=subject.report,
        seed=subject.seed,
    )
    trainer.run()
    scales = {name: found.cpu().numpy() for name, found in prepared.settle().items()}
    weights_back(view, subject.model)
    trained = {name: _settled(layers[name], found, settings) for name, found in scales.items()}
    return trained, _ranges_of(prepared, ranges, grids)


def _parts(samples: Samples, seed: int) -> tuple[Samples, Samples | None]:
    if len(samples) < max(_ENOUGH, 2 * samples.batch):
        return samples, None
    return samples.split(_HELD_OUT, seed)


def _loss(samples: Samples) -> Loss:
    from hwbench.train.distillation import Distillation
    from hwbench.train.losses import TaskLoss

    return TaskLoss() if samples.labels is not None else Distillation()


def _grids(
    subject: Subject, layers: list[str], settings: QuantizeSettings, ranges: Mapping[str, TensorRange]
) -> dict[str, Grid]:
    """Return the grids of the tensors that the runtime rounds, by name."""
    from hwbench.fake_quant.assign import Grids
    from hwbench.fake_quant.place import place
    from hwbench.fake_quant.runtimes import arithmetic

    if not ranges:
        return {}
    model = folded(subject.model)
    bits = dict.fromkeys(on_integers(model, ranges, layers), int(settings.activation_bits))
    placement = place(model, bits, settings.runtime)
    return Grids(model, ranges, arithmetic(settings.runtime), placement, bits).all()


def _settled(layer: Linear, scales: Array, settings: QuantizeSettings) -> OnGrid:
    bits = settings.bits_of(layer.name)
    return OnGrid(numbers=layer.weight, scales=scales, largest=largest_of(bits), bits=bits)


def _ranges_of(
    prepared: Prepared, ranges: Mapping[str, TensorRange], grids: Mapping[str, Grid]
) -> dict[str, TensorRange]:
    """Return the ranges with the ends that were trained, also for those that share a grid's range."""
    found = dict(ranges)
    for name, module in prepared.activations.items():
        if not module.learned or name not in ranges or name not in grids:
            continue
        low, high = module.ends
        same = ranges[name]
        for other, one in ranges.items():
            if one == same:
                found[other] = msgspec.structs.replace(one, low=low, high=high, magnitude=max(-low, high))
    return found
