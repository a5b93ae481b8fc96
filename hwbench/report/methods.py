"""The compression methods and their settings, for the terminal."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from hwbench.report.text import plain


def render_methods(found: Mapping[str, Any], stages: Sequence[str]) -> RenderableType:
    """Return a line a method: its name, its stage, what it does."""
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in ("method", "stage", "what"):
        grid.add_column(title, overflow="fold")
    for name, method in sorted(found.items(), key=lambda item: (stages.index(item[1].stage), item[0])):
        grid.add_row(plain(name), plain(method.stage), plain(method.summary))
    return grid


def render_method(name: str, method: Any) -> RenderableType:
    """Return one method with its settings: name, type, default, meaning."""
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in ("setting", "type", "default", "what"):
        grid.add_column(title, overflow="fold")
    for row in setting_rows(method.settings_type):
        grid.add_row(*(plain(cell) for cell in row))
    return Group(plain(f"{name} ({method.stage}): {method.summary}", "bold"), grid)


def setting_rows(kind: type[msgspec.Struct]) -> list[tuple[str, str, str, str]]:
    """Return name, type, default and docstring of every setting."""
    words = _docstrings(kind)
    rows = []
    for field in msgspec.structs.fields(kind):
        declared = next(c.__annotations__[field.name] for c in kind.__mro__ if field.name in c.__annotations__)
        rows.append((field.name, str(declared), _default(field), words.get(field.name, "")))
    return rows


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "must be given"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return "" if value is None else str(value)


def _docstrings(kind: type) -> dict[str, str]:
    """Return the text below each field of a class: Python keeps none of it at run time."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for one, two in itertools.pairwise(body):
            is_text = isinstance(two, ast.Expr) and isinstance(two.value, ast.Constant)
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and is_text:
                found[one.target.id] = " ".join(str(two.value.value).split())  # type: ignore[attr-defined]
    return found
