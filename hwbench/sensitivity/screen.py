"""What every option loses, told from one backward pass: a second-order estimate.

With g the gradient, at a tensor Y, of the loss of a label drawn from the network's own output, and dY what an option
does to Y, E[(g . dY)^2] is the Fisher information in the direction of dY, and half of it the divergence to second
order (NVIDIA's ModelOpt scores precisions so; Fisher by drawn labels: arXiv:1905.12558). An option that changes several
tensors changes g . dY by the sum over them, to first order. Where the output has no scores of classes, g is that of its
product with random numbers, and E[(g . dY)^2] is the squared error of the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from hwbench.errors import Unsupported
from hwbench.sensitivity.flow import Flow, Values
from hwbench.sensitivity.patch import Patch
from hwbench.sensitivity.stitch import Stitch
from hwbench.train.losses import label_free_loss

Made = Callable[[], Patch]
HELD_BYTES = 1 << 30
_NOTHING = Patch()


def screened(stitch: Stitch, options: Mapping[str, Made], samples: int) -> tuple[dict[str, float], dict[str, int], int]:
    """Return the estimated divergence of each option, where it first changes anything, and on how many samples.

    Values and gradients of all layers are held while patches are made, one after the other and each once: of the first
    ``samples``, or of as many batches as fit into :data:`HELD_BYTES`, of one at least. Infinity: no such patch.
    """
    held = max(1, min(stitch.count(samples), int(HELD_BYTES // max(1, 2 * stitch.batch_bytes))))
    rng = np.random.default_rng([stitch.network.seed, 1])
    scenes = [_backward(stitch, batch.values, rng) for batch in stitch.batches[:held]]
    size = sum(scene[2] for scene in scenes)
    estimates: dict[str, float] = {}
    starts: dict[str, int] = {}
    for at, (name, make) in enumerate(options.items()):
        stitch.network.report("estimating what each choice loses", at / len(options))
        try:
            patch = make()
        except Unsupported:
            estimates[name], starts[name] = math.inf, 0
            continue
        starts[name] = stitch.flow.start(patch)
        estimates[name] = sum(_squared(stitch, values, gradients, patch) for values, gradients, _ in scenes) / size
    return estimates, starts, held * stitch.network.batch


def _backward(
    stitch: Stitch, inputs: Values, rng: np.random.Generator
) -> tuple[Values, dict[torch.fx.Node, torch.Tensor], float]:
    """Return values, gradients by node, and what the sum of squares is to be divided by for this batch."""
    output, count = stitch.output, stitch.network.batch
    assert output is not None
    given = {node: value.clone().requires_grad_() if value.is_floating_point() else value
             for node, value in inputs.items()}  # fmt: skip
    marked = {node for node in stitch.flow.nodes if node.op == "call_module"}
    with torch.enable_grad():
        values = stitch.flow.run(given, 0, _NOTHING, keep=True, marked=marked)
        found = output.pick(stitch.flow.outputs(values))
        loss = label_free_loss([found], rng, kinds=[output.kind], axes=[output.axis]) * count
    points = [
        node for node in stitch.flow.nodes if isinstance(values[node], torch.Tensor) and values[node].requires_grad
    ]
    raw = torch.autograd.grad(loss, [values[node] for node in points], allow_unused=True)
    pairs: Iterable[tuple[torch.fx.Node, torch.Tensor | None]] = zip(points, raw, strict=True)
    gradients = {node: gradient for node, gradient in pairs if gradient is not None}
    kept = {node: value.detach() if isinstance(value, torch.Tensor) else value for node, value in values.items()}
    if output.measure == "relative":
        return kept, gradients, float(found.detach().double().square().sum())
    rows = output.rows(found.detach()).shape[0]
    return kept, gradients, 2.0 * count * count / rows  # a sample's loss is a mean over its rows


def _squared(stitch: Stitch, values: Values, gradients: Mapping[torch.fx.Node, torch.Tensor], patch: Patch) -> float:
    count = stitch.network.batch
    change: Any = torch.zeros(count, dtype=torch.float64)
    with torch.no_grad(), stitch.flow.patched(patch):
        for node, value in _changes(stitch.flow, values, patch):
            if node in gradients:
                off = value - values[node]
                change += (off.double() * gradients[node].double()).reshape(count, -1).sum(1)
    return float(change.square().sum())


def _changes(flow: Flow, values: Values, patch: Patch) -> Iterator[tuple[torch.fx.Node, Any]]:
    """Yield the nodes that a patch changes by itself, and what they make then.

    Where a layer stands for a block, what it puts out is what the Add of the block does; single nodes of the block say
    nothing, as each is far from what it was and they make up for each other.
    """
    at = {name: flow.nodes[place] for name, place in flow.at_layer.items()}
    ends = {at[first]: at[add] for first, (_, add) in patch.stands.items()}
    inside = {at[name] for pair in patch.stands.values() for name in pair}
    for node in flow.touched(patch):
        if node not in inside:
            yield ends.get(node, node), flow.computed(node, values, patch)
