"""``hwbench devices``: what is here, what is known, and what can be used, or why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.terminal import Json, NoColor, Terminal, Verbose, command, write_stdout
from hwbench.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hwbench.inventory import Inventory
    from hwbench.records.profile import DeviceProfile, Figure


@command
def devices(
    name: Annotated[str | None, typer.Argument(help="A known profile: show its figures and their sources.")] = None,
    json: Json = False,
    verbose: Verbose = False,
    no_color: NoColor = False,
) -> None:
    """List the devices of this machine, the engines and meters usable here, and the known device profiles."""
    from hwbench.devices.profiles import load_profiles
    from hwbench.files import encode
    from hwbench.inventory import take_inventory

    terminal = Terminal(verbose=verbose, no_color=no_color)
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

    here = [(device.name, device.title, "") for device in inventory.devices]
    facts = {device.name: device.facts for device in inventory.devices}
    rows = [row for head in here for row in (head, *(("", fact, "dim") for fact in facts[head[0]]))]
    rows += [(item.name, f"none: {item.why}", "dim") for item in inventory.absent]
    usable = [
        (title, [(item.name, "yes" if item.why is None else f"no: {item.why}", "") for item in items])
        for title, items in (("Engines", inventory.engines), ("Meters", inventory.meters))
    ]
    known = [(kind, ", ".join(names), "") for kind, names in inventory.profiles.items()]
    groups = [("Devices here", rows), *usable, ("Known profiles (hwbench devices NAME shows the figures)", known)]
    return Group(*(part for title, lines in groups for part in _block(title, lines)))


def _block(title: str, lines: list[tuple[str, str, str]]) -> list[RenderableType]:
    """Return a heading, and under it names with what there is to say about them."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=13)
    grid.add_column(overflow="fold")
    for name, text, style in lines:
        grid.add_row(Text(name), Text(text, style=style))
    return [Text(title, style="bold"), Padding(grid, (0, 0, 1, 2), expand=False)]


def _profile_table(profile: DeviceProfile) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("basis", no_wrap=True)
    for heading in ("source", "note"):
        table.add_column(heading, overflow="fold")
    for where, figure in profile.figures():
        table.add_row(*map(Text, (where, _value(where, figure), figure.basis, figure.source, figure.note or "")))
    parts: list[RenderableType] = [Text(profile.title, style="bold"), Text(profile.summary)]
    if profile.compute_capability is not None:
        parts.append(Text(f"compute capability {profile.compute_capability}"))
    if profile.engines:
        parts.append(Text(f"engines: {', '.join(profile.engines)}"))
    parts.append(table)
    parts.extend(Text(f"unknown: {what}: {why}") for what, why in profile.unknown.items())
    parts.extend(Text(f"[{key}] {source}", style="dim") for key, source in profile.sources.items())
    return Group(*parts)


def _value(where: str, figure: Figure) -> str:
    """Return a figure's value in the unit that its name ends with."""
    from hwbench.units import format_bytes, format_si

    table, _, key = where.rpartition(".")
    name = (
        table if table in {"clock_hz", "peak_ops_per_s", "bandwidth_bytes_per_s", "capacity_bytes", "power_w"} else key
    )
    for suffix, unit in (("_bytes_per_s", "B/s"), ("_ops_per_s", "OP/s"), ("_hz", "Hz"), ("_w", "W")):
        if name.endswith(suffix):
            return format_si(figure.value, unit, 4)
    return format_bytes(figure.value) if name.endswith("_bytes") else f"{figure.value:g}"
