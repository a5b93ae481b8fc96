"""What a layer gets now beside what it should put out: statistics for least squares, both networks in one pass.

Every batch goes through the original and then through the network as it is. Of each layer the same positions are
taken: rows x of what its weights are multiplied with now, and the outputs t that the original had there. E[x x^T],
E[t x^T] and the moments of t are all that least squares needs. Rows are sampled as in
:mod:`hwbench.compress.statistics.grams`.

``own=False`` takes for x what the layer read in the original, without what was cut of it: then only the original runs,
and layers can be solved for all at once, since none depends on what becomes of those before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hwbench.compress.base import Array, Subject
from hwbench.compress.repair.match import Match, Source
from hwbench.compress.repair.norm import MEAN, SHIFT
from hwbench.compress.statistics.grams import LEAST_ROWS, PER_INPUT, Gram, Sums
from hwbench.compress.statistics.rows import Rows, draw, spread_evenly
from hwbench.compress.statistics.watch import Hook, passes, shortened, watching
from hwbench.errors import ModelError
from hwbench.torch_view.tables import input_names

Tensor = torch.Tensor
Look = Callable[[Any], None]  # at a tensor


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Statistics of one layer: rows x, and targets t for its output before any BatchNormalization behind it.

    ``cross``: E[t x^T], groups x outputs of a group x d. ``mean``, ``square``: E[t] and E[t^2], one a channel.
    ``usable``: whether the target of a channel is known; not where a BatchNormalization multiplies it by nearly zero.
    """

    gram: Gram
    cross: Array
    mean: Array
    square: Array
    usable: Array


def paired(
    subject: Subject,
    matches: Sequence[Match],
    *,
    own: bool = True,
    per_input: float | None = PER_INPUT,
    least: int = LEAST_ROWS,
) -> Iterator[tuple[Match, Pair]]:
    """Go through the samples once, and return the statistics of each layer; those of a layer are freed when given.

    Raises:
        UsageError: there are no samples.
        ModelError: an input or a target of a layer holds NaN or infinity.
    """
    batches = subject.need_samples("least squares").batches
    sums = [_OfLayer.start(subject, one, index, own, per_input, least) for index, one in enumerate(matches)]
    if not sums:
        return
    views = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for view, eyes in ((subject.teacher(), _OfLayer.teacher_eyes), (subject.view(), _OfLayer.eyes)):
            wanted = [eye for one in sums for eye in eyes(one)]
            if wanted:
                views.append(shortened(view, {name for name, _ in wanted}))
                stack.enter_context(watching(views[-1], wanted))
        for index, (batch, _) in enumerate(passes(subject, "least squares")):
            named = dict(zip(input_names(views[0]), batch, strict=True))
            for one in sums:
                one.begin(index, batches, named)
            for view in views:
                view(*batch)
            for one in sums:
                one.end()
    while sums:
        last = sums.pop(0)
        yield last.match, last.result()


def pair_of(
    subject: Subject,
    one: Match,
    given: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    per_input: float | None,
    least: int,
) -> Pair:
    """Return the statistics of a layer from what it reads and what it should put out, batch by batch.

    Args:
        subject: the network.
        one: the layer. A target stands for its output, or for that of the BatchNormalization behind it.
        given: what it reads, whole.
        targets: of the shape of its output.
        per_input: how many rows are drawn for each element of a row; None takes all.
        least: at least so many rows are drawn, where there are so many.

    Raises:
        ModelError: there is NaN or infinity in them.
    """
    sums = _OfLayer.start(subject, one, 0, own=True, per_input=per_input, least=least)
    for index, (x, target) in enumerate(zip(given, targets, strict=True)):
        sums.add(x, target, index, len(given))
    return sums.result()


