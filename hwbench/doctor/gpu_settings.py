"""What ``hwbench doctor --apply`` can change of a GPU, each value held against what the card says it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hwbench.doctor.gpu_hand import UNSET, clocks_text, watts_text
from hwbench.doctor.subject import Subject
from hwbench.errors import DeviceError, UsageError
from hwbench.measure.gpu_state import Card
from hwbench.records.base import Missing
from hwbench.records.changes import Change

_CLOCK = re.compile(r"(\d+(?:\.\d+)?)\s*(mhz|ghz)", re.IGNORECASE)
_POWER = re.compile(r"(\d+(?:\.\d+)?)\s*(w|mw)", re.IGNORECASE)


def persistence(subject: Subject, value: str) -> tuple[Change, ...]:
    """Keep the driver loaded for the GPU."""
    if value not in {"on", "off"}:
        raise UsageError(f"gpu_persistence cannot be set to {value!r}", hint="it can be: on, off")
    card = _card(subject, "gpu_persistence")
    now = card.ask("nvmlDeviceGetPersistenceMode")
    if isinstance(now, Missing):
        raise _cannot("gpu_persistence", now)
    before = "on" if now else "off"
    return () if before == value else (_change(card, "gpu_persistence", "persistence", before, value),)


def power(subject: Subject, value: str) -> tuple[Change, ...]:
    """Set the power limit."""
    card = _card(subject, "gpu_power")
    least, most = least_most_mw(card)
    milliwatts = milliwatts_of(value)
    if milliwatts is None or not least <= milliwatts <= most:
        raise UsageError(
            f"gpu_power cannot be set to {value!r} on {card.name}",
            hint=f"it takes {watts_text(least)} to {watts_text(most)}: gpu_power={least // 1000}W",
        )
    now = card.ask("nvmlDeviceGetPowerManagementLimit")
    if isinstance(now, Missing):
        raise _cannot("gpu_power", now)
    before, after = watts_text(now), watts_text(milliwatts)
    return () if before == after else (_change(card, "gpu_power", "power_limit", before, after),)


def clocks(subject: Subject, value: str) -> tuple[Change, ...]:
    """Lock the clock of the multiprocessors, at one value or between two."""
    card = _card(subject, "gpu_clocks")
    memory = _told(card, "gpu_clocks", "nvmlDeviceGetSupportedMemoryClocks")
    offered = _told(card, "gpu_clocks", "nvmlDeviceGetSupportedGraphicsClocks", max(memory))
    return (_change(card, "gpu_clocks", "clocks", UNSET, _pair("gpu_clocks", value, offered, card)),)


def memory_clocks(subject: Subject, value: str) -> tuple[Change, ...]:
    """Lock the clock of the memory."""
    card = _card(subject, "gpu_memory_clocks")
    offered = _told(card, "gpu_memory_clocks", "nvmlDeviceGetSupportedMemoryClocks")
    after = _pair("gpu_memory_clocks", value, offered, card)
    return (_change(card, "gpu_memory_clocks", "memory_clocks", UNSET, after),)


def milliwatts_of(text: str) -> int | None:
    """Read ``300W``; None where it is no power."""
    number = _POWER.fullmatch(text.strip())
    return None if number is None else round(float(number[1]) * (1000 if number[2].lower() == "w" else 1))


def megahertz_of(text: str) -> tuple[float, float] | None:
    """Read ``1500MHz`` or ``1200MHz-1.5GHz`` into the two ends; None where it is neither."""
    parts = [_CLOCK.fullmatch(part.strip()) for part in text.split("-")]
    numbers = [float(part[1]) * (1000 if part[2].lower() == "ghz" else 1) for part in parts if part is not None]
    return (numbers[0], numbers[-1]) if len(numbers) == len(parts) <= 2 else None


def least_most_mw(card: Card) -> tuple[int, int]:
    """Return the power limits that a card takes, in milliwatts.

    Raises:
        DeviceError: it takes none.
    """
    told = card.ask("nvmlDeviceGetPowerManagementLimitConstraints")
    if isinstance(told, Missing):
        raise _cannot("gpu_power", told)
    return int(told[0]), int(told[1])


def _card(subject: Subject, setting: str) -> Card:
    card = subject.card
    if card is None:
        raise UsageError(f"{setting} is of a GPU, and none was named", hint="name it: --device cuda:0")
    if isinstance(card, Missing):
        raise _cannot(setting, card)
    reached = card.connect()
    if isinstance(reached, Missing):
        raise _cannot(setting, reached)
    if card.uuid.startswith("MIG-"):
        whole = Missing(
            code="mig_instance",
            why=f"{card.name} is a MIG instance, and clocks and power are those of the whole GPU",
            cure="name the GPU that it is a part of",
        )
        raise _cannot(setting, whole)
    return card


def _pair(setting: str, value: str, offered: Sequence[int], card: Card) -> str:
    """Return one clock, or two, that the card offers."""
    numbers = megahertz_of(value)
    if numbers is None:
        raise UsageError(
            f"{setting} cannot be set to {value!r}",
            hint=f"write {setting}={max(offered)}MHz, or {setting}={min(offered)}MHz-{max(offered)}MHz",
        )
    for number in numbers:
        if not min(offered) <= number <= max(offered):
            msg = f"{setting}: {number:g} MHz is outside of what {card.name} takes"
            raise UsageError(msg, hint=f"it takes {min(offered)} to {max(offered)} MHz")
        if number not in offered:
            near = sorted(sorted(offered, key=lambda clock: abs(clock - number))[:2])
            msg = f"{setting}: {number:g} MHz is no clock of {card.name}, and the driver would take another"
            raise UsageError(msg, hint=f"the nearest are {' and '.join(f'{clock} MHz' for clock in near)}")
    if numbers[0] > numbers[-1]:
        raise UsageError(f"{setting}: {value} begins above its end", hint="write the lower clock first")
    return clocks_text(int(numbers[0]), int(numbers[-1]))


def _told(card: Card, setting: str, function: str, *arguments: int) -> list[int]:
    values = card.ask(function, *arguments)
    if isinstance(values, Missing):
        raise _cannot(setting, values)
    if not values:
        raise _cannot(setting, Missing(code="not_supported", why="this GPU lists no clocks that can be set"))
    return [int(value) for value in values]


def _change(card: Card, setting: str, what: str, before: str, after: str) -> Change:
    return Change(setting=setting, path=f"{card.uuid}/{what}", kind="gpu", before=before, after=after)


def _cannot(setting: str, reason: Missing) -> DeviceError:
    return DeviceError(f"{setting} cannot be set here: {reason.why}; nothing has been changed", hint=reason.cure)
