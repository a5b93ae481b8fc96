"""The chosen design of each runtime as the two files that make it: a recipe, and a plan of precisions.

``hwbench compress --recipe`` takes the one and ``hwbench build --plan`` the other.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hwbench import plugins
from hwbench.build.plan import wants_ranges
from hwbench.files import write_bytes
from hwbench.inventory import Away, Target
from hwbench.protocols import BuildsElsewhere, Engine
from hwbench.records.base import Missing
from hwbench.records.compression import Step
from hwbench.records.device import NAMES_THERE
from hwbench.records.plan import EnginePlan, Planned, PlanRequest
from hwbench.records.planning import Platform
from hwbench.records.quantization import PrecisionPlan

DESIGNS, RECIPE, PRECISIONS = "designs", "recipe.toml", "precisions.toml"


def with_files(
    engines: Sequence[EnginePlan], request: PlanRequest, target: Target, folder: Path
) -> tuple[EnginePlan, ...]:
    """Write the chosen design of every runtime into a folder of its own, and return the plans with what to type.

    For a device that is not attached that is what to type on the device itself, but where the runtime builds for it
    anywhere.
    """
    shutil.rmtree(folder / DESIGNS, ignore_errors=True)
    return tuple(_with_files(each, request, target, folder) for each in engines)


def _with_files(engine: EnginePlan, request: PlanRequest, target: Target, folder: Path) -> EnginePlan:
    if isinstance(engine.chosen, Missing):
        return engine
    chosen, floating = engine.front[engine.chosen], engine.platform.floating
    place = folder / DESIGNS / (engine.platform.engine + ("" if floating == "auto" else f"-{floating}"))
    place.mkdir(parents=True)
    write_bytes(place / PRECISIONS, precisions_text(chosen.precision).encode())
    if chosen.steps:
        write_bytes(place / RECIPE, recipe_text(chosen.steps).encode())
    device, here = place_of(engine.platform.engine, target)
    commands = _commands(engine.platform, chosen, request, device, place)
    return msgspec.structs.replace(engine, commands=tuple(shlex.join(map(str, each)) for each in commands), here=here)


def _commands(
    platform: Platform, chosen: Planned, request: PlanRequest, device: str, place: Path
) -> Iterator[Sequence[str | Path]]:
    model: str | Path = request.model
    data = ("--data", request.data)
    batch = () if request.batch_size is None else ("--batch-size", str(request.batch_size))
    shapes: tuple[str, ...] = ()
    for name, sizes in request.shapes.items():
        shapes += ("--shapes", f"{name}:{'x'.join(map(str, sizes))}")
    if chosen.steps:
        made = place / "compressed"
        yield "hwbench", "compress", model, "--recipe", place / RECIPE, *shapes, *data, "-o", made
        model = made / "model.onnx"
    where = ("-e", platform.engine, "--device", device)
    ranges = data if wants_ranges(plugins.load("engines", platform.engine), chosen.precision) else ()
    asked = (*where, *batch, *shapes, "--plan", place / PRECISIONS)
    yield "hwbench", "build", model, *asked, *ranges, "-o", place / "built"


def place_of(engine_name: str, target: Target) -> tuple[str, bool]:
    """Return what a device is called where a runtime builds for it, and whether that is on this machine."""
    if not isinstance(target, Away):
        return target.device.name, True
    engine: Engine = plugins.load("engines", engine_name)
    if isinstance(engine, BuildsElsewhere) and engine.builds_for(target.device).usable:
        return target.device.name, True
    return NAMES_THERE.get(target.device.kind, "cpu"), False


def recipe_text(steps: Sequence[Step]) -> str:
    """Return a recipe in TOML."""
    tables = [
        {"method": step.method} | ({"layers": step.layers} if step.layers != ".*" else {}) | dict(step.settings)
        for step in steps
    ]
    return "\n".join(f"[[step]]\n{_lines(table)}" for table in tables)


def precisions_text(plan: PrecisionPlan) -> str:
    """Return a plan of precisions in TOML."""
    head = {"default": plan.default, "floating": plan.floating}
    tables: dict[str, Mapping[str, Any]] = {"layers": plan.layers, "kernels": plan.kernels}
    return _lines(head) + "".join(f"\n[{name}]\n{_lines(table)}" for name, table in tables.items() if table)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{json.dumps(name)} = {_value(value)}\n" for name, value in table.items())


def _value(value: Any) -> str:
    """Return a value as TOML writes it: strings, numbers and truth as JSON does, tables with an equals sign."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_value(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    return json.dumps(value)
