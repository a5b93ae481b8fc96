"""``hwbench devices``: what is here, what is known, and what can be used, or why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.terminal import Json, NoColor, Quiet, Terminal, Verbose, command, write_stdout
from hwbench.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hwbench.inventory import Inventory
    from hwbench.records.profile import DeviceProfile


@command
def devices(
    name: Annotated[str | None, typer.Argument(help="A known profile: show its figures and their sources.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """List the devices of this machine, the engines and meters usable here, and the known device profiles."""
    from hwbench.devices.profiles import load_profiles
    from hwbench.files import encode
    from hwbench.inventory import take_inventory

    terminal = Terminal(quiet=quiet, verbose=verbose, no_color=no_color)
    if name is not None:
        profiles = load_profiles()
        if name not in profiles:
            raise UsageError(f"no profile is called '{name}'", hint=f"known: {', '.join(profiles)}")
        if json:
            write_stdout(encode(profiles[name]))
        else:
            terminal.show(_profile_table(profiles[name]))
        return
    inventory = take_inventory()
    if json:
        write_stdout(encode(inventory))
        return
    terminal.show(_inventory(inventory))


def _inventory(inventory: Inventory) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = [Text("Devices here", style="bold")]
    for device in inventory.devices:
        lines.append(Text(f"  {device.name:<12} {device.title}"))
        lines.extend(Text(f"  {'':<12} {fact}", style="dim") for fact in device.facts)
    lines.extend(Text(f"  {item.name:<12} none: {item.why}", style="dim") for item in inventory.absent)
    for title, items in (("Engines", inventory.engines), ("Meters", inventory.meters)):
        lines.append(Text(f"\n{title}", style="bold"))
        lines.extend(Text(f"  {item.name:<16} {'yes' if item.why is None else f'no: {item.why}'}") for item in items)
    lines.append(Text("\nKnown profiles (hwbench devices NAME shows figures and sources)", style="bold"))
    for kind, names in inventory.profiles.items():
        lines.append(Text(f"  {kind:<8} {', '.join(names)}"))
    return Group(*lines)


def _profile_table(profile: DeviceProfile) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None)
    for heading in ("figure", "value", "basis", "source", "note"):
        table.add_column(heading)
    for where, figure in profile.figures():
        table.add_row(where, f"{figure.value:.6g}", figure.basis, figure.source, figure.note or "")
    parts: list[RenderableType] = [Text(profile.title, style="bold"), Text(profile.summary), table]
    parts.extend(Text(f"unknown: {what}: {why}") for what, why in profile.unknown.items())
    parts.extend(Text(f"[{key}] {source}", style="dim") for key, source in profile.sources.items())
    return Group(*parts)
