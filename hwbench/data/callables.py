"""Functions of the user's, named ``file.py:function`` or ``package.module:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwbench.errors import UsageError


def load_callable(name: str) -> Callable[..., Any]:
    """Import ``file.py:function`` or ``package.module:function``. Runs the user's code.

    Raises:
        UsageError: there is no such thing, or it cannot be called.
    """
    where, _, attribute = name.rpartition(":")
    try:
        found = getattr(_module(where), attribute)
    except Exception as error:
        raise UsageError(f"'{name}' cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UsageError(f"'{name}' is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def _module(where: str) -> Any:
    """Import as ``python file.py`` would: a child does not look into its folder by itself (``PYTHONSAFEPATH``)."""
    if not where.endswith(".py"):
        _look_in(Path.cwd())
        return importlib.import_module(where)
    path = Path(where)
    # Never in the place of a module that is loaded: that would break whoever uses it.
    name = path.stem if path.stem not in sys.modules else f"{path.stem} (user file)"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no file {where}")
    _look_in(path.resolve().parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their annotations up in it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _look_in(folder: Path) -> None:
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
