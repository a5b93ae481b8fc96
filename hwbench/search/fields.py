"""What the sections of a space file may hold, by the settings that they become, and of which types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec

from hwbench import plugins
from hwbench.errors import HwbenchError, UsageError
from hwbench.records.quantization import PRECISIONS, CalibrationSettings
from hwbench.records.search import Parameter, Scalar

_COUNTS = {"runtime": ("threads", "batch_size"), "calibration": ("samples",), "training": ("batch_size",)}
_COUNTS["recovery"] = _COUNTS["training"]


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: its type, and the settings that refuse what is out of bounds; None where there is no such."""

    type: Any
    name: str
    settings: Any = None
    least: int | None = None
    choices: tuple[str, ...] = ()


def section_fields(section: str, methods: Mapping[str, str]) -> dict[str, Field] | None:
    """Return what a section may hold, by name; None where anything may be in it, as arguments of the user's function.

    Args:
        section: ``runtime``, ``compression.cut``...
        methods: the method of each compression step.

    Raises:
        UsageError: there is no such method.
    """
    if section == "model":
        return None
    if section == "runtime":
        known = tuple(plugins.available("engines"))
        fields = {
            "engine": Field(name="engine", type=str, choices=known),
            "precision": Field(name="precision", type=str, choices=PRECISIONS),
        }
    elif section == "calibration":
        fields = _of(CalibrationSettings)
        del fields["seed"]
    elif section in {"training", "recovery"}:
        fields = _of(plugins.load("compressors", "finetune").settings_type)
    else:
        fields = _of(plugins.load("compressors", methods[section.partition(".")[2]]).settings_type)
        fields["use"] = Field(name="use", type=bool)
    counts = {name: Field(name=name, type=int, least=1) for name in _COUNTS.get(section, ())}
    return {**fields, **counts}


def _of(settings: type[msgspec.Struct]) -> dict[str, Field]:
    hints = get_type_hints(settings)
    whole = all(not field.required for field in msgspec.structs.fields(settings))
    return {
        field.name: Field(name=field.name, type=hints[field.name], settings=settings if whole else None)
        for field in msgspec.structs.fields(settings)
    }


def check_values(parameter: Parameter, field: Field | None) -> None:
    """Refuse a parameter that can take a value of the wrong type, or one out of bounds.

    Raises:
        UsageError: names parameter and value.
    """
    if field is None:
        return
    given: list[Scalar] = list(parameter.values)
    given += [end for end in (parameter.low, parameter.high) if end is not None]
    for value in given:
        _require(parameter.name, value, field)


def _require(name: str, value: Scalar, field: Field) -> None:
    try:
        _check(value, field)
    except HwbenchError as error:
        raise UsageError(f"'{name}' cannot be {value!r}: {error.message}", hint=error.hint) from error
    except ValueError as error:  # msgspec's is one
        raise UsageError(f"'{name}' cannot be {value!r}: {error}") from error


def _check(value: Scalar, field: Field) -> None:
    given = value.split(",") if isinstance(value, str) and _is_list(field.type) else value
    converted = msgspec.convert(given, field.type)
    if field.least is not None and converted < field.least:
        raise UsageError(f"it must be at least {field.least}")
    if field.choices and converted not in field.choices:
        raise UsageError("there is no such thing", hint=f"known: {', '.join(field.choices)}")
    if field.settings is not None:
        msgspec.convert({field.name: given}, field.settings)


def _is_list(kind: Any) -> bool:
    return isinstance(msgspec.inspect.type_info(kind), (msgspec.inspect.ListType, msgspec.inspect.VarTupleType))
