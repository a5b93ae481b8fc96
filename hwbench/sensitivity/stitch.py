"""The loss of a patch: the patched network run from where it first differs, and held against the original.

What the original has at chosen places is kept for all samples (*cuts*), so that a patch that changes nothing before one
of them starts there. The same nodes on the same numbers in the same order: what comes out is the same to the bit. Cuts
are kept in float32; in half precision they would be off by more than what small patches lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hwbench.errors import ModelError
from hwbench.fake_quant.runtimes import rounding
from hwbench.records.sensitivity import StitchAnswer
from hwbench.sensitivity.compare import Output, Tally
from hwbench.sensitivity.flow import Flow, Values, first_bad
from hwbench.sensitivity.network import Array, Network
from hwbench.sensitivity.patch import Patch

Tensor = torch.Tensor
CUT_BYTES = 1 << 30
_NOTHING = Patch()


@dataclass
class _Batch:
    values: Values  # of the inputs
    labels: Array | None
    wanted: Tensor
    cuts: dict[int, Values]


class Stitch:
    """A network that patches are put into; ``samples`` of the network's own are judged on, in its batches."""

    def __init__(self, network: Network, *, cut_bytes: int = CUT_BYTES, pairs: bool = True) -> None:
        """Run the original once over all samples.

        Args:
            network: the original, and the samples.
            cut_bytes: what may be kept of its activations.
            pairs: where there is a label for every two samples, they are judged as pairs of an embedding.

        Raises:
            ModelError: it puts out NaN or infinity.
            Unsupported: torch cannot express it.
        """
        self.network, self.cut_bytes = network, cut_bytes
        self.pair_labels = network.samples.pair_labels if pairs else None
        tensors = {
            node.name or "": node.outputs[0].name or "" for node in network.model.graph if len(node.outputs) == 1
        }
        self.flow = Flow(network.view().requires_grad_(False), tensors, rounding(network.runtime))
        self.cuts: tuple[int, ...] = ()
        self.batches: list[_Batch] = []
        self.output: Output | None = None
        with torch.no_grad():
            self._original()

    @property
    def measure(self) -> str:
        """``kl`` or ``relative``: see :mod:`hwbench.sensitivity.compare`."""
        assert self.output is not None
        return self.output.measure

    @property
    def batch_bytes(self) -> int:
        """What all values take that one batch makes on its way."""
        return sum(self._sizes)

    def judge(self, patch: Patch, *, what: str, samples: int | None = None, prefix: bool = True) -> StitchAnswer:
        """Return what a patch loses on the first ``samples`` (rounded up to whole batches; None: all).

        Raises:
            ModelError: the patched network puts out NaN or infinity; ``what`` names the patch.
        """
        assert self.output is not None
        tally, flow = Tally(self.output, self.pair_labels), self.flow
        start = flow.start(patch)
        begin = max((cut for cut in self.cuts if cut <= start), default=0) if prefix else 0
        with torch.no_grad(), flow.patched(patch):
            for batch in self.batches[: self.count(samples)]:
                values = batch.cuts[begin] if begin else batch.values
                outputs = flow.outputs(flow.run(values, begin, patch))
                found = self.output.pick(outputs)
                if not bool(torch.isfinite(found).all()):
                    layer = first_bad(flow, flow.run(batch.values, 0, patch, keep=True))
                    raise ModelError(f"{what}: layer '{layer}' puts out NaN or infinity", hint="leave this choice out")
                tally.add(batch.wanted, found, batch.labels, self.network.batch)
                tally.take(outputs[0], self.network.batch)
        return tally.result()

    def count(self, samples: int | None) -> int:
        """Return how many batches hold so many samples."""
        return len(self.batches) if samples is None else min(len(self.batches), -(-samples // self.network.batch))

    def prefixed(self, patch: Patch) -> bool:
        """Say whether a patch starts at a cut."""
        start = self.flow.start(patch)
        return any(cut <= start for cut in self.cuts)

    def cut_at(self, starts: Sequence[int]) -> None:
        """Choose cuts for patches that start at these places, within the memory, and keep what the original has there.

        One after the other is taken that saves the most multiply-adds a byte, until nothing more fits or helps.
        """
        costs = np.concatenate([[0.0], np.cumsum(self._costs())])
        sizes = {at: self._bytes(at) for at in sorted(set(starts)) if 0 < at < len(self.flow.nodes)}
        chosen: list[int] = []
        left = float(self.cut_bytes)
        while True:
            gains = {
                at: _saved(costs, [*chosen, at], starts) - _saved(costs, chosen, starts)
                for at, size in sizes.items()
                if at not in chosen and size <= left
            }
            best = max(gains, key=lambda at: (gains[at] / max(1, sizes[at]), -at), default=None)
            if best is None or gains[best] <= 0:
                break
            chosen.append(best)
            left -= sizes[best]
        self.cuts = tuple(sorted(chosen))
        with torch.no_grad():
            for batch in self.batches:
                self._fill(batch)

    def _fill(self, batch: _Batch) -> None:
        batch.cuts, values, place = {}, batch.values, 0
        for cut in self.cuts:
            values, place = self.flow.run(values, place, _NOTHING, stop=cut), cut
            live = set(self.flow.live(cut)) | set(self.flow.inputs)
            batch.cuts[cut] = {node: value for node, value in values.items() if node in live}

    def _original(self) -> None:
        flow, network = self.flow, self.network
        names = [flow.tensor[node] for node in flow.inputs]
        sizes: list[int] = []
        for inputs, labels in network.samples.in_order():
            tensors = [torch.from_numpy(np.array(inputs[name])) for name in names]
            values: Values = dict(zip(flow.inputs, tensors, strict=True))
            first = self.output is None
            made = flow.run(values, 0, _NOTHING, keep=first)
            outputs = flow.outputs(made)
            if first:
                self.output = Output.of(flow.view, outputs, tensors)
                sizes = [_size(made[node]) for node in flow.nodes]
            assert self.output is not None
            wanted = self.output.pick(outputs)
            if not bool(torch.isfinite(wanted).all()):
                layer = first_bad(flow, flow.run(values, 0, _NOTHING, keep=True))
                raise ModelError(f"the original: layer '{layer}' puts out NaN or infinity on the samples")
            self.batches.append(_Batch(values, labels, wanted.clone(), {}))
        self._sizes = sizes

    def _bytes(self, place: int) -> int:
        """Return what the values take that a cut keeps, for all samples; inputs are there anyway."""
        live = [node for node in self.flow.live(place) if node not in self.flow.inputs]
        return sum(self._sizes[self.flow.place[node]] for node in live) * len(self.batches)

    def _costs(self) -> list[float]:
        """Return what each node costs, about: multiply-adds, and what it writes."""
        flow, layers = self.flow, self.network.layers
        found = []
        for at, node in enumerate(flow.nodes):
            name = flow.layer.get(str(node.target), "") if node.op == "call_module" else ""
            written = self._sizes[at] / 4
            weights = layers[name].weight.size / layers[name].output_channels if name in layers else 1.0
            found.append(written * (weights + 8))
        return found


def _saved(costs: Array, cuts: Sequence[int], starts: Sequence[int]) -> float:
    places = np.array(sorted([0, *cuts]))
    return float(costs[places[np.searchsorted(places, np.array(starts), side="right") - 1]].sum())


def _size(value: object) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(_size(part) for part in value) if isinstance(value, tuple | list) else 0
