"""Rules of operators that give the same elements other axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from hwbench.structure.trace import At, Labels, stays


def reshape(at: At) -> None:
    """Flatten, Reshape, Squeeze, Unsqueeze: axes are merged, parted, or both one behind the other."""
    before, after = at.shape(0), at.out_shape()
    labels, result = at.labels(0), [stays(size) for size in after]
    if math.prod(before) == 0:
        _lock_all(at, labels)
    else:
        for sources, targets in factored(before, after):
            _carry(at, labels, sources, targets, result)
    at.set(result)


def factored(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Go through the smallest runs of axes with the same number of elements; axes of one element are in none.

    ``(2, 6, 4) -> (2, 2, 3, 4)`` gives ``([0], [0]), ([1], [1, 2]), ([2], [3])``.
    """
    sources = [axis for axis, size in enumerate(before) if size != 1]
    targets = [axis for axis, size in enumerate(after) if size != 1]
    while sources:
        left, right = [sources.pop(0)], [targets.pop(0)]
        while (one := math.prod(before[axis] for axis in left)) != (other := math.prod(after[axis] for axis in right)):
            if one < other:
                left.append(sources.pop(0))
            else:
                right.append(targets.pop(0))
        yield left, right


def _carry(at: At, labels: list[Labels], sources: list[int], targets: list[int], result: list[Labels]) -> None:
    loose = [axis for axis in sources if (labels[axis] >= 0).any()]
    if not loose:
        return
    if len(sources) == len(targets) == 1:
        result[targets[0]] = labels[sources[0]]
    elif len(targets) == 1 and len(loose) == 1:
        result[targets[0]] = _merged(labels, sources, loose[0])
    elif len(sources) == 1:
        _part(at, labels[sources[0]], targets, result)
    else:
        _lock_all(at, [labels[axis] for axis in sources])


def _merged(labels: list[Labels], sources: list[int], loose: int) -> Labels:
    """Return the labels of several axes as one: each index goes with its place on the one axis that may be cut."""
    shape = tuple(len(labels[axis]) for axis in sources)
    along = [1] * len(sources)
    along[sources.index(loose)] = len(labels[loose])
    return np.broadcast_to(labels[loose].reshape(along), shape).reshape(-1)


def _part(at: At, labels: Labels, targets: list[int], result: list[Labels]) -> None:
    """Let one of the new axes carry the labels: one that needs no two of them to be the same thing, or the outermost.

    Where the outermost turns out to be locked, or all one thing, the next is tried.
    """
    block = labels.reshape([len(result[axis]) for axis in targets])
    for place, axis in enumerate(targets):
        rows = np.moveaxis(block, place, 0).reshape(block.shape[place], -1)
        if (rows == rows[:, :1]).all():
            result[axis] = rows[:, 0]
            return
    choice = at.trace.choose(at.node, len(targets))
    rows = np.moveaxis(block, choice.taken, 0).reshape(block.shape[choice.taken], -1)
    for column in range(1, rows.shape[1]):
        at.unify(rows[:, 0], rows[:, column])
    choice.labels.append(rows[:, 0])
    result[targets[choice.taken]] = rows[:, 0]


def _lock_all(at: At, labels: list[Labels]) -> None:
    for axis in labels:
        at.lock(axis, "reshape", "mixes it with other axes in a way that cannot be followed")


def transpose(at: At) -> None:
    """Axes change places."""
    labels = at.labels(0)
    permutation = at.node.attributes.get("perm")
    order = permutation.as_ints() if permutation is not None else tuple(reversed(range(len(labels))))
    at.set([labels[axis] for axis in order])


def depth_to_space(at: At) -> None:
    """A channel comes from a block of channels, which go together."""
    block = at.integer("blocksize", 1) ** 2
    batch, channels = at.labels(0)[:2]
    mode = at.node.attributes.get("mode")
    crossed = mode is not None and mode.as_string() == "CRD"
    rows = channels.reshape(-1, block) if crossed else channels.reshape(block, -1).T
    for column in range(1, block):
        at.unify(rows[:, 0], rows[:, column])
    at.set([batch, rows[:, 0], *(stays(size) for size in at.out_shape()[2:])])


def space_to_depth(at: At) -> None:
    """A channel becomes a block of channels, which go together."""
    block = at.integer("blocksize", 1) ** 2
    batch, channels = at.labels(0)[:2]
    at.set([batch, np.tile(channels, block), *(stays(size) for size in at.out_shape()[2:])])
