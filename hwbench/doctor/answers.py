"""The four answers of a check."""

from __future__ import annotations

from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck


def ok(name: str, found: str, **figures: float) -> HealthCheck:
    """Return: nothing wrong here."""
    return HealthCheck(name=name, severity="ok", found=found, figures=figures)


def info(name: str, found: str, cure: str | None = None, **figures: float) -> HealthCheck:
    """Return: worth knowing, neither good nor bad."""
    return HealthCheck(name=name, severity="info", found=found, cure=cure, figures=figures)


def warning(name: str, found: str, effect: str, cure: str, **figures: float) -> HealthCheck:
    """Return: this disturbs a measurement."""
    return HealthCheck(name=name, severity="warning", found=found, effect=effect, cure=cure, figures=figures)


def cannot_tell(name: str, reason: Missing, **figures: float) -> HealthCheck:
    """Return: it cannot be told, and why."""
    return HealthCheck(name=name, severity="cannot_tell", found=reason, cure=reason.cure, figures=figures)
