"""Where text goes, data to standard output and words for a person to standard error, and what an error looks like."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

from hwbench.errors import EXIT_INTERRUPTED, HwbenchError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

P = ParamSpec("P")
R = TypeVar("R")

Device = Annotated[str, typer.Option("--device", "-d", help="Device to use; `hwbench devices` lists them.")]
Json = Annotated[bool, typer.Option("--json", help="Write the result as JSON to standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more; show where an error came from.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colour (NO_COLOR does the same).")]


class Terminal:
    """The two consoles of one command."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, no_color: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.no_color = no_color or bool(os.environ.get("NO_COLOR"))

    def console(self, *, stderr: bool) -> Console:
        """Return a rich console on one of the two streams."""
        from rich.console import Console

        return Console(stderr=stderr, no_color=self.no_color, highlight=False, soft_wrap=False)

    def show(self, renderable: RenderableType, *, stderr: bool = False) -> None:
        """Show something made for people."""
        self.console(stderr=stderr).print(renderable)

    def say(self, text: str) -> None:
        """Tell the person something, unless quiet."""
        if not self.quiet:
            print(text, file=sys.stderr)  # noqa: T201 - the command line is where printing belongs


def write_stdout(data: bytes) -> None:
    """Write data to standard output as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data if data.endswith(b"\n") else data + b"\n")
    sys.stdout.buffer.flush()


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a deliberate error into its message and exit code; anything else is a bug and keeps its traceback."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except HwbenchError as error:
            report_error(error, verbose=bool(kwargs.get("verbose")))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print("stopped by Ctrl-C", file=sys.stderr)  # noqa: T201
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output went away: `hwbench ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    return run


def report_error(error: HwbenchError, *, verbose: bool) -> None:
    """Print an error for a person: what happened, then what to do; with ``verbose`` where it came from."""
    if verbose:
        traceback.print_exception(error)
    print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
    if error.hint:
        for line in error.hint.splitlines():
            print(f"  {line}", file=sys.stderr)  # noqa: T201
