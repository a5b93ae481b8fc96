"""``hwbench compare``: a verdict, not a number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.terminal import Device, Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import EXIT_GOAL_MISSED, EXIT_INCONCLUSIVE, EXIT_OK, UsageError
from hwbench.files import RESULT
from hwbench.units import parse_seconds

if TYPE_CHECKING:
    from hwbench.compare.saved import Choice
    from hwbench.compare.wanted import Waived
    from hwbench.records.comparison import Comparison, Goal, Settings

_PERCENT_OF_ONE = 100
_ONLY_MEASURED_NOW = (
    "device",
    "batch_size",
    "shapes",
    "threads",
    "budget",
    "restarts",
    "block",
    "meter",
    "data",
    "timeout",
)
_ONLY_SAVED = ("between_runs",)


@command
def compare(
    context: typer.Context,
    a: Annotated[str, typer.Argument(help="A saved result (result.json or its folder), or a model to measure now.")],
    b: Annotated[str, typer.Argument(help="What to hold against it, of the same kind.")],
    engine: Annotated[str | None, typer.Option("--engine", "-e", help="Engine of both sides.")] = None,
    engine_a: Annotated[str | None, typer.Option("--engine-a", help="Engine of A.")] = None,
    engine_b: Annotated[str | None, typer.Option("--engine-b", help="Engine of B.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", "-p", help="Precision of both sides.")] = None,
    precision_a: Annotated[str | None, typer.Option("--precision-a", help="Precision of A.")] = None,
    precision_b: Annotated[str | None, typer.Option("--precision-b", help="Precision of B.")] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", help='Exit with 1 when this is certain, as in "latency>3%"; repeat for more.'),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 5 when it cannot be told.")] = False,
    min_effect: Annotated[str, typer.Option(help="Smallest relative difference that matters.")] = "2%",
    min_time: Annotated[str, typer.Option(help="Smallest difference in latency that matters.")] = "1us",
    between_runs: Annotated[
        str, typer.Option(help="Saved results: how much two runs of the same thing are taken to differ (SD).")
    ] = "0.5%",
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="Compare although this differs; repeat for more.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare whatever differs.")] = False,
    data: Annotated[
        str | None, typer.Option(help="Labelled data for accuracy: data.npz, or file.py:function; see docs/verify.md.")
    ] = None,
    device: Device = "cpu",
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", min=1, help="Size of the batch axis.")] = None,
    shapes: Annotated[list[str] | None, typer.Option("--shapes", help="Input shapes, name:1x3x224x224.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each side. Default: one a core.")] = None,
    budget: Annotated[str, typer.Option(help="Time to spend on measuring, starting the processes included.")] = "30s",
    restarts: Annotated[
        int | None, typer.Option(min=1, max=1000, help="New processes so many times. Default: what the budget allows.")
    ] = None,
    block: Annotated[str, typer.Option(help="Length of one block of inferences.")] = "50ms",
    meter: Annotated[str, typer.Option(help="Energy meter: auto, none, or a name.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of inputs, orders and resampling.")] = 0,
    timeout: Annotated[str, typer.Option(help="Longest silence of a process, compiling included.")] = "15min",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the comparison (JSON) here.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write it as Markdown here.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write it as JUnit XML here.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Say whether B is the SAME as A, FASTER, SLOWER, or that this cannot be told (INCONCLUSIVE).

    Exit codes: 0 no goal is surely missed; 1 one is; 2 wrong request; 3 a model, the device or an engine failed; 4 the
    two cannot be compared; 5 with --strict: it cannot be told.
    """
    from hwbench.cli.request import parse_shapes
    from hwbench.compare.goals import parse_goal
    from hwbench.compare.saved import Choice
    from hwbench.compare.wanted import Waived
    from hwbench.records.comparison import Settings

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    goals = [parse_goal(text) for text in fail_if or ()]
    choice = Choice(
        engine_a=_one("--engine", engine, engine_a),
        engine_b=_one("--engine", engine, engine_b),
        precision_a=_one("--precision", precision, precision_a),
        precision_b=_one("--precision", precision, precision_b),
    )
    settings = Settings(
        min_effect=_share("--min-effect", min_effect),
        min_latency_s=_short(min_time),
        min_memory_bytes=2**20,
        between_runs=_share("--between-runs", between_runs),
        seed=seed,
    )
    waived = Waived(ignore=_names(ignore or []), force=force)
    saved = _are_saved(a, b)
    _refuse_useless(context, saved=saved)
    if saved:
        comparison = _saved(a, b, choice, settings, goals, waived)
    else:
        given = {
            "device": device,
            "batch_size": batch_size,
            "shapes": parse_shapes(shapes or []),
            "threads": threads,
            "budget_s": _positive("--budget", budget),
            "restarts": restarts,
            "block_s": _positive("--block", block),
            "meter": meter,
            "data": data,
            "timeout_s": _positive("--timeout", timeout),
        }
        comparison = _measured(terminal, a, b, choice, settings, goals, waived, given)
    _write(comparison, output, markdown, junit, strict=strict)
    _show(terminal, comparison, json=json)
    raise typer.Exit(exit_code(comparison, strict=strict))


