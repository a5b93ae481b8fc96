"""Names and limits of what is in a bundle, and which names are allowed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from hwbench.errors import ModelError

SUFFIX = ".hwbundle"
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
ENGINE = "engine"  # folder
INPUTS = "inputs.npz"
EXPECTED = "expected.npz"
EXAMPLE = "run_example.py"
LICENCE = "LICENSE.model"
VERIFICATION = "verification.json"

REQUIRED = (MANIFEST, INPUTS, EXPECTED)
LARGEST = {  # bytes of what is read into memory as a whole
    MANIFEST: 256 << 20,
    SUMS: 1 << 20,
    EXAMPLE: 1 << 20,
    LICENCE: 16 << 20,
    VERIFICATION: 256 << 20,
}
MOST_FILES = 2000
_LONGEST = 200
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows, wherever they lie


def engine_file(name: str) -> str:
    """Return where in a bundle an engine's file lies."""
    return f"{ENGINE}/{name}"


def known(name: str) -> bool:
    """Say whether a file of this name may be in a bundle."""
    return name in {*REQUIRED, *LARGEST} or name.startswith(f"{ENGINE}/")


def fault_of(name: str) -> str | None:
    """Return why a name may not be used inside a bundle, on any system, or None."""
    if not name or len(name) > _LONGEST or not name.isprintable():
        return "it is empty, too long or cannot be printed"
    if _FORBIDDEN.search(name):
        return "it holds a backslash, a colon or another character that some systems give a meaning to"
    if name.startswith("/"):
        return "it is an absolute path"
    for part in name.split("/"):
        if part in {"", ".", ".."}:
            return f"it has a part '{part}', which could lead out of the bundle"
        if part != part.rstrip(". ") or _DEVICES.fullmatch(part):
            return f"its part '{part}' means another file on some systems"
    return None


def require_names(names: Iterable[str], where: str) -> None:
    """Refuse names that could lead out of a folder, mean something else somewhere, or fall together.

    Raises:
        ModelError: one of them does; it names it.
    """
    seen: dict[str, str] = {}
    for name in names:
        fault = fault_of(name)
        if fault is not None:
            raise ModelError(f"{where} holds a file called {ascii(name)[:300]}: {fault}", hint=REFUSED)
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise ModelError(f"{where} holds both {seen[folded]!a} and {name!a}", hint=REFUSED)
        seen[folded] = name


REFUSED = "hwbench did not write it so: do not use it, and get it again from where it was built"
