"""``hwbench doctor``: what would disturb a measurement here, and the cure; and, when asked to, the cure itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.terminal import Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import EXIT_INVALID, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hwbench.records.base import Missing
    from hwbench.records.changes import Change
    from hwbench.records.device import Device as FoundDevice
    from hwbench.records.health import Health, HealthCheck, Severity

_STYLE: dict[Severity, str] = {"warning": "yellow", "cannot_tell": "magenta", "info": "cyan", "ok": "green"}
_TITLE: dict[Severity, str] = {
    "warning": "Warnings",
    "cannot_tell": "Cannot be told here",
    "info": "Worth knowing",
    "ok": "Nothing wrong",
}


@command
def doctor(
    work: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="With --apply: what to run meanwhile.")
    ] = None,
    apply: Annotated[
        list[str] | None,
        typer.Option(
            "--apply",
            help="Change settings while COMMAND runs, then put them back: governor, turbo, smt, perf_events, rapl, "
            "gpu_clocks, gpu_memory_clocks, gpu_power, gpu_persistence, power_mode, jetson_clocks, "
            "each alone or with a value (governor=powersave), comma-separated.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="Look at this GPU, too (cuda:0); which one the gpu_... settings are of."),
    ] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put back what a killed --apply left changed, and do nothing else.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 4 when there is a warning.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """Tell what would disturb a measurement on this machine, and the cure; changes nothing unless asked to."""
    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    _refuse_useless(apply=apply, work=work, restore=restore, checking=strict or json)
    if restore:
        if device is not None:
            raise UsageError("--restore puts back everything that was changed", hint="leave --device out")
        _restore(terminal)
    elif apply:
        raise typer.Exit(_run_changed(terminal, apply, work or [], device))
    else:
        _check(terminal, device, strict=strict, json=json)


def _refuse_useless(*, apply: list[str] | None, work: list[str] | None, restore: bool, checking: bool) -> None:
    if work and not apply:
        msg = f"hwbench doctor runs no command without --apply: {' '.join(work)}"
        raise UsageError(msg, hint="say what to change meanwhile: hwbench doctor --apply governor,turbo -- COMMAND")
    if apply and not work:
        msg = "--apply needs a command: what it changes is put back when the command ends"
        raise UsageError(msg, hint="hwbench doctor --apply governor,turbo -- hwbench profile ...")
    if restore and apply:
        msg = "--restore and --apply exclude each other"
        raise UsageError(msg, hint="first --restore, then --apply")
    if checking and (apply or restore):
        msg = "--strict and --json belong to the checks, which --apply and --restore do not run"
        raise UsageError(msg, hint="leave them out, or run hwbench doctor by itself")


def _gpu(device: str | None, settings: Iterable[str] = ()) -> FoundDevice | Missing | None:
    """Return the GPU that was named, or the only one there is where a setting is a GPU's; None where none is meant."""
    from hwbench.devices import search
    from hwbench.doctor.settings import of_gpu
    from hwbench.records.base import Missing

    wanted = [name for name in settings if of_gpu(name)]
    if device is None and not wanted:
        return None
    founds = search.find_all()
    if device is None:
        gpus = [one for _, found in founds for one in found.devices if one.kind == "nvidia" and one.gpu is not None]
        whole = [one for one in gpus if one.gpu is not None and one.gpu.instance is None]
        if len(whole) > 1:
            why = f"there are {len(whole)} GPUs: {', '.join(one.name for one in whole)}"
            return Missing(code="several_gpus", why=why, cure=f"name one: --device {whole[0].name}")
        device = "cuda:0"
    found = search.select(device, founds)
    if found.kind != "nvidia":
        if wanted or found.kind != "jetson":
            raise UsageError(
                f"'{device}' is no GPU of NVML's; the machine itself is always looked at", hint="leave --device out"
            )
        return None
    return found