def _refuse_useless(context: typer.Context, *, saved: bool) -> None:
    """Refuse an option that would do nothing for this kind of comparison."""
    for name in _ONLY_MEASURED_NOW if saved else _ONLY_SAVED:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            kind = "models that are measured now" if saved else "saved results"
            raise UsageError(f"{option} is for {kind}", hint="leave it out")


def _one(name: str, both: str | None, one: str | None) -> str | None:
    if both is not None and one is not None:
        raise UsageError(f"{name} and {name}-a or {name}-b exclude each other")
    return both if both is not None else one


def _share(name: str, text: str) -> float:
    number, _, rest = text.strip().partition("%")
    try:
        value = float(number) / (_PERCENT_OF_ONE if "%" in text else 1)
    except ValueError:
        value = -1.0
    if rest or not 0 <= value < 1:
        raise UsageError(f"{name} '{text}' is not a share between 0% and 100%", hint="write for example 2% or 0.02")
    return value


def _short(text: str) -> float:
    """Read a time down to microseconds."""
    text = text.strip()
    for suffix in ("us", "µs"):
        if text.endswith(suffix):
            return parse_seconds(text.removesuffix(suffix)) / 1e6
    return parse_seconds(text)


def _positive(name: str, text: str) -> float:
    value = parse_seconds(text)
    if value <= 0:
        raise UsageError(f"{name} '{text}' must be more than 0")
    return value


def _names(given: list[str]) -> frozenset[str]:
    from hwbench.compare.saved import HINDERING

    for name in given:
        if name not in HINDERING:
            raise UsageError(
                f"--ignore '{name}' names nothing that is compared", hint=f"there are: {', '.join(HINDERING)}"
            )
    return frozenset(given)


def _are_saved(a: str, b: str) -> bool:
    saved = [Path(text).suffix.lower() == ".json" or (Path(text) / RESULT).is_file() for text in (a, b)]
    if saved[0] != saved[1]:
        one, other = (a, b) if saved[0] else (b, a)
        raise UsageError(
            f"'{one}' is a saved result and '{other}' is not",
            hint="compare two saved results, or two models, which are then measured beside each other",
        )
    return saved[0]


def _saved(a: str, b: str, choice: Choice, settings: Settings, goals: list[Goal], waived: Waived) -> Comparison:
    from hwbench.comparison_pipeline import compare_results
    from hwbench.results import read_result

    results = read_result(Path(a)), read_result(Path(b))
    return compare_results((a, b), results, choice, settings, goals=goals, waived=waived)


def _measured(
    terminal: Terminal,
    a: str,
    b: str,
    choice: Choice,
    settings: Settings,
    goals: list[Goal],
    waived: Waived,
    given: Mapping[str, object],
) -> Comparison:
    from hwbench import plugins
    from hwbench.compare.wanted import Wanted
    from hwbench.comparison_pipeline import compare_models

    meter = str(given["meter"])
    if meter not in {"auto", "none"}:
        plugins.find("meters", meter)
    for engine in (choice.engine_a, choice.engine_b):
        if engine is not None:
            plugins.find("engines", engine)
    said: set[str] = set()

    def watch(label: str, fraction: float) -> None:
        if label not in said:
            said.add(label)
            terminal.say(f"[{fraction:4.0%}] {label}")

    wanted = Wanted(model_a=a, model_b=b, choice=choice, **given)  # type: ignore[arg-type]
    return compare_models(wanted, settings, goals=goals, waived=waived, watch=watch)


def _write(
    comparison: Comparison, output: Path | None, markdown: Path | None, junit: Path | None, *, strict: bool
) -> None:
    from hwbench.files import write_bytes, write_record
    from hwbench.report.junit import to_junit
    from hwbench.report.markdown import to_markdown

    if output is not None:
        write_record(output, comparison)
    if markdown is not None:
        write_bytes(markdown, to_markdown(comparison).encode(errors="replace"))
    if junit is not None:
        write_bytes(junit, to_junit(comparison, strict=strict))


def _show(terminal: Terminal, comparison: Comparison, *, json: bool) -> None:
    from hwbench.files import encode
    from hwbench.report.verdict_text import render_comparison

    if json:
        write_stdout(encode(comparison))
    if not (json and terminal.quiet):
        terminal.show(render_comparison(comparison), stderr=json)


def exit_code(comparison: Comparison, *, strict: bool) -> int:
    """Return 1 for a missed goal, 5 if strict and a goal (or, without goals, the verdict on speed) is open, else 0."""
    statuses = {outcome.status for pair in comparison.pairs for outcome in pair.goals}
    if "missed" in statuses:
        return EXIT_GOAL_MISSED
    if not strict:
        return EXIT_OK
    if statuses:
        return EXIT_INCONCLUSIVE if "unknown" in statuses else EXIT_OK
    told = all(pair.headline is not None and pair.headline.word != "INCONCLUSIVE" for pair in comparison.pairs)
    return EXIT_OK if told else EXIT_INCONCLUSIVE
