"""What lies around hwbench: its own data folders, the user's, and the packages that an extra brings."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from hwbench.errors import EngineError

_EXTRAS = {"plan": ("scipy", "optuna", "sqlalchemy")}
_PACKAGE = Path(__file__).resolve().parent


def require_extra(extra: str, what: str) -> None:
    """Refuse work whose packages are not installed, before it is begun.

    Raises:
        EngineError: one is missing; ``what`` needs it.
    """
    missing = [name for name in _EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        hint = f"pip install 'hwbench-nn[{extra}]', or '.[{extra}]' from a checkout"
        raise EngineError(f"{what} needs {', '.join(missing)}", hint=hint)


def data_folder(name: str) -> Path:
    """Return the folder ``name`` (``profiles``, ``kernels``) that ships with hwbench.

    A wheel carries it as ``hwbench/_<name>``; an editable install reads the one beside the package.
    """
    packaged = _PACKAGE / f"_{name}"
    return packaged if packaged.is_dir() else _PACKAGE.parent / name


def user_folder() -> Path:
    """Return the folder for what hwbench learns about this machine (calibrations); not created here.

    ``HWBENCH_HOME`` wins, then ``XDG_DATA_HOME/hwbench``, then ``~/.local/share/hwbench``.
    """
    if home := os.environ.get("HWBENCH_HOME"):
        return Path(home)
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "hwbench"


def sysfs_root() -> Path:
    """Return the root under which ``/sys`` and ``/proc`` are read.

    ``HWBENCH_SYSFS_ROOT`` moves it: to a bind mount inside a container that masks ``/sys``, or to a
    recorded tree in a test.
    """
    return Path(os.environ.get("HWBENCH_SYSFS_ROOT", "/"))
