import io
import json
import time

import pytest
from rich.console import Console

from hwbench.cli.doctor import render_health
from hwbench.cli.main import main
from hwbench.doctor import examine as examining
from hwbench.doctor import live
from hwbench.doctor.answers import info, ok, warning
from hwbench.records.base import Missing
from hwbench.records.health import HEALTH_SCHEMA, Health, HealthCheck

WARNED = warning("governor", "frequency governor powersave", "the clock follows the load", "sudo cpupower [bold]x")
TOLD = HealthCheck(
    name="rapl",
    severity="cannot_tell",
    found=Missing(code="x", why="the counters are masked", cure="unmask"),
    cure="unmask",
)


def health(*checks):
    return Health(
        schema_version=HEALTH_SCHEMA,
        hwbench="0",
        created_at="2026-11-22T10:15:00Z",
        machine="A CPU\x1b[31m",
        root="/",
        elapsed_s=1.0,
        checks=checks,
    )


def show(record, width=80):
    console = Console(width=width, file=io.StringIO(), no_color=True, color_system=None)
    console.print(render_health(record))
    return console.file.getvalue()


def test_worst_first_with_cures():
    text = show(health(ok("swap", "no swap"), info("aslr", "on"), TOLD, WARNED))
    order = [text.index(part) for part in ("Warnings (1)", "cure: sudo", "Cannot be told", "unmask", "aslr", "swap")]
    assert order == sorted(order)
    assert "[bold]x" in text
    assert "\x1b" not in text
    assert "Nothing found" not in text


@pytest.mark.parametrize("width", [50, 80, 120])
def test_every_line_fits(width):
    assert max(map(len, show(health(TOLD, WARNED), width).splitlines())) <= width


def test_nothing_wrong_is_said():
    assert "Nothing found" in show(health(ok("swap", "no swap")))


@pytest.mark.parametrize(
    ("found", "options", "code"),
    [
        (WARNED, (), 0),
        (WARNED, ("--strict",), 4),
        (WARNED, ("--strict", "--json"), 4),
        (TOLD, ("--strict",), 0),
        (ok("swap", "no swap"), ("--strict",), 0),
    ],
)
def test_exit_codes(monkeypatch, capsysbinary, found, options, code):
    monkeypatch.setattr(examining, "examine", lambda subject: health(found))
    assert main(["doctor", *options]) == code
    out = capsysbinary.readouterr().out.decode()
    if "--json" in options:
        assert json.loads(out)["checks"][0]["name"] == found.name
    else:
        assert found.name in out


def test_this_machine(monkeypatch, capsysbinary):
    monkeypatch.setattr(live, "_PIECES", 20)
    before = time.perf_counter()
    assert main(["doctor", "--json"]) == 0
    assert time.perf_counter() - before < 10  # three seconds on an idle machine
    found = json.loads(capsysbinary.readouterr().out)
    assert {"timer", "noise", "other_processes", "governor", "rapl"} <= {check["name"] for check in found["checks"]}
    assert all(check["severity"] != "warning" or check["cure"] for check in found["checks"])