@dataclass
class _OfLayer:
    match: Match
    own: bool
    rows: Rows
    count: int  # rows of a batch
    limit: int
    rng: np.random.Generator
    device: str
    total: Sums
    cross: Tensor
    moments: Tensor  # sums of t and of t^2
    affine: tuple[Tensor, Tensor, Tensor] | None  # of the BatchNormalization behind it, backwards: shift, factor, mean
    usable: Tensor
    where: Tensor = field(default_factory=lambda: torch.zeros(0))
    target: Tensor | None = None
    x: Tensor | None = None
    of: int = 0

    @classmethod
    def start(
        cls, subject: Subject, one: Match, index: int, own: bool, per_input: float | None, least: int
    ) -> _OfLayer:
        rows, channels = Rows(one.layer), one.layer.output_channels
        shape = one.layer.output.shape
        assert shape is not None
        total = Sums(one.layer.groups, rows.width, torch.device(subject.device))
        count = int(np.prod(shape.numpy())) // channels
        cross = total.matrix.new_zeros(one.layer.groups, channels // one.layer.groups, rows.width)
        affine, usable = _backwards(one, subject.device)
        return cls(
            match=one,
            own=own,
            rows=rows,
            count=count,
            limit=1 << 62 if per_input is None else max(least, round(per_input * rows.width)),
            rng=np.random.default_rng([subject.seed, index]),
            device=subject.device,
            total=total,
            cross=cross,
            moments=torch.zeros(2, channels, dtype=torch.float64, device=subject.device),
            affine=affine,
            usable=usable,
        )

    def begin(self, index: int, batches: int, given: Mapping[str, Tensor]) -> None:
        """Choose the positions of a batch; ``given``: the inputs of the network."""
        self.where = draw(self.count, spread_evenly(self.limit, batches, index), self.rng).to(self.device)
        self.of += self.count
        for source, look in self._sources():
            if source.node is None:
                look(given[source.tensor])

    def add(self, x: Tensor, target: Tensor, index: int, batches: int) -> None:
        """Take a batch in, given all of it."""
        self.where = draw(self.count, spread_evenly(self.limit, batches, index), self.rng).to(self.device)
        self.of += self.count
        self.x, self.target = self.rows.inputs(x, self.where).float(), self._of_output(target)
        self._add()

    def teacher_eyes(self) -> list[tuple[str, Hook]]:
        return [(source.node, _hook(look)) for source, look in self._sources() if source.node is not None]

    def eyes(self) -> list[tuple[str, Hook]]:
        return [(self.match.layer.name, self._see)] if self.own else []

    def end(self) -> None:
        """Take the last batch in, where only the original was looked at."""
        if not self.own:
            self._add()

    def result(self) -> Pair:
        matrix, mean, rows = self.total.means()
        name = self.match.layer.name
        if not np.isfinite(mean).all() or not torch.isfinite(self.moments).all():
            raise ModelError(f"the inputs of layer '{name}', or what it should put out, hold NaN or infinity")
        moments = (self.moments / rows).cpu().numpy()
        return Pair(
            gram=Gram(matrix=matrix, mean=mean, rows=rows, of=self.of),
            cross=(self.cross / rows).cpu().numpy(),
            mean=moments[0],
            square=moments[1],
            usable=self.usable.cpu().numpy(),
        )

    def _sources(self) -> list[tuple[Source, Look]]:
        """Return the tensors of the original that are looked at, and who looks at each."""
        sources: list[tuple[Source, Look]] = [(self.match.source, self._takes(self.match.source))]
        if not self.own:
            assert isinstance(self.match.reads, Source)
            sources.append((self.match.reads, self._reads(self.match.reads)))
        return sources

    def _takes(self, source: Source) -> Look:
        def look(result: Any) -> None:
            rows = self._of_output(source.of(result))
            self.target = rows if source.left is None else rows[:, torch.from_numpy(source.left).to(rows.device)]

        return look

    def _reads(self, source: Source) -> Look:
        def look(result: Any) -> None:
            x = source.of(result)
            if source.left is not None:
                x = x.index_select(source.axis, torch.from_numpy(source.left).to(x.device))
            self.x = self.rows.inputs(x, self.where).float()

        return look

    def _see(self, _module: torch.nn.Module, given: tuple[Tensor, ...], _output: Any) -> None:
        self.x = self.rows.inputs(given[0], self.where).float()
        self._add()

    def _of_output(self, y: Tensor) -> Tensor:
        """Return the chosen positions of a tensor that has the layer's axes: rows x channels."""
        return self.rows.outputs(y, self.where).float()

    def _add(self) -> None:
        assert self.x is not None
        assert self.target is not None
        t = self.target.to(self.cross.dtype)
        if self.affine is not None:
            shift, factor, mean = self.affine
            t = (t - shift) / factor + mean
        t = torch.where(self.usable, t, 0)
        grouped = t.reshape(len(t), self.match.layer.groups, -1).movedim(1, 0)
        self.cross += grouped.to(self.cross.dtype).transpose(1, 2) @ self.x.to(self.cross.dtype)
        self.moments[0] += t.sum(dim=0, dtype=torch.float64)
        self.moments[1] += t.double().square().sum(dim=0)
        self.total.add(self.x)
        self.x = self.target = None


def _hook(look: Look) -> Hook:
    return lambda _module, _given, result: look(result)


def _backwards(one: Match, device: str) -> tuple[tuple[Tensor, Tensor, Tensor] | None, Tensor]:
    """Return the numbers that lead from the output of the BatchNormalization behind a layer back to its input."""
    if one.norm is None:
        return None, torch.ones(one.layer.output_channels, dtype=torch.bool, device=device)
    factor = torch.from_numpy(one.norm.factor).float().to(device)
    usable = factor.abs() > 1e-4 * factor.abs().max()
    shift, mean = (torch.from_numpy(one.norm.get(which)).float().to(device) for which in (SHIFT, MEAN))
    return (shift, torch.where(usable, factor, 1), mean), usable