def _check(terminal: Terminal, device: str | None, *, strict: bool, json: bool) -> None:
    from hwbench.doctor.examine import examine
    from hwbench.doctor.subject import look
    from hwbench.files import encode

    health = examine(look(gpu=_gpu(device)))
    if json:
        write_stdout(encode(health))
    else:
        terminal.show(render_health(health))
    if strict and health.warnings:
        raise typer.Exit(EXIT_INVALID)


def _run_changed(terminal: Terminal, asked: list[str], work: list[str], device: str | None = None) -> int:
    """Run the user's command with changed settings and return its exit code."""
    from hwbench.doctor.change import changed, refuse_another
    from hwbench.doctor.foreground import check_command, run, signals_held
    from hwbench.doctor.settings import of_gpu, parse_settings, plan
    from hwbench.doctor.subject import look
    from hwbench.resources import sysfs_root

    values = parse_settings(asked)
    check_command(work)
    refuse_another(sysfs_root())
    if device is not None and not any(of_gpu(name) for name in values):
        raise UsageError("--device says which GPU is changed, and no gpu_... setting is", hint="leave --device out")
    subject = look(gpu=_gpu(device, values))
    changes = plan(subject, values)
    with signals_held():
        with changed(subject.tree.root, changes, work):
            for line in _in_words(changes) or ["nothing: all is set so already"]:
                terminal.say(f"changed: {line}")
            code = run(work)
        if changes:
            terminal.say("put back as it was")
    return code


def _restore(terminal: Terminal) -> None:
    from hwbench.doctor.change import hand_of, restore
    from hwbench.resources import sysfs_root

    done = restore(sysfs_root())
    if done is None:
        terminal.say("nothing to put back: no hwbench doctor --apply was killed since the last boot")
        return
    moved, foreign = done
    for change in moved:
        terminal.say(f"put back: {change.setting}: {hand_of(change).where(change)} is {change.before}")
    for change in foreign:
        where = hand_of(change).where(change)
        terminal.say(f"left alone, somebody else has set it since: {change.setting}: {where}")
    if not moved:
        terminal.say("everything else was as it had been")


def _in_words(changes: Sequence[Change]) -> list[str]:
    """Return one line for each setting and pair of values, with the files that it is in."""
    from hwbench.doctor.change import hand_of

    files: dict[tuple[str, str, str], list[str]] = {}
    for change in changes:
        if change.after is not None and change.after != change.before:
            files.setdefault((change.setting, change.before, change.after), []).append(hand_of(change).where(change))
    return [
        f"{setting}: {before} to {after} in {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        for (setting, before, after), paths in files.items()
    ]


def render_health(health: Health) -> RenderableType:
    """Return the checks by severity, worst first, with their cures."""
    from rich.console import Group
    from rich.text import Text

    from hwbench.records.base import Missing
    from hwbench.report.text import plain

    machine = health.machine
    parts: list[RenderableType] = [plain(f"unknown: {machine}" if isinstance(machine, Missing) else machine, "bold")]
    for severity, title in _TITLE.items():
        found = [check for check in health.checks if check.severity == severity]
        if found:
            parts += [Text(), Text(f"{title} ({len(found)})", style=f"bold {_STYLE[severity]}"), _table(found)]
    if not health.warnings:
        parts += [Text(), Text("Nothing found that would disturb a measurement.", style="bold")]
    return Group(*parts)


def _table(checks: list[HealthCheck]) -> RenderableType:
    from rich.table import Table

    from hwbench.records.base import Missing
    from hwbench.report.text import plain

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=20)
    grid.add_column(overflow="fold")
    for check in checks:
        text = plain(check.found.why if isinstance(check.found, Missing) else check.found)
        for head, more in (("", check.effect), ("cure: " if check.severity != "info" else "", check.cure)):
            if more:
                text.append("\n")
                text.append_text(plain(f"{head}{more}", "dim"))
        grid.add_row(plain(check.name), text)
    return grid
