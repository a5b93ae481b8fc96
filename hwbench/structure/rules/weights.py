"""Rules of operators with weights: what they read, and the channels that they make."""

from __future__ import annotations

import numpy as np

from hwbench.structure.trace import At, Labels, stays


def conv(at: At) -> None:
    """Rows of the weights make channels; with groups, see :func:`_grouped`."""
    if not _constant_weights(at):
        return
    weight, groups = at.shape(1), at.integer("group", 1)
    into = at.labels(0)[1]
    if groups == 1:
        made = at.trace.fresh(weight[0])
        at.constant(1, 1, into, weight=True)
    else:
        made, inner = _grouped(at, into, groups, weight[0])
        if inner is not None:
            at.constant(1, 1, inner, weight=True)
    at.constant(1, 0, made, weight=True)
    _spatial(at, into, made)


def conv_transpose(at: At) -> None:
    """Like a convolution, with the weights' axes the other way round."""
    if not _constant_weights(at):
        return
    weight, groups = at.shape(1), at.integer("group", 1)
    into = at.labels(0)[1]
    if groups == 1:
        made = at.trace.fresh(weight[1])
        at.constant(1, 1, made, weight=True)
    else:
        made, inner = _grouped(at, into, groups, weight[1] * groups)
        if inner is not None:
            at.constant(1, 1, made[: weight[1]], weight=True)
    at.constant(1, 0, into, weight=True)
    _spatial(at, into, made)


def _spatial(at: At, into: Labels, made: Labels) -> None:
    if at.has(2):
        at.constant(2, 0, made)
    at.trace.consumed[at.node] = into
    at.trace.produced[at.node] = made
    at.set([at.labels(0)[0], made, *(stays(size) for size in at.out_shape()[2:])])


def _grouped(at: At, into: Labels, groups: int, outputs: int) -> tuple[Labels, Labels | None]:
    """Return labels of the outputs, and of the inputs of a group; None where only whole groups are removed.

    Either each group loses the same places, and inputs and outputs are apart; or whole groups go, inputs and outputs
    together. With one input a group, only the latter is possible.
    """
    inputs = len(into) // groups
    choice = at.trace.choose(at.node, 1 if inputs == 1 else 2)
    if inputs == 1 or choice.taken == 1:
        whole = at.trace.fresh(groups)
        at.unify(into, np.repeat(whole, inputs))
        choice.labels.append(whole)
        return np.repeat(whole, outputs // groups), None
    inner, made = at.trace.fresh(inputs), at.trace.fresh(outputs // groups)
    at.unify(into, np.tile(inner, groups))
    choice.labels += [inner, made]
    return np.tile(made, groups), inner


def gemm(at: At) -> None:
    """A matrix product of two axes each, with a bias that is broadcast."""
    rows, columns = (1, 0) if at.integer("transA", 0) else (0, 1)
    inner, outer = (1, 0) if at.integer("transB", 0) else (0, 1)
    into = at.labels(0)[columns]
    if at.computed(0) and not at.computed(1):
        made = at.trace.fresh(at.shape(1)[outer])
        at.constant(1, inner, into, weight=True)
        at.constant(1, outer, made, weight=True)
        at.trace.consumed[at.node] = into
        at.trace.produced[at.node] = made
    else:
        made = at.labels(1)[outer]
        at.unify(into, at.labels(1)[inner])
    out = [at.labels(0)[rows], made]
    at.set(out)
    _gemm_bias(at, out)


def _gemm_bias(at: At, out: list[Labels]) -> None:
    if not at.has(2):
        return
    shape = at.shape(2)
    for axis in range(-len(shape), 0):
        if at.computed(2) and shape[axis] == len(out[axis]):
            at.unify(at.labels(2)[axis], out[axis])
        elif at.computed(2):
            at.lock(at.labels(2)[axis], "broadcast", "spreads this one channel over several")
        elif shape[axis] == len(out[axis]) > 1:
            at.constant(2, axis, out[axis])


def matmul(at: At) -> None:
    """By constant weights it makes channels; of two computed tensors it is attention, and its batch axes are heads.

    What attention sums over stays: nothing with weights reads it, which could be said to see zeros there.
    """
    if at.computed(0) and not at.computed(1) and len(at.shape(1)) <= 2:
        _by_weights(at)
    elif min(len(at.shape(0)), len(at.shape(1))) < 2 or not (at.computed(0) and at.computed(1)):
        for index in (0, 1):
            for labels in at.labels(index) if at.computed(index) else []:
                at.lock(labels, "no_rule", "is a product with a constant of a form without a rule")
    else:
        _of_two(at)


def _by_weights(at: At) -> None:
    *batch, into = at.labels(0)
    at.constant(1, 0, into, weight=True)
    at.trace.consumed[at.node] = into
    if len(at.shape(1)) == 1:
        at.set(batch)
        return
    made = at.trace.fresh(at.shape(1)[1])
    at.constant(1, 1, made, weight=True)
    at.trace.produced[at.node] = made
    at.set([*batch, made])


def _of_two(at: At) -> None:
    one, other, shape = at.labels(0), at.labels(1), at.out_shape()
    for labels in (one[-1], other[-2]):
        at.lock(labels, "mixed", "sums over it")
    batch: list[Labels] = []
    for axis in range(-len(shape), -2):
        sides = [side[axis] for side in (one, other) if len(side) >= -axis]
        full = [labels for labels in sides if len(labels) == shape[axis]]
        for labels in sides:
            if len(labels) != shape[axis]:
                at.lock(labels, "broadcast", "spreads this one channel over several")
        if len(full) == 2:
            at.unify(full[0], full[1])
        batch.append(full[0])
    at.trace.heads += batch
    at.set([*batch, one[-2], other[-1]])


def gather(at: At) -> None:
    """Rows of a constant table make channels (an embedding); constant places of a computed tensor pick channels."""
    axis = at.integer("axis", 0) % len(at.shape(0))
    if at.computed(0):
        _picked(at, axis)
        return
    table, places = at.shape(0), at.labels(1)
    made = [at.trace.fresh(size) if place != axis else stays(size) for place, size in enumerate(table)]
    for place, labels in enumerate(made):
        at.constant(0, place, labels, weight=True)
        at.trace.embedded.append(labels)
    at.set([*made[:axis], *places, *made[axis + 1 :]])


def _picked(at: At, axis: int) -> None:
    labels, places = at.labels(0), at.array(1)
    picked: list[Labels] = [stays(size) for size in at.shape(1)]
    if places is None:
        at.lock(labels[axis], "index", "picks from it by computed places")
    elif places.ndim == 1:
        picked = [labels[axis][places]]
    else:
        at.lock(labels[axis], "index", "picks from it by fixed places")
    at.set([*labels[:axis], *picked, *labels[axis + 1 :]])


def _constant_weights(at: At) -> bool:
    """Say whether only input 0 is computed; lock all that is read, where not."""
    if at.computed(0) and not at.computed(1) and not at.computed(2):
        return True
    for index in range(len(at.node.inputs)):
        for labels in at.labels(index) if at.computed(index) else []:
            at.lock(labels, "computed_weights", "has weights that are computed")
    return False
