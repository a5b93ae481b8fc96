"""``hwbench measure``: what ``hwbench profile`` does, for an engine that has been built."""

from __future__ import annotations

import functools
from typing import Any

from hwbench.cli.profile import profile
from hwbench.cli.terminal import command
from hwbench.errors import UsageError

_PROFILE: Any = profile.__wrapped__  # type: ignore[attr-defined]  # the error handling is put around it again here


@functools.wraps(_PROFILE)
def _measure(**options: Any) -> None:
    from hwbench.graph.spec import parse_spec

    text = options["model"]
    if parse_spec(text).kind not in {"bundle", "engine"}:
        raise UsageError(
            f"'{text}' is a model, and measure is for what has been built from one",
            hint="hwbench profile measures it on every runtime; hwbench build makes bundles of it",
        )
    _PROFILE(**options)


_measure.__doc__ = """Measure latency, memory, energy and per-layer times of a bundle or an engine file, as it is.

    MODEL is what `hwbench build` made, or a file of a runtime (net.tflite, net.xml). Everything else is as in
    `hwbench profile`, the exit codes too.
    """
measure = command(_measure)
