"""Rules of operators that join, part, pick, pad and repeat."""

from __future__ import annotations

import numpy as np

from hwbench.structure.trace import At, Labels, stays


def concat(at: At) -> None:
    """Channels lie behind each other; across the other axes all inputs are the same thing."""
    count = len(at.out_shape())
    axis = at.integer("axis", 0) % count
    given = range(len(at.node.inputs))
    computed = [index for index in given if at.computed(index)]
    labels = {index: list(at.labels(index)) for index in given}
    loose = any((labels[index][axis] >= 0).any() for index in computed)
    for index in given:
        for place in range(count):
            if place != axis and index in computed:
                at.unify(labels[computed[0]][place], labels[index][place])
            elif place != axis:
                at.constant(index, place, labels[computed[0]][place])
        if index not in computed and loose:
            labels[index][axis] = at.trace.fresh(at.shape(index)[axis])
            at.constant(index, axis, labels[index][axis])
    joined = np.concatenate([labels[index][axis] for index in given])
    at.set([joined if place == axis else labels[computed[0]][place] for place in range(count)])


def split(at: At) -> None:
    """Each output has its part of the channels."""
    labels = at.labels(0)
    axis, start = at.integer("axis", 0) % len(labels), 0
    at.integers("split", 1)  # computed sizes have no rule
    for index in range(len(at.node.outputs)):
        size = at.out_shape(index)[axis]
        at.set([*labels[:axis], labels[axis][start : start + size], *labels[axis + 1 :]], index)
        start += size


def slice_(at: At) -> None:
    """A range of channels; in steps only of what stays."""
    labels = list(at.labels(0))
    for axis, part in ranges(at).items():
        if part.step not in {None, 1} and (labels[axis] >= 0).any():
            at.lock(labels[axis], "step", "takes every other one of it")
            labels[axis] = stays(len(labels[axis]))
        labels[axis] = labels[axis][part]
    at.set(labels)


def ranges(at: At) -> dict[int, slice]:
    """Return what a Slice takes, by axis."""
    starts, ends = at.integers("starts", 1) or [], at.integers("ends", 2) or []
    axes, steps = at.integers("axes", 3), at.integers("steps", 4)
    count = len(at.shape(0))
    found: dict[int, slice] = {}
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[place] if axes else place) % count
        step = steps[place] if steps else 1
        found[axis] = _range(start, end, step, at.shape(0)[axis])
    return found


def _range(start: int, end: int, step: int, size: int) -> slice:
    """Return ONNX's range as Python's: an end before the first element is not counted from behind once more."""
    first, last, step = slice(start, end, step).indices(size)
    if step < 0:
        last = max(-1, min(end + size if end < 0 else end, size - 1))
        return slice(first, None if last < 0 else last, step)
    return slice(first, last, step)


def pad(at: At) -> None:
    """New channels of a constant may go for themselves; those of other modes are copies."""
    labels = list(at.labels(0))
    before, after = paddings(at)
    mode = at.node.attributes.get("mode")
    constant = mode is None or mode.as_string() == "constant"
    for axis, (front, back) in enumerate(zip(before, after, strict=True)):
        if front == back == 0:
            continue
        if (labels[axis] < 0).all():
            labels[axis] = stays(len(labels[axis]) + front + back)
        elif not constant or front < 0 or back < 0:
            at.lock(labels[axis], "padding", "pads its channels with copies of others, or crops them")
            labels[axis] = stays(len(labels[axis]) + front + back)
        else:
            labels[axis] = np.concatenate((at.trace.fresh(front), labels[axis], at.trace.fresh(back)))
    at.set(labels)


def paddings(at: At) -> tuple[list[int], list[int]]:
    """Return how much a Pad adds in front of and behind each axis."""
    amounts, axes, count = at.integers("pads", 1) or [], at.integers("axes", 3), len(at.shape(0))
    before, after = [0] * count, [0] * count
    for place, axis in enumerate(axes if axes is not None else range(count)):
        before[axis % count], after[axis % count] = amounts[place], amounts[place + len(amounts) // 2]
    return before, after


def expand(at: At) -> None:
    """Copies along an axis of one element stay; the other axes go through."""
    at.integers("shape", 1)
    at.set(spread(at, at.labels(0), at.out_shape()))


def spread(at: At, labels: list[Labels], shape: tuple[int, ...]) -> list[Labels]:
    """Return labels broadcast to a shape.."""
    labels = [*(stays(1) for _ in range(len(shape) - len(labels))), *labels]
    result: list[Labels] = []
    for one, size in zip(labels, shape, strict=True):
        if len(one) != size:
            at.lock(one, "broadcast", "spreads this one channel over several")
        result.append(one if len(one) == size else stays(size))
    return result


def tile(at: At) -> None:
    """The same channels again; they go together."""
    repeats = at.integers("repeats", 1) or []
    at.set([np.tile(labels, count) for labels, count in zip(at.labels(0), repeats, strict=True)])


def resize(at: At) -> None:
    """Axes that keep their size go through."""
    result = []
    for labels, size in zip(at.labels(0), at.out_shape(), strict=True):
        if len(labels) != size:
            at.lock(labels, "resized", "resizes it")
        result.append(labels if len(labels) == size else stays(size))
    at.set(result)
