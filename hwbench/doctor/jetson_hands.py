"""A Jetson's power mode and pinned clocks, set and put back by NVIDIA's own programs.

``nvpmodel -m NUMBER`` sets a mode. Some changes take a reboot, which it offers and is never granted here: then nothing
has changed, which is seen from the status file. ``jetson_clocks --store FILE`` keeps what the clocks were allowed, and
``jetson_clocks --restore FILE`` gives it back; a FILE that is there already it would ask about. Options as in the
Jetson Linux Developer Guide; not verified on a board.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from hwbench.devices.jetson import power_mode
from hwbench.devices.jetson_clocks import held
from hwbench.devices.tree import Tree
from hwbench.doctor.hands import AS_ROOT
from hwbench.records.base import Missing
from hwbench.records.changes import Change

_LIMIT_S = 60.0
_REBOOT = re.compile(r"reboot", re.IGNORECASE)


class NvpmodelHand:
    """The power mode, by its number."""

    def read(self, root: Path, change: Change) -> str | None:  # noqa: ARG002 - there is one
        mode = power_mode(Tree(root))
        return None if isinstance(mode, Missing) else mode.partition(":")[0]

    def write(self, root: Path, change: Change, value: str) -> str | None:
        code, said = _call("nvpmodel", "-m", value)
        if self.read(root, change) == value:
            return None
        if _REBOOT.search(said):
            return "nvpmodel wants a reboot for it, which hwbench does not do; set it yourself, reboot, measure"
        return f"nvpmodel ended with {code}: {said.strip()[-300:] or 'it said nothing'}"

    def refusal(self, root: Path, change: Change) -> tuple[str, str] | None:  # noqa: ARG002 - one program for all
        return _refusal("nvpmodel")

    def where(self, change: Change) -> str:  # noqa: ARG002 - there is one
        return "the power mode (nvpmodel)"

    def by_hand(self, change: Change) -> str:
        return f"sudo nvpmodel -m {change.before}"


class JetsonClocksHand:
    """Clocks held at what the power mode allows; ``on`` or ``off``."""

    def read(self, root: Path, change: Change) -> str | None:  # noqa: ARG002 - there is one
        answer = held(Tree(root))
        return None if isinstance(answer, Missing) else ("on" if answer else "off")

    def write(self, root: Path, change: Change, value: str) -> str | None:
        store = root / change.path
        if value == "on":
            store.parent.mkdir(parents=True, exist_ok=True)
            store.unlink(missing_ok=True)  # a file that is there would make it ask
            steps = [("--store", str(store)), ()]
        else:
            steps = [("--restore", str(store))]
        for step in steps:
            code, said = _call("jetson_clocks", *step)
            if code:
                return f"jetson_clocks {' '.join(step)} ended with {code}: {said.strip()[-300:]}"
        if value == "off" and self.read(root, change) == "off":
            store.unlink(missing_ok=True)
        return None

    def refusal(self, root: Path, change: Change) -> tuple[str, str] | None:  # noqa: ARG002 - one program for all
        return _refusal("jetson_clocks")

    def where(self, change: Change) -> str:  # noqa: ARG002 - there is one
        return "the clocks (jetson_clocks)"

    def by_hand(self, change: Change) -> str:
        return f"sudo jetson_clocks --restore /{change.path}"


def _refusal(program: str) -> tuple[str, str] | None:
    if shutil.which(program) is None:
        return (
            f"cannot be changed: there is no {program} here",
            "run it on the Jetson itself, outside of a container; NVIDIA's L4T packages hold it",
        )
    if os.geteuid() != 0:
        return f"may not be changed by this user: {program} works for root alone", AS_ROOT
    return None


def _call(*command: str) -> tuple[int, str]:
    """Run one of NVIDIA's programs, its questions answered with no; return its exit code and what it said."""
    try:
        done = subprocess.run(
            command, input="no\n", capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, done.stdout + done.stderr
