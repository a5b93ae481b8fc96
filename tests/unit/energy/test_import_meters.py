# ruff: noqa: E501 - recorded lines are as they were recorded
"""Files of particular meters and programs: recorded lines where such could be had."""

import json

import pytest

from hwbench.energy.account import energy_between
from hwbench.energy.imports import import_trace
from hwbench.energy.imports.tegrastats import totals
from hwbench.errors import StorageError
from hwbench.meters.jetson_rails import RULES

# recorded with a Joulescope: 1.9 W, then 2.1 W
JOULESCOPE = """#time,current,voltage,power,charge,energy
0.0,0.399422,4.74572,1.89553,0,0
0.5,0.400691,4.74479,1.90114,0.200345,0.950568
1.0,0.399392,4.74555,1.89532,0.400042,1.89823
1.5,0.399461,4.74573,1.89572,0.599772,2.84609
2.0,0.399297,4.74579,1.89497,0.799421,3.79357
2.5,0.399307,4.74592,1.89506,0.999074,4.7411
3.0,0.399062,4.74588,1.89389,1.19861,5.68804
3.5,0.399372,4.74576,1.89531,1.39829,6.6357
4.0,0.399149,4.74593,1.89432,1.59787,7.58286
4.5,0.467436,4.69501,2.18967,1.83158,8.67769
5.0,0.460906,4.69969,2.16526,2.06204,9.76032
5.5,0.457727,4.70195,2.15196,2.2909,10.8363
6.0,0.456213,4.7031,2.14545,2.51901,11.909
"""

# the first lines of the sample log of mlcommons/power-dev
PTDAEMON = """Time,12-23-2020 10:21:51.496,Watts,23.430000,Volts,228.370000,Amps,0.204280,PF,0.502300,Mark,testing-workload
Time,12-23-2020 10:21:52.505,Watts,33.520000,Volts,228.400000,Amps,0.281990,PF,0.520500,Mark,testing-workload
Time,12-23-2020 10:21:53.514,Watts,41.330000,Volts,228.370000,Amps,0.326540,PF,0.554300,Mark,testing-workload
Time,12-23-2020 10:21:54.507,Watts,40.650000,Volts,228.450000,Amps,0.324060,PF,0.549000,Mark,testing-workload
Time,12-23-2020 10:21:55.499,Watts,42.760000,Volts,228.370000,Amps,0.340510,PF,0.549900,Mark,testing-workload
Time,12-23-2020 10:21:56.506,Watts,39.500000,Volts,228.390000,Amps,0.315240,PF,0.548700,Mark,testing-workload
"""

# recorded on an Orin Nano with JetPack 6
ORIN_NANO = """12-30-2025 00:20:08 RAM 6677/7620MB (lfb 1x2MB) SWAP 4635/20194MB (cached 180MB) CPU [28%@960,20%@960,off] GR3D_FREQ 33% cpu@52.25C soc2@51.968C tj@52.812C VDD_IN 6167mW/6167mW VDD_CPU_GPU_CV 1215mW/1215mW VDD_SOC 1663mW/1663mW
12-30-2025 00:20:09 RAM 6677/7620MB (lfb 1x2MB) SWAP 4635/20194MB (cached 180MB) CPU [9%@729,4%@729,off] GR3D_FREQ 0% cpu@51.937C soc2@51.812C tj@52.781C VDD_IN 5608mW/5888mW VDD_CPU_GPU_CV 770mW/993mW VDD_SOC 1663mW/1663mW
12-30-2025 00:20:10 RAM 6677/7620MB (lfb 1x2MB) SWAP 4635/20194MB (cached 180MB) CPU [6%@729,5%@729,off] GR3D_FREQ 0% cpu@51.937C soc2@51.812C tj@52.781C VDD_IN 5608mW/5794mW VDD_CPU_GPU_CV 770mW/918mW VDD_SOC 1663mW/1663mW
"""
BOARDS = {  # recorded lines, shortened: what the module draws, in watts
    "nano": (
        "RAM 1766/3964MB (lfb 197x4MB) SWAP 0/2048MB (cached 0MB) CPU [24%@1224,15%@1224] EMC_FREQ 0% GR3D_FREQ 0% "
        "PLL@21C PMIC@100C GPU@23.5C POM_5V_IN 2545/2547 POM_5V_GPU 0/0 POM_5V_CPU 549/529",
        2.545,
    ),
    "tx2": (
        "RAM 2344/7852MB (lfb 1154x4MB) SWAP 0/3926MB (cached 0MB) CPU [1%@345,off] EMC_FREQ 4%@1600 GR3D_FREQ 0%@624 "
        "APE 150 PLL@37.5C VDD_SYS_GPU 152/152 VDD_SYS_SOC 687/687 VDD_4V0_WIFI 0/0 VDD_IN 3056/3056 VDD_SYS_CPU 152/152 "
        "VDD_SYS_DDR 883/883",
        3.056,
    ),
    "agx-xavier": (
        "RAM 4722/15959MB (lfb 2463x4MB) SWAP 0/15959MB (cached 0MB) CPU [17%@1190] EMC_FREQ 55%@2133 GR3D_FREQ 95%@1377 "
        "APE 150 MTS fg 0% bg 10% AO@48C GPU@54.5C GPU 18401/18525 CPU 2301/2330 SOC 4602/4602 CV 0/0 VDDRQ 2914/2911 "
        "SYS5V 4632/4620",
        18.401 + 2.301 + 4.602 + 0 + 2.914 + 4.632,
    ),
    "agx-xavier-5": (
        "RAM 1/2MB EMC_FREQ 0%@1331 GR3D_FREQ 0%@114 VIC_FREQ 115 APE 150 PMIC@50C GPU 467mW/467mW CPU 467mW/467mW "
        "SOC 1245mW/1245mW CV 0mW/0mW VDDRQ 311mW/311mW SYS5V 2768mW/2768mW",
        0.467 + 0.467 + 1.245 + 0.311 + 2.768,
    ),
    "agx-orin": (
        "RAM 1/2MB VDD_GPU_SOC 3212mW/3212mW VDD_CPU_CV 401mW/401mW VIN_SYS_5V0 4543mW/4543mW "
        "VDDQ_VDD2_1V8AO 504mW/504mW",
        3.212 + 0.401 + 4.543,
    ),
    "thor": (
        "RAM 86905/125772MB (lfb 368x4MB) CPU [12%@972,off,33%@1890] cpu@39.812C gpu@39.906C VDD_GPU 3561mW/3561mW "
        "VDD_CPU_SOC_MSS 7910mW/7910mW VIN_SYS_5V0 7620mW/7620mW VIN 26686mW/26686mW",
        26.686,
    ),
}


