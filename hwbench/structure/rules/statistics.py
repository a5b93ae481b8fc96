"""Rules of operators that take means over an axis: what is normalised or reduced over must stay whole."""

from __future__ import annotations

import numpy as np

from hwbench.structure.trace import At, stays


def batch_norm(at: At) -> None:
    """Each channel has numbers of its own; outputs of new statistics have no rule."""
    _refuse_second_outputs(at, "puts out statistics")
    per_channel(at, range(1, 5))


def instance_norm(at: At) -> None:
    """Each channel has a scale and a shift of its own, and its own statistics."""
    per_channel(at, range(1, 3))


def per_channel(at: At, constants: range) -> None:
    """Channels on axis 1 go through; constants of one number a channel are cut along."""
    channels = at.labels(0)[1]
    for index in constants:
        if at.computed(index):
            at.unify(channels, at.labels(index)[0])
        elif at.has(index):
            at.constant(index, 0, channels)
    at.set(at.labels(0))


def group_norm(at: At) -> None:
    """Statistics are those of a group, so that only whole groups can go."""
    channels, groups = at.labels(0)[1], at.integer("num_groups", 1)
    whole = at.trace.fresh(groups)
    at.unify(channels, np.repeat(whole, len(channels) // groups))
    for index in (1, 2):
        if at.computed(index):
            at.lock(channels, "computed_weights", "has a computed scale or shift")
        elif at.has(index):
            at.constant(index, 0, channels if at.shape(index)[0] == len(channels) else whole)
    at.set(at.labels(0))


def layer_norm(at: At) -> None:
    """What is normalised over must stay: without some of the channels the statistics would be others."""
    labels = at.labels(0)
    first = at.integer("axis", -1) % len(labels)
    for axis in labels[first:]:
        at.lock(axis, "statistics", "normalises over it: with fewer channels, mean and variance would be others")
    at.set(labels)
    for index, value in enumerate(at.node.outputs):
        if index and value.name:
            at.set([*labels[:first], *(stays(1) for _ in labels[first:])], index)


def softmax(at: At) -> None:
    """What is normalised over must stay."""
    labels, old = at.labels(0), at.trace.known.opset < 13
    first = at.integer("axis", 1 if old else -1) % len(labels)
    for axis in labels[first:] if old else labels[first : first + 1]:
        at.lock(axis, "statistics", "normalises over it")
    at.set(labels)


def reduce(at: At) -> None:
    """What is reduced over must stay: a mean of fewer channels is another number."""
    labels = at.labels(0)
    given = at.integers("axes", 1)
    everything = not given and not at.integer("noop_with_empty_axes", 0)
    _reduced(at, set(range(len(labels))) if everything else {axis % len(labels) for axis in given or ()})


def arg(at: At) -> None:
    """The place of the largest or smallest along an axis."""
    _reduced(at, {at.integer("axis", 0) % len(at.labels(0))})


def _reduced(at: At, over: set[int]) -> None:
    labels = at.labels(0)
    for axis in over:
        at.lock(labels[axis], "mixed", "reduces over it: its result depends on all channels")
    kept = [stays(1) if axis in over else labels[axis] for axis in range(len(labels))]
    at.set(kept if at.integer("keepdims", 1) else [kept[axis] for axis in range(len(labels)) if axis not in over])


def pool(at: At) -> None:
    """Channels go through; space does not, and places of maxima count channels too."""
    _refuse_second_outputs(at, "puts out places that count channels")
    at.set([*at.labels(0)[:2], *(stays(size) for size in at.out_shape()[2:])])


def _refuse_second_outputs(at: At, why: str) -> None:
    if any(value.uses() or value.is_graph_output() for value in at.node.outputs[1:]):
        for labels in at.labels(0):
            at.lock(labels, "no_rule", why)
