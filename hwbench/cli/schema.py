"""``hwbench schema``: the JSON schemas of what hwbench writes."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from hwbench.cli.terminal import command, write_stdout

Kind = Literal[
    "profile",
    "comparison",
    "difference",
    "health",
    "verification",
    "build",
    "compression",
    "plan",
    "optimization",
    "search",
    "prediction",
    "probe",
    "crossover",
    "sweep",
]


@command
def schema(
    kind: Annotated[
        Kind,
        typer.Argument(help="What which command writes: `profile`, `compare`, `diff`, `doctor`..."),
    ] = "profile",
) -> None:
    """Print the JSON schema of what a command writes."""
    write_stdout(json_schema(kind))


def json_schema(kind: Kind) -> bytes:
    """Return a schema as JSON text; the copy in ``docs/schemas`` is this, and a test holds them together."""
    import msgspec

    from hwbench.records.build import BuildResult
    from hwbench.records.comparison import Comparison
    from hwbench.records.compression import CompressionResult
    from hwbench.records.crossover import Crossover
    from hwbench.records.difference import LayerDifference
    from hwbench.records.health import Health
    from hwbench.records.measurement import ProfileResult
    from hwbench.records.optimization import OptimizationResult
    from hwbench.records.plan import PlanResult
    from hwbench.records.prediction import Prediction, Probe
    from hwbench.records.search import SearchResult
    from hwbench.records.sweep import SweepResult
    from hwbench.records.verification import Verification

    records = {
        "profile": ProfileResult,
        "comparison": Comparison,
        "difference": LayerDifference,
        "health": Health,
        "verification": Verification,
        "build": BuildResult,
        "compression": CompressionResult,
        "plan": PlanResult,
        "optimization": OptimizationResult,
        "search": SearchResult,
        "prediction": Prediction,
        "probe": Probe,
        "crossover": Crossover,
        "sweep": SweepResult,
    }
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(records[kind])), indent=1) + b"\n"
