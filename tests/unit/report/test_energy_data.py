import csv
import io
import json
from pathlib import Path

import pytest
from fixtures_energy import energy_result, hostile_energy, make_run, sweep, with_run
from fixtures_results import make_result

from hwbench.records.base import Missing
from hwbench.report.energy_data import COLUMNS, energy_csv, energy_json


def lines(*results):
    return list(csv.DictReader(io.StringIO(energy_csv(results))))


def test_the_line_of_a_known_run():
    (line,) = lines(make_result(with_run("a", "fp32", make_run(50.0, 4e-3))))
    assert (line["kind"], line["meter"], line["provenance"]) == ("plateau", "rapl", "measured_onboard")
    numbers = {
        "total_j": 0.2, "total_n": 5, "total_instrument_k2": 0.1, "dynamic_j": 0.12, "idle_w": 20.0,
        "inferences_per_j": 5.0, "items_per_j": 5.0, "energy_delay_js": 8e-4, "average_w": 50.0, "p95_w": 51.0,
        "peak_w": 52.5, "averaging_s": 0.1, "window_s": 10.0, "windows": 5, "inferences": 12500, "start_c": 61.0,
        "end_c": 63.5, "crosscheck_ratio": 0.99, "throttled_s": 0.0, "coverage": 1.0,
    }  # fmt: skip
    assert {name: float(line[name]) for name in numbers} == pytest.approx(numbers)
    assert line["throttled_by"] == "sw_power_cap=0;hw_thermal=0"
    assert line["domains_j"] == "package-0=0.16;dram=0.04"
    assert float(line["total_low_j"]) < 0.2 < float(line["total_high_j"])


def test_a_missing_value_is_an_empty_cell_with_its_reason_in_the_last_column():
    gone = Missing(code="x", why="the sensor died")
    (line,) = lines(make_result(with_run("a", "fp32", make_run(50.0, 4e-3, total_j=gone, idle=gone, throttled_s={}))))
    assert line["total_j"] == line["idle_w"] == line["throttled_s"] == ""
    assert "total: the sensor died" in line["missing"]
    assert "idle: the sensor died" in line["missing"]
    assert "throttled_s: the instrument does not tell" in line["missing"]


def test_every_kind_of_line_has_its_own():
    found = lines(energy_result())
    assert [line["kind"] for line in found] == ["plateau", "plateau", "window", "estimated", "absent"]
    assert found[2]["total_low_j"] == ""
    assert "one window has no repeats" in found[2]["missing"]
    assert "RAPL counters" in found[4]["missing"]
    assert found[3]["estimated_inputs"] == "rated_power_w=350, datasheet"


def test_every_column_can_have_a_value():
    found = lines(energy_result(), *sweep())
    always_missing = {name for name in COLUMNS if not any(line[name] for line in found)}
    assert always_missing == {"power_mode", "power_limit_w", "governor"}


def test_formulas_are_not_handed_to_spreadsheets():
    (line,) = lines(make_result(with_run("a", "fp32", make_run(50.0, 4e-3, boundary="=cmd|'/c calc'!A1"))))
    assert line["boundary"].startswith("'=")


def test_json_has_the_groups_with_their_verdicts_and_the_estimates_apart():
    document = json.loads(energy_json([energy_result()]))
    assert document["schema_version"] == 1
    plateau, window = document["groups"]
    assert plateau["verdicts"][0]["least"] == "openvino bf16"
    assert [row["total_j"] for row in plateau["rows"]] == pytest.approx([0.12, 0.2])
    assert plateau["rows"][0]["throttled_s"] == {"sw_power_cap": 0.0, "hw_thermal": 0.0}
    assert plateau["rows"][0]["flags"] == ["clocks_not_locked"]
    assert (window["ranked"], window["verdicts"]) == (False, [])
    assert window["rows"][0]["total_low_j"]["kind"] == "missing"
    assert window["rows"][0]["idle"]["code"] == "no_idle"
    (estimate,) = document["estimates"]
    assert estimate["energy_per_inference_j"] == 0.01
    assert document["fronts"] == [
        {
            "model": "mobilenet_v2",
            "boundary": plateau["boundary"],
            "per": "inference",
            "names": ["openvino bf16"],
        }
    ]
    assert document["absent"][0]["reason"]["kind"] == "missing"


def test_hostile_strings_survive_both():
    assert lines(hostile_energy())
    assert json.loads(energy_json([hostile_energy()]))["groups"]


def test_every_column_is_documented():
    text = (Path(__file__).parents[3] / "docs" / "energy-report.md").read_text(encoding="utf-8")
    assert [name for name in COLUMNS if f"`{name}`" not in text] == []
