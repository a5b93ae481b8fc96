"""Precision plans: from a word, from a file, and with layers that are to stay in floating point.

A plan file is TOML::

    default = "int8"        # float, int8, int8-dynamic, int8-weights, int4-weights, fp8
    floating = "auto"       # of what is not quantised: auto, fp32, tf32, fp16, bf16

    [layers]                # by the names that `hwbench profile --layers` shows
    "conv1/Conv" = "float"

    [kernels]               # layers that a sparse kernel runs, where the engine takes kernels: docs/sparse.md
    "blocks.0.fc1" = "vw16"
"""

from __future__ import annotations

import difflib
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import msgspec

from hwbench.errors import UsageError
from hwbench.protocols import ReadsRanges
from hwbench.records.model import Model
from hwbench.records.quantization import PRECISIONS, Floating, PrecisionPlan, Scheme
from hwbench.sparse.formats import FORMATS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


def plan_for(precision: str) -> PrecisionPlan:
    """Return the plan that gives every layer one precision, which is one of :data:`PRECISIONS`.

    Raises:
        UsageError: it is none.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"nothing can be built in '{precision}'", hint=f"known: {', '.join(PRECISIONS)}")
    if precision in get_args(Scheme):
        return PrecisionPlan(default=cast("Scheme", precision))
    return PrecisionPlan(default="float", floating=cast("Floating", precision))


def wants_ranges(engine: object, plan: PrecisionPlan) -> bool:
    """Say whether an engine builds a plan better with the ranges of activations, or cannot build it without."""
    return plan.needs_ranges or (isinstance(engine, ReadsRanges) and plan.floating in engine.reads_ranges_of)


def reads_ranges(engine: object, plan: PrecisionPlan, model: Model) -> bool:
    """Say whether an engine reads the ranges of a network of which nothing is quantised: in fp32, of a fixed batch."""
    able = model.arithmetic == "fp32" and isinstance(model.batch_size, int)
    return able and not plan.needs_ranges and wants_ranges(engine, plan)


def read_plan(path: Path) -> PrecisionPlan:
    """Read a plan file.

    Raises:
        UsageError: it is not there, no TOML, or holds what is not known.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), PrecisionPlan)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"--plan '{path}': {error}", hint="docs/build.md shows a plan") from error


def settled(plan: PrecisionPlan, model: Model, keep_float: Sequence[str]) -> PrecisionPlan:
    """Hold a plan against the layers of a model, and add those that are to stay in floating point.

    Args:
        plan: the plan, by layer names.
        model: the network.
        keep_float: names of layers; ``*`` and ``?`` stand for any characters.

    Raises:
        UsageError: a name stands for no layer, and the message says what is near; or a sparse format is unknown.
    """
    names = [layer.name for layer in model.layers]
    for name in (*plan.layers, *plan.kernels):
        if name not in names:
            raise _unknown(f"the plan names a layer '{name}'", name, names)
    unknown = sorted(set(plan.kernels.values()) - set(FORMATS))
    if unknown:
        raise UsageError(f"there is no sparse format '{unknown[0]}'", hint=f"known: {', '.join(FORMATS)}")
    kept: dict[str, Scheme] = {}
    for pattern in keep_float:
        found = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise _unknown(f"--keep-float '{pattern}' stands for no layer", pattern, names)
        kept.update(dict.fromkeys(found, "float"))
    return msgspec.structs.replace(plan, layers=plan.layers | kept)


def _unknown(what: str, name: str, names: Sequence[str]) -> UsageError:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or list(names[:3])
    return UsageError(f"{what}, and the model has no such layer", hint=f"it has, among {len(names)}: {', '.join(near)}")
