"""Rules of operators that work on each element for itself, with broadcasting."""

from __future__ import annotations

from hwbench.structure.trace import At, Labels, stays

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
LIKE_FIRST = ("CastLike", "Clip", "Dropout")  # the other inputs are numbers, or give a type
BROADCAST = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip


def unary(at: At) -> None:
    """Every output is shaped like the first input."""
    for index, value in enumerate(at.node.outputs):
        if value.name:
            at.set(at.labels(0), index)


def broadcast(at: At) -> None:
    """Labels of computed inputs are the same thing where they meet; constants are cut along."""
    shape = at.out_shape()
    result = [_joined(at, axis - len(shape), size) for axis, size in enumerate(shape)]
    at.set(result)
    for index in range(len(at.node.inputs)):
        if at.has(index) and not at.computed(index):
            sizes = at.shape(index)
            for axis in range(-len(sizes), 0):
                if sizes[axis] == shape[axis] and sizes[axis] > 1:
                    at.constant(index, axis, result[axis])


def _joined(at: At, axis: int, size: int) -> Labels:
    """Return the labels of an axis of the result, counted from the last one."""
    full: list[Labels] = []
    for index in range(len(at.node.inputs)):
        if not at.computed(index) or len(at.shape(index)) < -axis:
            continue
        labels = at.labels(index)[axis]
        if len(labels) == size:
            full.append(labels)
        else:
            at.lock(labels, "broadcast", "spreads this one channel over several")
    for other in full[1:]:
        at.unify(full[0], other)
    return full[0] if full else stays(size)
