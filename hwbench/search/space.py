"""A space file: what is searched, and between which bounds.

    [runtime]
    engine = ["onnxruntime", "openvino"]              # a list: one of these
    precision = ["fp32", "int8"]
    threads = { low = 1, high = 4 }                   # whole numbers; step, log
    [calibration]
    estimator = ["mse", "percentile"]
    percentile = { low = 99.9, high = 99.999, when = { estimator = "percentile" } }
    [model]                                           # arguments of net.py:make
    width = { low = 0.25, high = 1.0, step = 0.25 }
    [training]                                        # of the network from its first weights, on --data
    epochs = 5                                        # one value: fixed
    learning_rate = { low = 1e-3, high = 0.3, log = true }
    [compression.cut]                                 # steps in their order; settings of the method
    method = "width"
    amount = [0.25, 0.5]
    [recovery]                                        # of what compression has cost, with the original as teacher
    epochs = [0, 2]

A number with a point at either end, or in its step, is a float. ``when`` names parameters of the same section by
themselves and others with their section.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwbench.errors import UsageError
from hwbench.records.search import Parameter, Scalar, SearchSpace, SpaceStep
from hwbench.search.fields import check_values, section_fields

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

SECTIONS = ("runtime", "calibration", "model", "training", "compression", "recovery")
_KEYS = {"values", "low", "high", "step", "log", "when"}
_DOCS = "docs/plan/search.md shows a space file"


def read_space(path: Path, *, threads: int) -> SearchSpace:
    """Read a space file.

    Args:
        path: the file.
        threads: of inference, where the file does not say.

    Raises:
        UsageError: it is not there, no TOML, or holds what is not known; the message names the parameter.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--space '{path}': {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--space '{path}' is not TOML: {error}") from error
    try:
        return space_of(given, threads=threads)
    except UsageError as error:
        raise UsageError(f"--space '{path}': {error.message}", hint=error.hint or _DOCS) from error


def space_of(given: Mapping[str, Any], *, threads: int) -> SearchSpace:
    """Return the space that the tables of a space file describe; see :func:`read_space`."""
    for section, table in given.items():
        if section not in SECTIONS:
            raise UsageError(f"there is no section '{section}'", hint=_near(section, SECTIONS))
        if not isinstance(table, dict):
            raise UsageError(f"'{section}' must be a table", hint=f"[{section}]")
    runtime = {"engine": "onnxruntime", "precision": "fp32", "threads": threads, "batch_size": 1}
    tables = {**given, "runtime": {**runtime, **given.get("runtime", {})}}
    steps = tuple(_step(name, table) for name, table in tables.get("compression", {}).items())
    found = []
    for section in SECTIONS:
        if section == "compression":
            for step in steps:
                rest = {key: v for key, v in tables[section][step.name].items() if key not in {"method", "layers"}}
                found += _section(f"compression.{step.name}", rest, steps)
        else:
            found += _section(section, tables.get(section, {}), steps)
    _check_together(found, given)
    return SearchSpace(parameters=_in_order(found), steps=steps)


def _check_together(found: list[Parameter], given: Mapping[str, Any]) -> None:
    names = {one.name for one in found}
    if {"training.batch_size", "recovery.batch_size"} <= names:
        raise UsageError("training and recovery use one batch_size", hint="give it in [training] alone")
    if "recovery" in given and "compression" not in given:
        raise UsageError("there is nothing to recover from: no [compression]", hint="[training] trains a network")


def _step(name: str, table: Any) -> SpaceStep:
    if not isinstance(table, dict):
        raise UsageError(f"compression.{name} must be a table", hint=f"[compression.{name}]")
    method, layers = table.get("method", name), table.get("layers", ".*")
    if not isinstance(method, str) or not isinstance(layers, str):
        raise UsageError(f"compression.{name}: method and layers are texts, not searched")
    return SpaceStep(name=name, method=method, layers=layers)


def _section(section: str, table: Mapping[str, Any], steps: tuple[SpaceStep, ...]) -> list[Parameter]:
    fields = section_fields(section, {step.name: step.method for step in steps})
    found = []
    for key, value in table.items():
        name = f"{section}.{key}"
        if fields is None and not key.isidentifier():
            raise UsageError(f"'{name}': no argument can be called so")
        if fields is not None and key not in fields:
            raise UsageError(f"there is no '{name}'", hint=_near(key, tuple(fields)))
        one = _parameter(name, section, value)
        check_values(one, None if fields is None else fields[key])
        found.append(one)
    return found


def _parameter(name: str, section: str, given: Any) -> Parameter:
    if isinstance(given, list):
        return _categorical(name, given, {})
    if not isinstance(given, dict):
        return _categorical(name, [given], {})
    if unknown := sorted(set(given) - _KEYS):
        raise UsageError(f"'{name}' has {unknown[0]}", hint=f"known: {', '.join(sorted(_KEYS))}")
    when = _when(name, section, given.get("when", {}))
    if "values" in given:
        if extra := sorted(set(given) & {"low", "high", "step", "log"}):
            raise UsageError(f"'{name}' has values, and {extra[0]} too", hint="give one of them")
        return _categorical(name, given["values"] if isinstance(given["values"], list) else [given["values"]], when)
    if not {"low", "high"} <= set(given):
        raise UsageError(f"'{name}' needs low and high, or values")
    return _number(name, given, when)


def _categorical(name: str, values: list[Any], when: dict[str, tuple[Scalar, ...]]) -> Parameter:
    if not values:
        raise UsageError(f"'{name}' has no values")
    for value in values:
        _scalar(name, value)
    if len({(type(value), value) for value in values}) < len(values):
        raise UsageError(f"'{name}' has a value twice")
    return Parameter(name=name, kind="categorical", values=tuple(values), when=when)


def _number(name: str, given: Mapping[str, Any], when: dict[str, tuple[Scalar, ...]]) -> Parameter:
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    for key, value in (("low", low), ("high", high), ("step", step)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UsageError(f"'{name}': {key} must be a number, not {value!r}")
    if not isinstance(log, bool):
        raise UsageError(f"'{name}': log is true or false")
    if low > high:
        raise UsageError(f"'{name}': low, {low}, is above high, {high}")
    if step is not None and (step <= 0 or log):
        raise UsageError(f"'{name}': {'step and log exclude each other' if log else 'step must be above 0'}")
    if log and low <= 0:
        raise UsageError(f"'{name}': on a logarithmic scale low must be above 0")
    whole = all(isinstance(value, int) for value in (low, high, *(() if step is None else (step,))))
    if not whole:
        low, high, step = float(low), float(high), None if step is None else float(step)
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-8:
        raise UsageError(f"'{name}': from {low} there are no whole steps of {step} to {high}")
    return Parameter(name=name, kind="integer" if whole else "real", low=low, high=high, step=step, log=log, when=when)


def _when(name: str, section: str, given: Any) -> dict[str, tuple[Scalar, ...]]:
    if not isinstance(given, dict):
        raise UsageError(f"'{name}': when is a table", hint='when = { estimator = "percentile" }')
    found: dict[str, tuple[Scalar, ...]] = {}
    for key, value in _flat(given):
        values = value if isinstance(value, list) else [value]
        for each in values:
            _scalar(name, each)
        found[key if "." in key else f"{section}.{key}"] = tuple(values)
    return found


def _flat(given: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Return ``{"runtime": {"engine": "x"}}``, which TOML makes of ``runtime.engine = "x"``, with dotted names."""
    found: list[tuple[str, Any]] = []
    for key, value in given.items():
        found += _flat(value, f"{before}{key}.") if isinstance(value, dict) else [(before + key, value)]
    return found


def _scalar(name: str, value: Any) -> None:
    if not isinstance(value, (bool, int, float, str)):
        raise UsageError(f"'{name}': {value!r} is no value", hint="numbers, texts, true and false are")


def _in_order(found: list[Parameter]) -> tuple[Parameter, ...]:
    """Return the parameters so that each comes after those that it depends on."""
    names = {one.name: one for one in found}
    for one in found:
        for parent, values in one.when.items():
            if parent not in names:
                raise UsageError(
                    f"'{one.name}' is there when '{parent}', which there is not", hint=_near(parent, names)
                )
            if not any(_can_be(names[parent], value) for value in values):
                raise UsageError(f"'{one.name}' can never be there: '{parent}' has none of {list(values)}")
    placed: dict[str, Parameter] = {}
    while len(placed) < len(found):
        ready = [one for one in found if one.name not in placed and set(one.when) <= set(placed)]
        if not ready:
            circle = ", ".join(one.name for one in found if one.name not in placed)
            raise UsageError(f"these depend on each other in a circle: {circle}")
        placed.update((one.name, one) for one in ready)
    return tuple(placed.values())


def _can_be(parameter: Parameter, value: Scalar) -> bool:
    if parameter.kind == "categorical":
        return any((type(value), value) == (type(one), one) for one in parameter.values)
    if isinstance(value, (bool, str)) or parameter.low is None or parameter.high is None:
        return False
    return parameter.low <= value <= parameter.high


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=2)
    return (f"did you mean {' or '.join(near)}? " if near else "") + f"known: {', '.join(known)}"
