"""Functions of the user's, named ``file.py:function`` or ``package.module:function``."""

from __future__ import annotations

import importlib
import importlib.util
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
    if not where.endswith(".py"):
        return importlib.import_module(where)
    spec = importlib.util.spec_from_file_location(Path(where).stem, where)
    if spec is None or spec.loader is None:
        raise ImportError(f"no file {where}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