@pytest.fixture
def load(tmp_path):
    def load(text, format="auto", **options):
        path = tmp_path / "meter.log"
        path.write_text(text)
        return import_trace(path, format, **options)

    return load


def test_joulescope_statistics(load):
    trace = load(JOULESCOPE)
    assert trace.header.meter == "joulescope"
    reading = energy_between(trace, 0.0, 5.75)
    assert reading.energy_j == pytest.approx(9.7603 + 0.75 * 2.14545 + 0.0027, rel=0.005)
    assert reading.crosscheck.ratio == pytest.approx(1.0, abs=0.01)
    assert trace.header.channels[0].averaging_s == pytest.approx(0.5)
    assert trace.header.channels[1].lsb == pytest.approx(1e-4)  # six digits of 11.909


def test_joulescope_headers(load):
    body = JOULESCOPE.partition("\n")[2]
    for header in (
        "time,current,voltage,power,charge,energy\n",
        JOULESCOPE.partition("\n")[0] + "\n#& 20240101 EVENT\n",
    ):
        assert len(load(header + body).samples["power"]) == 13
    with pytest.raises(StorageError, match=r"line 1 of .* is not 'time,current"):
        load(body, "joulescope")


def test_ptdaemon_log(load):
    trace = load(PTDAEMON)
    assert (trace.header.meter, trace.header.clock) == ("ptdaemon", "wall clock of the meter")
    assert trace.header.started_at == "2020-12-23T10:21:51.496+00:00"
    assert [mark.mark for mark in trace.marks] == ["testing-workload.start", "testing-workload.end"]
    watts = [sample.value for sample in trace.samples["wall"]]
    assert watts == [23.43, 33.52, 41.33, 40.65, 42.76, 39.5]
    assert trace.header.channels[0].averaging_s == pytest.approx(1.0, abs=0.01)
    reading = energy_between(trace, 0.6, 4.4)  # each reading is the mean of the second before it
    assert reading.energy_j == pytest.approx(3.8 * 40.5, rel=0.03)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace("Watts,41.330000", "Watts,nan"), None),
        (lambda text: text.replace("10:21:53.514", "10:21:50.514"), "line 3 of .* time goes back"),
        (lambda text: text.replace("12-23-2020 10:21:53.514", "13-23-2020 10:21:53.514"), "line 3"),
        (lambda text: text.replace("Watts,41.330000", "Watts,-1.0"), "line 3 of .* power is -1 W"),
        (lambda text: text.replace(",Volts,228.370000,Amps,0.326540", ",Volts"), "line 3"),
        (lambda text: text + "Uncertainty 1.2%, which is above 1.00% limit\n", "line 7"),
    ],
)
def test_damaged_ptdaemon_logs(load, change, why):
    if why is None:
        assert "unreadable_readings" in load(change(PTDAEMON)).header.settings["flags"]
        return
    with pytest.raises(StorageError, match=why):
        load(change(PTDAEMON))


