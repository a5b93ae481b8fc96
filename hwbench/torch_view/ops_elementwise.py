"""Rules of operators that work on each element by itself."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor

RULES.plain(
    {
        "Abs": torch.abs,
        "Acos": torch.acos,
        "Acosh": torch.acosh,
        "Add": torch.add,
        "And": torch.logical_and,
        "Asin": torch.asin,
        "Asinh": torch.asinh,
        "Atan": torch.atan,
        "Atanh": torch.atanh,
        "BitwiseAnd": torch.bitwise_and,
        "BitwiseNot": torch.bitwise_not,
        "BitwiseOr": torch.bitwise_or,
        "BitwiseXor": torch.bitwise_xor,
        "Ceil": torch.ceil,
        "Cos": torch.cos,
        "Cosh": torch.cosh,
        "Equal": torch.eq,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "HardSwish": F.hardswish,
        "Identity": torch.clone,
        "IsNaN": torch.isnan,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "Log": torch.log,
        "Mish": F.mish,
        "Mul": torch.mul,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Or": torch.logical_or,
        "Reciprocal": torch.reciprocal,
        "Relu": torch.relu,
        "Round": torch.round,  # halves to even, as ONNX has it
        "Sigmoid": torch.sigmoid,
        "Sign": torch.sign,
        "Sin": torch.sin,
        "Sinh": torch.sinh,
        "Softsign": F.softsign,
        "Sqrt": torch.sqrt,
        "Sub": torch.sub,
        "Tan": torch.tan,
        "Tanh": torch.tanh,
        "Where": torch.where,
        "Xor": torch.logical_xor,
    }
)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _sum(*terms: Tensor) -> Tensor:
    return functools.reduce(torch.add, terms)


def _mean(*terms: Tensor) -> Tensor:
    return _sum(*terms) / len(terms)


RULES.plain(
    {
        "Div": _divide,
        "Pow": _power,
        "PRelu": _prelu,
        "Softplus": _softplus,
        "Sum": _sum,
        "Mean": _mean,
        "Min": lambda *terms: functools.reduce(torch.minimum, terms),
        "Max": lambda *terms: functools.reduce(torch.maximum, terms),
    }
)


@RULES.on("LeakyRelu")
def _leaky_relu(site: Site) -> Function:
    alpha = site.number("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


@RULES.on("Elu")
def _elu(site: Site) -> Function:
    alpha = site.number("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@RULES.on("Selu")
def _selu(site: Site) -> Function:
    alpha, gamma = site.number("alpha", 1.6732632423543772), site.number("gamma", 1.0507009873554805)
    return lambda x: gamma * F.elu(x, alpha)


@RULES.on("Celu")
def _celu(site: Site) -> Function:
    alpha = site.number("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@RULES.on("HardSigmoid")
def _hard_sigmoid(site: Site) -> Function:
    alpha, beta = site.number("alpha", 0.2), site.number("beta", 0.5)
    return lambda x: torch.clamp(x * alpha + beta, 0.0, 1.0)


@RULES.on("ThresholdedRelu")
def _thresholded_relu(site: Site) -> Function:
    alpha = site.number("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@RULES.on("Shrink")
def _shrink(site: Site) -> Function:
    bias, limit = site.number("bias", 0.0), site.number("lambd", 0.5)

    def shrink(x: Tensor) -> Tensor:
        inside = torch.zeros_like(x)
        return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, inside)).to(x.dtype)

    return shrink


@RULES.on("Gelu")
def _gelu(site: Site) -> Function:
    approximate = site.text("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@RULES.on("Swish")
def _swish(site: Site) -> Function:
    alpha = site.number("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


@RULES.on("Clip")
def _clip(site: Site) -> Function:
    """Bounds that are constants become numbers, by which runtimes know a ReLU6."""
    if all(site.is_constant(index) or not site.has(index) for index in (1, 2)):
        low, high = site.number_of(1, "min"), site.number_of(2, "max")
        if low is None and high is None:
            return torch.clone
        whole = not site.like().is_floating_point()
        bounds = [None if v is None else int(v) if whole and math.isfinite(v) else v for v in (low, high)]
        return lambda x: torch.clamp(x, *bounds)

    def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        above = x if low is None else torch.maximum(x, low)
        return above if high is None else torch.minimum(above, high)

    return clip


@RULES.on("Mod")
def _mod(site: Site) -> Function:
    return torch.fmod if site.integer("fmod", 0) else torch.remainder


@RULES.on("BitShift")
def _bit_shift(site: Site) -> Function:
    return torch.bitwise_left_shift if site.text("direction", "LEFT") == "LEFT" else torch.bitwise_right_shift


@RULES.on("IsInf")
def _is_inf(site: Site) -> Function:
    negative, positive = site.integer("detect_negative", 1), site.integer("detect_positive", 1)
    if negative and positive:
        return torch.isinf
    if not negative and not positive:
        return lambda x: torch.zeros_like(x, dtype=torch.bool)
    return torch.isposinf if positive else torch.isneginf


@RULES.on("Cast")
def _cast(site: Site) -> Function:
    dtype = site.dtype("to", torch.float32)
    return lambda x: x.to(dtype)


@RULES.on("CastLike")
def _cast_like(site: Site) -> Function:
    dtype = site.like(1).dtype
    site.taken.add(1)
    return lambda x: x.to(dtype)


@RULES.on("Dropout")
def _dropout(site: Site) -> Function:
    """Drop nothing unless the module is put into training."""
    ratio = site.number_of(1, "ratio")
    if site.has(2) and site.take(2) is not None and bool(site.take(2)):
        site.refuse("it is set to drop at random in inference")
    share, mask = (0.5 if ratio is None else ratio), site.wants(1)

    def dropout(x: Tensor, training: bool = False) -> Any:
        kept = F.dropout(x, share, training=training)
        return (kept, torch.ones_like(x, dtype=torch.bool)) if mask else kept

    return dropout
