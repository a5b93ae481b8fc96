"""Names to objects: the only module that knows entry points.

A plugin is one file and one entry point in one of the ``GROUPS``; hwbench's own come in by the same door (see
``[project.entry-points]`` in its pyproject). Listing reads package metadata and imports nothing, so a broken plugin
is listed, not hidden; loading imports exactly one.
"""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from hwbench.errors import PluginError, UsageError

Kind = Literal["engines", "meters", "devices", "compressors"]
GROUPS: tuple[Kind, ...] = ("engines", "meters", "devices", "compressors")


@functools.cache
def _installed() -> Any:
    """Read the metadata of all installed packages, once: it takes milliseconds and does not change under us."""
    return entry_points()


def available(kind: Kind) -> dict[str, EntryPoint]:
    """Return the registered plugins of a kind by name, sorted, without importing any.

    Raises:
        PluginError: two different packages register the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in _installed().select(group=f"hwbench.{kind}"):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            msg = f"two {kind} plugins are called '{point.name}': {_origin(other)} and {_origin(point)}"
            raise PluginError(msg, hint="uninstall one of the two packages")
        found[point.name] = point
    return dict(sorted(found.items()))


def find(kind: Kind, name: str) -> EntryPoint:
    """Return the entry point called ``name``, not imported.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    registered = available(kind)
    if name not in registered:
        there = ", ".join(registered) or "none; is hwbench installed (pip install -e .)?"
        raise UsageError(f"no {kind.removesuffix('s')} is called '{name}'", hint=f"registered: {there}")
    return registered[name]


def load(kind: Kind, name: str) -> Any:
    """Import one plugin and return an instance of it.

    Raises:
        UsageError: no such plugin; the message lists those there are.
        PluginError: it does not import.
    """
    point = find(kind, name)
    try:
        return point.load()()
    except (Exception, SystemExit) as error:
        msg = f"the {kind.removesuffix('s')} plugin '{name}' ({_origin(point)}) does not import: {error}"
        raise PluginError(msg, hint="run with -v to see where it fails") from error


def default_engines() -> list[str]:
    """Return the engines that run where none is named: all but variants of another (``variant_of`` names it).

    One that does not import is among them, for whoever loads it to say so.
    """
    return [name for name in available("engines") if not _is_variant(name)]


def _is_variant(name: str) -> bool:
    try:
        return getattr(load("engines", name), "variant_of", None) is not None
    except PluginError:
        return False


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist is not None else "unknown package"
    return f"{point.value} in {package}"