def alumet(rows, delimiter=";", attribute="domain"):
    names = ("metric", "timestamp", "value", "resource_kind", "resource_id", "consumer_kind", "consumer_id", attribute)
    lines = [delimiter.join((*names, "__late_attributes"))]
    lines += [delimiter.join((*map(str, row), "")) for row in rows]
    return "\n".join(lines) + "\n"


def rapl(count=11, skip=()):
    rows = []
    for i in range(count):
        at = f"2026-01-01T12:00:{i:02d}.000000000Z"
        metric = "rapl_consumed_energy_J"
        if i not in skip:
            rows.append((metric, at, 999.0 if i == 0 else 40.0, "cpu_package", 0, "local_machine", "", "package"))
        rows.append((metric, at, 10.0, "dram", 0, "local_machine", "", "dram"))
        rows.append((metric, at, 30.0, "cpu_package", 0, "local_machine", "", "pp0"))
        rows.append(("cpu_usage_percent", at, 12.0, "local_machine", "", "process", 7, ""))
    return rows


@pytest.mark.parametrize("delimiter", [";", ","])
def test_alumet_adds_up_its_differences(load, delimiter):
    trace = load(alumet(rapl(), delimiter))
    reading = energy_between(trace, 0, 10)
    assert reading.energy_j == pytest.approx(500.0)  # 40 W of the package, 10 W of the DRAM; the first line is before
    assert reading.provenance == "vendor_modelled"
    assert {channel.name: channel.role for channel in trace.header.channels} == {
        "rapl_consumed_energy:cpu_package:0:package": "total",
        "rapl_consumed_energy:dram:0:dram": "total",
        "rapl_consumed_energy:cpu_package:0:pp0": "part",
    }


def test_alumet_says_which_unit(load):
    def rows(metric, value):
        return [
            (metric, f"2026-01-01T12:00:{i:02d}Z", value, "gpu", "00:01.0", "local_machine", "", "") for i in range(11)
        ]

    counter = rows("nvml_energy_consumption_mJ", 50_000) + rows("nvml_instant_power_mW", 50_000)
    reading = energy_between(load(alumet(counter)), 0, 10)
    assert reading.energy_j == pytest.approx(500)
    assert reading.crosscheck.ratio == pytest.approx(1)
    assert energy_between(load(alumet(rows("nvml_instant_power", 50_000))), 0, 10).energy_j == pytest.approx(500)
    assert energy_between(load(alumet(rows("input_power_W", 50))), 0, 10).energy_j == pytest.approx(500)
    two = rows("input_power_W", 50) + rows("fan_power_W", 5)
    with pytest.raises(StorageError, match="nobody says which series is the total"):
        load(alumet(two))
    named = load(alumet(two), channel="input_power:gpu:00:01.0")
    assert energy_between(named, 0, 10).energy_j == pytest.approx(500)
    with pytest.raises(StorageError, match="neither energy nor power"):
        load(alumet(rows("kernel_cpu_time_ms", 5)))


def test_alumet_without_a_difference_has_no_sum(load):
    rows = rapl()
    at = next(i for i, row in enumerate(rows) if row[2] == 40.0)
    rows[at] = (*rows[at][:2], "nan", *rows[at][3:])
    with pytest.raises(StorageError, match="has no value, so the sum after it is not known"):
        load(alumet(rows))
    assert "gaps" in load(alumet(rapl(skip=(4, 5, 6)))).header.settings["flags"]


def test_tegrastats_with_dates(load):
    trace = load(ORIN_NANO)
    assert trace.header.provenance == "measured_onboard"
    assert [sample.value for sample in trace.samples["VDD_IN"]] == [6.167, 5.608, 5.608]  # the moment, not the mean
    assert [sample.t_s for sample in trace.samples["VDD_IN"]] == [0.0, 1.0, 2.0]
    assert {channel.name: channel.role for channel in trace.header.channels} == {
        "VDD_IN": "total",
        "VDD_CPU_GPU_CV": "part",
        "VDD_SOC": "part",
    }


@pytest.mark.parametrize("board", BOARDS)
def test_the_rails_of_every_board(load, board):
    line, watts = BOARDS[board]
    log = f"{line}\n" * 11
    with pytest.raises(StorageError, match="the lines have no date"):
        load(log)
    trace = load(log, interval_s=1.0)
    reading = energy_between(trace, 0, 10)
    assert reading.energy_j == pytest.approx(10 * watts)
    assert reading.domains_j


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.total[0])
def test_the_totals_are_those_of_the_meter(rule):
    assert set(totals((*rule.total, *rule.more))) == set(rule.total)


