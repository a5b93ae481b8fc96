"""Recipes: several methods one after another, in a TOML file.

[[step]]
method = "width"
layers = "layer[12].*"     # a regular expression for whole names; default: all
amount = 0.5               # everything else is a setting of the method
criterion = "taylor"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwbench.errors import UsageError
from hwbench.records.compression import Step

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


def read_recipe(path: Path) -> tuple[Step, ...]:
    """Read the steps of a recipe.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--recipe '{path}': {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--recipe '{path}' is not TOML: {error}") from error
    steps = given.pop("step", None)
    if given or not isinstance(steps, list) or not steps:
        other = f"it has {', '.join(sorted(given))}" if given else "it has none"
        raise UsageError(f"--recipe '{path}' must hold [[step]] tables and nothing else; {other}")
    return tuple(_step(each, path, number) for number, each in enumerate(steps, 1))


def _step(given: Any, path: Path, number: int) -> Step:
    if not isinstance(given, dict) or not isinstance(given.get("method"), str):
        raise UsageError(f"--recipe '{path}': step {number} names no method", hint='method = "prune"')
    layers = given.get("layers", ".*")
    if not isinstance(layers, str):
        raise UsageError(f"--recipe '{path}': layers of step {number} must be a regular expression, not {layers!r}")
    settings = {name: value for name, value in given.items() if name not in {"method", "layers"}}
    return Step(method=given["method"], layers=layers, settings=settings)


def parse_settings(given: Sequence[str], option: str = "--set", example: str = "criterion=taylor") -> dict[str, Any]:
    """Return the settings of ``--set name=value``, each given once.

    Raises:
        UsageError: one is no setting, or stands twice; it is called by its ``option``.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{option} '{text}' is no setting", hint=f"write {option} {example}")
        if name.strip() in found:
            raise UsageError(f"{option} {name.strip()} is given twice")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    """Return a value as TOML has it (``0.5``, ``true``, ``[8, 16]``), else the text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
