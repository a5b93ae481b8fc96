"""docs/meters.md tells every meter of this folder, with its priority and its codes."""

import re
from pathlib import Path

import pytest

from hwbench.meters.battery import BatteryGauge
from hwbench.meters.hwmon import KNOWN, Hwmon
from hwbench.meters.ina3221 import Jetson
from hwbench.meters.jetson_rails import RULES
from hwbench.meters.perf import Perf
from hwbench.meters.rapl import Rapl
from hwbench.meters.scmi import Scmi

PAGE = (Path(__file__).parents[3] / "docs/meters.md").read_text(encoding="utf-8")
METERS = [BatteryGauge, Hwmon, Jetson, Perf, Rapl, Scmi]


@pytest.mark.parametrize("meter", METERS, ids=lambda meter: meter.name)
def test_every_meter_has_its_row_and_its_section(meter):
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith(f"| `{meter.name}` |")]
    assert [row[7].strip() for row in rows] == [str(meter.priority)]
    assert f"\n## `{meter.name}`\n" in PAGE


@pytest.mark.parametrize("meter", METERS, ids=lambda meter: meter.name)
def test_every_code_is_explained(meter):
    codes = re.findall(r"``([a-z]+_[a-z_]+)``", meter.supports.__doc__)
    assert codes
    assert [code for code in codes if f"`{code}`" not in PAGE] == []


def test_every_known_driver_and_every_rail_of_a_total_is_there():
    assert [name for name in KNOWN if f"`{name}`" not in PAGE] == []
    assert [rail for rule in RULES for rail in rule.total if f"`{rail}`" not in PAGE] == []