def test_tegrastats_of_an_unknown_board_adds_nothing_up(load):
    trace = load("RAM 1/2MB VDD_NEW 3000mW/3000mW VDD_OTHER 1000mW/1000mW\n" * 11, interval_s=1.0)
    assert energy_between(trace, 0, 10).code == "no_readings"
    named = load("RAM 1/2MB VDD_NEW 3000mW VDD_OTHER 1000mW\n" * 11, interval_s=1.0, channel="VDD_NEW")
    assert energy_between(named, 0, 10).energy_j == pytest.approx(30)


def test_tegrastats_lines_within_a_second_are_spread(load):
    line = "12-30-2025 00:20:{:02d} RAM 1/2MB VDD_IN {}mW/5000mW\n"
    log = "".join(line.format((i + 3) // 10, 5000 + i % 7) for i in range(40))  # the first second in part
    trace = load(log)
    steps = [b.t_s - a.t_s for a, b in zip(trace.samples["VDD_IN"], trace.samples["VDD_IN"][1:], strict=False)]
    assert steps == pytest.approx([0.1] * 39)
    with pytest.raises(StorageError, match="too few seconds"):
        load("".join(line.format(0, 5000) for _ in range(5)))


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (ORIN_NANO + "sudo: tegrastats: command not found\n", "line 4 of .* no line of tegrastats"),
        (ORIN_NANO.replace(" VDD_SOC 1663mW/1663mW", "", 1), "line 2 of .* its rails are"),
        (ORIN_NANO.replace("00:20:10", "00:20:07"), "line 3 of .* time goes back by 2 s"),
        (ORIN_NANO.replace("12-30-2025 00:20:10 ", ""), "line 3 of .* it has no date"),
        (ORIN_NANO.replace("12-30-2025", "13-30-2025"), "line 1"),
        ("RAM 1/2MB CPU [1%@2] GR3D_FREQ 0%\n" * 3, "no power rails"),
    ],
)
def test_damaged_tegrastats_logs(load, log, why):
    with pytest.raises(StorageError, match=why):
        load(log, "tegrastats")


def monsoon(step, packet=1, count=5000):
    """As sampleEngine.py writes it: a header with ms, times of packets, a comma at the end."""
    rows = ["Time(ms),Main(mA),Main Voltage(V),"]
    rows += [f"{(i // packet) * packet * step!r},{500.0 + i % 2},4.0," for i in range(count)]
    return "\n".join(rows) + "\n"


def test_monsoon_times_are_seconds_whatever_the_heading_says(load):
    trace = load(monsoon(0.0002, packet=3))
    assert trace.header.meter == "monsoon"
    assert energy_between(trace, 0.1, 0.9).energy_j == pytest.approx(0.8 * 2.002, rel=1e-3)
    assert trace.header.settings["time_unit"].startswith("s, though")


def test_monsoon_times_that_may_be_either_are_refused(load):
    with pytest.raises(StorageError, match="may be milliseconds or seconds"):
        load(monsoon(0.2))
    assert energy_between(load(monsoon(0.2), interval_s=0.0002), 0.1, 0.9).energy_j == pytest.approx(1.6016, rel=1e-3)
    assert energy_between(load(monsoon(0.2), interval_s=0.2), 100, 900).energy_j == pytest.approx(1601.6, rel=1e-3)


def test_monsoon_powertool_takes_the_mean_of_the_main_channel(load):
    header = "Time (s),Main Avg Current (mA),Main Max Current (mA),Main Avg Voltage (V),USB Avg Current (mA)"
    rows = [f"{i * 0.0002:.4f},500.0,900.0,4.0,0.0" for i in range(5000)]
    trace = load("\n".join([header, *rows]) + "\n")
    assert trace.header.meter == "monsoon"
    assert energy_between(trace, 0.1, 0.9).energy_j == pytest.approx(1.6)


def test_otii_takes_the_main_channel(load):
    header = "Timestamp (s);Arc - Main current (A);Arc - Main voltage (V);Arc - ADC current (A)"
    rows = [f"{i * 0.00025:.5f};0,5000;4,000;0,1".replace(".", ",") for i in range(4001)]
    trace = load("\n".join([header, *rows]) + "\n", "otii")
    assert energy_between(trace, 0.1, 0.9).energy_j == pytest.approx(1.6)
    with pytest.raises(StorageError, match="nobody says what unit"):
        load("Timestamp (s),Main power\n0,1\n1,1\n", "otii")


def test_a_trace_of_ours_is_read_as_it_is(load):
    header = {"schema_version": 99}
    with pytest.raises(StorageError, match="version 99"):
        load(json.dumps(header) + "\n{}\n{}\n")
