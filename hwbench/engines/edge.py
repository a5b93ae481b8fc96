"""The edge between hwbench and a runtime: is it installed, and what its errors become."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator

from hwbench.errors import EngineError, HwbenchError, Unsupported
from hwbench.records.base import Support, unsupported
from hwbench.records.device import Device
from hwbench.records.model import Model
from hwbench.records.quantization import PrecisionPlan

_LONGEST = 500
_NVIDIA_ONLY = frozenset({"fp8", "tf32"})


def installed(package: str, extra: str) -> Support:
    """Say whether ``package`` is installed, from its metadata alone."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return unsupported(
            "not_installed", f"{package} is not installed", f"pip install '.[{extra}]' from the checkout"
        )
    return Support()


DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8")  # multiply u8 x s8 and add in 32 bits


def relied_on(device: Device) -> tuple[str, ...]:
    """Return what 8-bit weights rely on when they were built for ``device``, as :attr:`Artefact.isa` has it.

    On an x86 CPU with none of :data:`DOT_PRODUCTS`, sums of two products saturate at 16 bits (VPMADDUBSW), and the
    network that was verified here would be another there.
    """
    isa = set() if device.cpu is None else set(device.cpu.isa)
    return ("|".join(DOT_PRODUCTS),) if isa & set(DOT_PRODUCTS) else ()


def artefact_of_another(model: Model, engine: str) -> Support | None:
    """Return why ``engine`` cannot run a model that another engine has built, or None where it may."""
    artefact = model.artefact
    if artefact is not None and artefact.engine != engine:
        return unsupported(
            "other_engine",
            f"'{model.name}' is a built engine of {artefact.engine}, which no other can run",
            "give the source model, or build it for this engine",
        )
    return None


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what a runtime raises while ``doing`` something into an :class:`EngineError` with its own words."""
    try:
        yield
    except (HwbenchError, KeyboardInterrupt, SystemExit):
        raise
    except MemoryError as error:
        raise EngineError(f"{doing}: out of memory") from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise EngineError(f"{doing}: {text[:_LONGEST]}{' ...' if len(text) > _LONGEST else ''}") from error


def require_precision(engine: str, asked: str, offered: tuple[str, ...]) -> None:
    """Refuse a precision the engine does not have; never run another in its place."""
    if asked not in offered:
        raise Unsupported(f"{engine} cannot run in {asked} here", hint=f"it offers: {', '.join(offered)}")


def refuse_nvidia_only(engine: str, plan: PrecisionPlan) -> None:
    """Refuse what only TensorRT is asked for, fp8 and tf32, on behalf of an engine that runs on CPUs."""
    asked = {plan.default, plan.floating, *plan.layers.values()} & _NVIDIA_ONLY
    if asked:
        raise Unsupported(
            f"{engine} cannot build in {', '.join(sorted(asked))}: no CPU has it", hint="the engine tensorrt builds it"
        )


def require_built(engine: str, asked: str, built: str) -> None:
    """Refuse what a runtime made of a request when it is not what was asked for; ``auto`` takes what it chose."""
    if asked not in {"auto", built}:
        msg = f"{engine} was asked for {asked} and built {built}"
        raise Unsupported(msg, hint="--precision auto measures it in the precision that it takes by itself")


def threads_per_stream(threads: int, streams: int) -> int:
    """Return how many threads each of ``streams`` concurrent requests gets of ``threads``."""
    return max(1, threads // streams)
