"""Saved results: reading them, and going on with an interrupted one only where everything is as it was.

A table must not hold numbers that were taken under different conditions, so a difference in the request, the machine,
the software, the environment variables or the CPUs is refused, and named.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hwbench.devices import environment
from hwbench.errors import UsageError
from hwbench.files import RESULT, read_record
from hwbench.inventory import Target, pinned_cpus
from hwbench.records.device import Environment
from hwbench.records.measurement import PROFILE_RESULT_SCHEMA, ProfileRequest, ProfileResult

_OTHERWISE = "ask for the same, or measure into another folder"


def read_result(path: Path) -> ProfileResult:
    """Read a saved result; ``path`` is the file or the folder it lies in."""
    return read_record(path / RESULT if path.is_dir() else path, ProfileResult, schema=PROFILE_RESULT_SCHEMA)


def earlier_result(folder: Path, request: ProfileRequest, target: Target) -> ProfileResult | None:
    """Return what an earlier run has left, if it asked for the same on the same device."""
    if not (folder / RESULT).exists():
        return None
    result = read_result(folder)
    changed = [
        f"{name} was {msgspec.to_builtins(before)!r}, now {msgspec.to_builtins(now)!r}"
        for name in request.__struct_fields__
        if (before := getattr(result.request, name)) != (now := getattr(request, name))
    ]
    if changed:
        raise UsageError(f"'{folder}' holds another request: {'; '.join(changed)}", hint=_OTHERWISE)
    if result.device.fingerprint != target.device.fingerprint:
        was, now = result.device, target.device
        raise UsageError(
            f"'{folder}' was measured on another machine: {was.title} ({was.fingerprint}), this one is {now.title} "
            f"({now.fingerprint})",
            hint=_OTHERWISE,
        )
    now = environment.capture()
    if result.environment != now:
        raise UsageError(
            f"'{folder}' was measured in another environment: {_differences(result.environment, now)}",
            hint=_OTHERWISE,
        )
    cpus = {measurement.settings.cpus for measurement in result.measurements}
    if cpus - {pinned_cpus(target, request.threads)}:
        raise UsageError(f"'{folder}' was measured on other CPUs than those this process may use now", hint=_OTHERWISE)
    return result


def _differences(was: Environment, now: Environment) -> str:
    """Name what differs, in words."""
    before, after = _flat(was), _flat(now)
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return "; ".join(f"{name} was {before.get(name)}, now {after.get(name)}" for name in names)


def _flat(environment: Environment) -> dict[str, str]:
    packages = {package.name: package.version for package in environment.packages}
    fields = {name: str(getattr(environment, name)) for name in ("hwbench", "python", "os", "kernel", "libc")}
    return fields | packages | environment.variables
