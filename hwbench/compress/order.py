"""Which methods go together, and in which order.

    simplify -> depth -> width -> low-rank -> sparsity -> share -> quantise

Structure comes before values: what is cut, factorised or merged makes new weights, and zeros, codebooks and grids of
the old ones would be lost. ``train`` and ``repair`` methods may stand anywhere before the weights are put on a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hwbench import plugins
from hwbench.compress.base import Compressor, Settings, check_pattern
from hwbench.errors import UsageError
from hwbench.records.compression import Step

STAGES = ("simplify", "depth", "width", "low-rank", "sparsity", "share", "quantise")
ANYWHERE = ("train", "repair")
CUTTING = ("depth", "width", "low-rank", "sparsity")  # what repairs mend

_WHY = {
    "simplify": "its rewrites make new weights, and {later} of the old ones would be lost",
    "depth": "{later} would have worked on layers in vain that are then taken out",
    "width": "channels are judged by their weights, which {later} has changed, and what it made would not fit the cut",
    "low-rank": "its factors are new weights, and the {later} of the old ones would be lost",
    "sparsity": "zeros change weights that {later} has put on a grid",
    "share": "a codebook would take the weights off the grid that {later} has put them on",
}


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A step whose method is there and whose settings are read."""

    step: Step
    compressor: Compressor[Any]
    settings: Settings


def planned(steps: Sequence[Step]) -> list[Planned]:
    """Return the steps with their methods, in their order.

    Raises:
        UsageError: no such method, settings that it does not have, or an order that makes no sense.
        PluginError: a method does not import.
    """
    found = []
    for step in steps:
        compressor: Compressor[Any] = plugins.load("compressors", step.method)
        check_pattern(step.layers, "--layers", "layer1.* or fc[12]")
        found.append(Planned(step=step, compressor=compressor, settings=settings_of(step, compressor)))
    _check_order([(each.step.method, each.compressor.stage) for each in found])
    return found


def settings_of(step: Step, compressor: Compressor[Any]) -> Settings:
    """Read a step's settings.

    Raises:
        UsageError: one is unknown, missing, or not a value that it may have.
    """
    lists = {
        field.encode_name
        for field in msgspec.inspect.type_info(compressor.settings_type).fields  # type: ignore[attr-defined]
        if isinstance(field.type, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType))
    }
    given = {
        name: value.split(",") if name in lists and isinstance(value, str) else value
        for name, value in step.settings.items()
    }
    try:
        return msgspec.convert(given, compressor.settings_type, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        names = ", ".join(compressor.settings_type.__struct_fields__) or "none"
        raise UsageError(
            f"{step.method}: {error}", hint=f"its settings: {names}; `hwbench methods {step.method}`"
        ) from error


def with_repairs(steps: Sequence[Step], which: str) -> tuple[Step, ...]:
    """Return the steps with a repair after each that cuts, unless the user placed one there.

    ``which``: a setting of the method ``repair``, or ``none``.
    """
    if which == "none":
        return tuple(steps)
    stages = [each.compressor.stage for each in planned(steps)]
    found: list[Step] = []
    for number, (step, stage) in enumerate(zip(steps, stages, strict=True)):
        found.append(step)
        following = stages[number + 1] if number + 1 < len(stages) else None
        if stage in CUTTING and following != "repair":
            found.append(Step(method="repair", settings={} if which == "default" else {"which": which}))
    return tuple(found)


def _check_order(methods: Sequence[tuple[str, str]]) -> None:
    last = ("", -1)
    for method, stage in methods:
        if stage in ANYWHERE:
            if last[1] >= STAGES.index("share"):
                raise UsageError(
                    f"{method} cannot come after {last[0]}: it changes weights that {last[0]} has put on a grid",
                    hint=f"put {method} before {last[0]}",
                )
            continue
        if stage not in STAGES:
            raise UsageError(f"{method} is of an unknown stage '{stage}'", hint=f"stages: {', '.join(STAGES)}")
        place = STAGES.index(stage)
        if place < last[1]:
            why = _WHY[stage].format(later=last[0])
            raise UsageError(f"{method} cannot come after {last[0]}: {why}", hint=f"the order is {' -> '.join(STAGES)}")
        last = (method, place)
