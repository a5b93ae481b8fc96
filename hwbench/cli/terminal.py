"""Where text goes, data to standard output and words for a person to standard error, and what an error looks like."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, ParamSpec, TextIO, TypeVar

import typer

from hwbench.errors import EXIT_INTERRUPTED, HwbenchError, Interrupted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

P = ParamSpec("P")
R = TypeVar("R")

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a file's name must not drive the terminal

Device = Annotated[str, typer.Option("--device", "-d", help="Device to use; `hwbench devices` lists them.")]
Preprocess = Annotated[
    str | None,
    typer.Option("--preprocess", help="How a picture of --data becomes a sample: a .toml file, or file.py:function."),
]
RequireDevice = Annotated[
    str | None, typer.Option("--require-device", help="Exit with 1 unless every unit ran there (CPU, GPU).")
]
RequirePrecision = Annotated[
    str | None, typer.Option("--require-precision", help="Exit with 1 unless every multiplying unit ran in it.")
]
RequireDelegate = Annotated[
    str | None, typer.Option("--require-delegate", help="Exit with 1 unless this delegate took the whole graph.")
]
Shapes = Annotated[list[str] | None, typer.Option("--shapes", metavar="<str>", help="Input shapes, name:1x3x224x224.")]
Metric = Annotated[str | None, typer.Option("--metric", help="Your own: file.py:function(outputs, labels).")]
Threads = Annotated[int | None, typer.Option("--threads", metavar="<int>", min=1, help="Threads. Default: one a core.")]
Seed = Annotated[int, typer.Option("--seed", metavar="<int>", min=0, help="Seed of all that is random.")]
Json = Annotated[bool, typer.Option("--json", help="Write the result as JSON to standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; show where an error came from.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colour (NO_COLOR does the same).")]


class Terminal:
    """The two consoles of one command.

    When the reader of a stream goes away (``hwbench ... | head -1``), what is still written there is dropped and the
    command goes on: what it measures is worth keeping without an audience.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, no_color: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.no_color = no_color or bool(os.environ.get("NO_COLOR"))
        if verbose:
            logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
            logging.getLogger("hwbench").setLevel(logging.DEBUG)

    def console(self, *, stderr: bool) -> Console:
        """Return a rich console on one of the two streams; without colour it writes no escape codes at all."""
        from rich.console import Console

        class OurConsole(Console):
            def on_broken_pipe(self) -> NoReturn:
                raise BrokenPipeError

        color: Literal["auto"] | None = None if self.no_color else "auto"
        return OurConsole(stderr=stderr, no_color=self.no_color, color_system=color, highlight=False)

    def show(self, renderable: RenderableType, *, stderr: bool = False) -> None:
        """Show something made for people."""
        try:
            self.console(stderr=stderr).print(renderable)
        except BrokenPipeError:
            _abandon(sys.stderr if stderr else sys.stdout)

    def say(self, text: str) -> None:
        """Tell the person something, unless quiet."""
        if not self.quiet:
            _say(text)

    def steps(self) -> Callable[[str, float | None], None]:
        """Return what a pipeline tells its steps to: each is said once, and if verbose how far it is."""
        said: set[str] = set()

        def watch(what: str, fraction: float | None) -> None:
            if what not in said:
                said.add(what)
                self.say(what)
            elif fraction is not None and self.verbose:
                self.say(f"{what}: {fraction:.0%}")

        return watch


def write_stdout(data: bytes) -> None:
    """Write data to standard output as it is."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data if data.endswith(b"\n") else data + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _abandon(sys.stdout)


def _say(text: str) -> None:
    text = _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the command line is where printing belongs
    except BrokenPipeError:
        _abandon(sys.stderr)


def _abandon(stream: TextIO) -> None:
    """Let everything written to ``stream`` from here on vanish; nobody reads it any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a deliberate error into its message and exit code; anything else is a bug and keeps its traceback."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except HwbenchError as error:
            verbose = bool(kwargs.get("verbose")) and not isinstance(error, Interrupted)
            report_error(error, verbose=verbose)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _say("error: stopped by Ctrl-C")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return run


def report_error(error: HwbenchError, *, verbose: bool) -> None:
    """Print an error for a person: what happened, then what to do; with ``verbose`` where it came from."""
    if verbose:
        say_traceback(error)
    _say(f"error: {error.message}")
    for line in (error.hint or "").splitlines():
        _say(f"  {line}")


def say_traceback(error: BaseException) -> None:
    """Show where an error came from."""
    _say("".join(traceback.format_exception(error)).rstrip())
