"""Tables with a header: units, times, and what a file can get wrong."""

import hashlib

import pytest

from hwbench.energy.account import energy_between
from hwbench.energy.imports import FORMATS, import_trace
from hwbench.energy.imports.cells import UNITS, date_ns, heading, scaled_ns, unix_scale_ns
from hwbench.energy.trace import read_trace, write_trace
from hwbench.errors import StorageError, UsageError
from hwbench.records.base import Missing

JOULES = pytest.approx(500.0, rel=1e-9)


@pytest.fixture
def load(tmp_path):
    def load(text, format="auto", **options):
        path = tmp_path / "readings.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return import_trace(path, format, **options)

    return load


def table(header, row, count=101):
    """A table of ``count`` lines 0.1 s apart; ``row`` makes one of its number."""
    return "\n".join([header, *(row(i) for i in range(count))]) + "\n"


def energy_j(trace, start_s=0.0, end_s=10.0):
    reading = energy_between(trace, start_s, end_s)
    assert not isinstance(reading, Missing), reading
    return reading.energy_j


def flags(trace):
    return trace.header.settings["flags"].split()


@pytest.mark.parametrize(
    ("header", "time", "value"),
    [
        ("Time (s),Power (W)", 1.0, 50.0),
        ("time_ms,power_mW", 1e3, 50e3),
        ("Time [us],Power [uW]", 1e6, 50e6),
        ("Zeit µs [µs],Power (µW)", 1e6, 50e6),
        ("elapsed_ns,p_nW", 1e9, 50e9),
        ("time_min,power_kw", 1 / 60, 0.05),
        ("t_s,power_w", 1.0, 50.0),
        ("t_s,watts", None, None),
        ("s,W", 1.0, 50.0),
        ("t,P", 1.0, 50.0),
        ("Timestamp (milliseconds),Main Avg Power (mW)", 1e3, 50e3),
    ],
)
def test_units_of_time_and_power(load, header, time, value):
    if time is None:  # «watts» is a name and a unit at once
        time, value = 1.0, 50.0
    trace = load(table(header, lambda i: f"{i / 10 * time!r},{value!r}"))
    assert energy_j(trace) == pytest.approx(500.0, rel=1e-7)
    assert flags(trace) == ["gain_unknown"]


@pytest.mark.parametrize(
    ("header", "amps", "volts"),
    [
        ("t_s,Current (A),Voltage (V)", 10.0, 5.0),
        ("t_s,current_mA,voltage_mV", 10e3, 5e3),
        ("t_s,Main(uA),Main Voltage(V)", 10e6, 5.0),
        ("t_s,Current [µA],Voltage [mV]", 10e6, 5e3),
        ("t_s,i_nA,u_V", 10e9, 5.0),
        ("t,A,V", 10.0, 5.0),
    ],
)
def test_power_from_current_and_voltage(load, header, amps, volts):
    trace = load(table(header, lambda i: f"{i / 10},{amps!r},{volts!r}"))
    assert energy_j(trace) == pytest.approx(500.0, rel=1e-7)
    assert " x " in trace.header.settings["column:power"]


@pytest.mark.parametrize(
    ("header", "joules"), [("t_s,energy_j", 1.0), ("t_s,Energy (mJ)", 1e3), ("t_s,Energy [Wh]", 1 / 3600)]
)
def test_a_cumulative_energy(load, header, joules):
    trace = load(table(header, lambda i: f"{i / 10},{5.0 * i * joules!r}"))
    assert energy_j(trace) == pytest.approx(500.0, rel=1e-7)


def test_power_and_a_counter_check_each_other(load):
    trace = load(table("t_s,power_w,energy_j", lambda i: f"{i / 10},50.0,{5.0 * i}"))
    assert [(channel.name, channel.role) for channel in trace.header.channels] == [
        ("power", "total"),
        ("energy", "check"),
    ]
    reading = energy_between(trace, 0, 10)
    assert reading.crosscheck.ratio == pytest.approx(1.0)


def test_the_energy_of_each_line_is_not_a_counter(load):
    trace = load(table("t_s,power_w,energy_j", lambda i: f"{i / 10},50.0,{5.0 + i % 2}"))
    assert [channel.name for channel in trace.header.channels] == ["power"]
    assert "energy_j" in trace.header.settings["columns_not_taken"]
    with pytest.raises(StorageError, match=r"line 4 of .* falls"):
        load(table("t_s,energy_j", lambda i: f"{i / 10},{5.0 + i % 2}"))


@pytest.mark.parametrize(
    "stamp",
    [
        lambda i: f"{1_700_000_000 + i / 10:.1f}",
        lambda i: f"{1_700_000_000_000 + 100 * i}",
        lambda i: f"{1_700_000_000_000_000 + 100_000 * i}",
        lambda i: f"{1_700_000_000_000_000_000 + 100_000_000 * i}",
        lambda i: (
            f"2026-03-29T00:59:{55 + i // 10:02d}.{i % 10}Z"
            if i < 50
            else f"2026-03-29 01:00:{i // 10 - 5:02d}.{i % 10}"
        ),
        lambda i: f"2026-03-29T02:00:{i // 10:02d}.{i % 10}+01:00",
        lambda i: f"12-31-2025 23:00:{i // 10:02d}.{i % 10}00",
    ],
)
def test_wall_clocks_become_a_monotonic_axis(load, stamp):
    trace = load(table("timestamp,power_w", lambda i: f"{stamp(i)},50.0"))
    assert energy_j(trace) == pytest.approx(500.0, rel=1e-6)
    assert trace.header.clock == "wall clock of the meter"
    assert trace.header.started_at.startswith("20")
    assert trace.samples["power"][0].t_s == 0.0


def test_times_are_exact_beyond_the_precision_of_floats():
    assert scaled_ns("1700000000.123456789", 1.0) == 1_700_000_000_123_456_789
    assert date_ns("2023-11-14T22:13:20.123456789Z") == 1_700_000_000_123_456_789
    assert [unix_scale_ns(x) for x in (12.0, 1.7e9, 1.7e12, 1.7e15, 1.7e18)] == [None, 10**9, 10**6, 10**3, 1]


@pytest.mark.parametrize("unit", sorted({unit for units in UNITS.values() for unit in units}))
def test_every_unit_is_read_in_brackets(unit):
    kinds = [kind for kind, units in UNITS.items() if unit in units]
    assert len(kinds) == 1, "a unit must tell the quantity"
    assert heading(f"x ({unit})").factor == UNITS[kinds[0]][unit]


def test_megawatts_are_not_milliwatts(load):
    with pytest.raises(StorageError, match="nobody says what unit 'Power \\(MW\\)' is in"):
        load(table("t_s,Power (MW)", lambda i: f"{i / 10},50"))


def test_a_file_without_times(load):
    text = table("power_w", lambda i: "50.0").replace("power_w", "power_w;").replace("50.0", "50.0;")
    with pytest.raises(StorageError, match="no column is the time"):
        load(text)
    assert energy_j(load(text, interval_s=0.1)) == JOULES
    with pytest.raises(UsageError, match="must be positive"):
        load(text, interval_s=0.0)


def test_an_interval_that_contradicts_the_times(load):
    text = table("t_s,power_w", lambda i: f"{i / 10},50")
    assert energy_j(load(text, interval_s=0.1)) == JOULES
    with pytest.raises(StorageError, match=r"0\.1 s apart, and --interval says 1 s"):
        load(text, interval_s=1.0)


PLAIN = table("t_s,power_w", lambda i: f"{i / 10},50.0")


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", ";").replace(".", ",").encode(),
        PLAIN.replace("\n", ",\n").encode(),
        PLAIN.replace(",50.0", ',"50.0"').encode(),
        PLAIN.replace("\n", "\n\n").encode(),
        table("Zeit (s),Power (\u00b5W)", lambda i: f"{i / 10},50000000").replace("Zeit", "time").encode("cp1252"),
    ],
    ids=["bom", "utf16", "crlf", "cr", "semicolon", "tab", "comma", "last", "quoted", "blank", "cp1252"],
)
def test_ways_of_writing_a_table(load, data):
    trace = load(data)
    assert energy_j(trace) == JOULES
    assert flags(trace) == ["gain_unknown"]


@pytest.mark.parametrize(
    ("change", "line", "why"),
    [
        (lambda lines: [*lines[:5], "abc,50.0", *lines[5:]], 6, "'abc' is not a number"),
        (lambda lines: [*lines[:5], "0.35,fifty", *lines[5:]], 6, "'fifty' is not a number, in column 'power_w'"),
        (lambda lines: [*lines[:5], "0.35,1_0", *lines[5:]], 6, "'1_0' is not a number"),
        (lambda lines: [*lines[:5], "0,35,50,0", *lines[5:]], 6, "4 cells, and the header has 2"),
        (lambda lines: [*lines[:5], "0.35", *lines[5:]], 6, "1 cells, and the header has 2"),
        (lambda lines: [*lines[:5], '0.35,"50', *lines[5:]], 6, "unexpected end of data"),
        (lambda lines: [*lines[:5], lines[2], *lines[5:]], 6, "time goes back by 0.2 s"),
        (lambda lines: [*lines[:5], "0.35,-50.0", *lines[5:]], 6, "the power is -50 W"),
        (lambda lines: [*lines[:5], "nan,50.0", *lines[5:]], 6, "is not a time"),
        (lambda lines: lines[1:], 1, "no header"),
        (lambda lines: lines[:1], 1, "no readings after the header"),
        (lambda lines: ["t_s power_w", *lines[1:]], 1, "one column only"),
        (lambda lines: ["t_s|power_w", *lines[1:]], 1, "one column only"),
        (lambda lines: ["t_s,power", *lines[1:]], 1, "nobody says what unit 'power' is in"),
        (lambda lines: ["time,power_w", *lines[1:]], 2, "nobody says what unit 'time' is in"),
        (lambda lines: ["t_s,current_mA", *lines[1:]], 1, "no power can be had"),
        (lambda lines: ["t_s,Apparent Power (W)", *lines[1:]], 1, "no power can be had"),
        (lambda lines: ["t_s,Power (VA)", *lines[1:]], 1, "no power can be had"),
        (lambda lines: ["t_s,Main Max Power (W)", *lines[1:]], 1, "no power can be had"),
    ],
)
def test_what_is_refused_names_the_line(load, change, line, why):
    with pytest.raises(StorageError, match=f"line {line} of ") as caught:
        load("\n".join(change(PLAIN.splitlines())) + "\n")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "is empty"), (b" \n\n", "is empty"), (b"PK\x03\x04\x00\x00", "zero bytes"), (b"\xff\xfe\x00", "no text")],
)
def test_no_table_at_all(load, data, why):
    with pytest.raises(StorageError, match=why):
        load(data)


def test_no_such_file(tmp_path):
    with pytest.raises(StorageError, match="nowhere"):
        import_trace(tmp_path / "nowhere.csv")


def test_no_such_format(load):
    with pytest.raises(UsageError, match="no format 'xls'"):
        load(PLAIN, "xls")
    assert set(FORMATS) >= {"auto", "csv", "jsonl", "joulescope", "otii", "monsoon", "ptdaemon", "alumet", "tegrastats"}


def test_thousands_and_decimal_commas_are_not_mixed_up(load):
    with pytest.raises(StorageError, match="may be a decimal comma or a mark of thousands"):
        load(table("t_s;power_mW", lambda i: f"{i};1,234"))
    trace = load(table("t_s;power_mW", lambda i: f"{i / 10:.1f};1,234".replace(".", ",")))
    assert trace.samples["power"][0].value == pytest.approx(1.234e-3)


def test_a_last_line_without_its_end_is_left_out(load):
    trace = load(PLAIN.removesuffix("0\n"))  # «50.» of «50.0»
    assert len(trace.samples["power"]) == 100
    assert "last_line_dropped" in flags(trace)


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "inf", "n/a", "--"])
def test_a_reading_that_is_none_is_left_out_and_flagged(load, cell):
    lines = PLAIN.splitlines()
    lines[10] = f"0.9,{cell}"
    trace = load("\n".join(lines) + "\n")
    assert "unreadable_readings" in flags(trace)
    assert energy_j(trace) == JOULES


def test_gaps_are_flagged_and_not_covered(load):
    lines = [line for i, line in enumerate(PLAIN.splitlines()) if not 30 < i < 60]
    trace = load("\n".join(lines) + "\n")
    assert "gaps" in flags(trace)
    reading = energy_between(trace, 0, 10)
    assert reading.energy_j == JOULES
    assert reading.coverage == pytest.approx(0.7, abs=0.02)
    assert {"low_coverage", "gaps"} <= set(reading.flags)


def test_readings_of_one_moment_are_averaged(load):
    lines = PLAIN.splitlines()
    lines[10:11] = ["0.9,40.0", "0.9,60.0"]
    trace = load("\n".join(lines) + "\n")
    assert "duplicate_times" in flags(trace)
    assert energy_j(trace) == JOULES
    with pytest.raises(StorageError, match=r"line 4 of .* two values at one time"):
        load("t_s,energy_j\n0,0\n1,5\n1,6\n2,10\n")


def test_noise_below_zero_is_kept_and_flagged(load):
    trace = load(table("t_s,power_w", lambda i: f"{i / 10},{-0.1 if i == 5 else 50.0}"))
    assert "negative_power" in flags(trace)


def test_a_signal_that_freezes_is_flagged(load):
    trace = load(table("t_s,power_w", lambda i: f"{i / 10},{50.0 if 30 <= i < 60 else 45 + i % 7}"))
    assert "frozen_readings" in flags(trace)


def test_several_columns_that_fit(load):
    text = table("t_s,CPU power (W),Board power (W)", lambda i: f"{i / 10},20,50")
    with pytest.raises(StorageError, match="several columns may be the power: 'CPU power \\(W\\)', 'Board power"):
        load(text)
    trace = load(text, columns={"power": "Board power (W)"})
    assert energy_j(trace) == JOULES
    assert "CPU power (W)" in trace.header.settings["columns_not_taken"]
    with pytest.raises(UsageError, match="no column 'GPU'"):
        load(text, columns={"power": "GPU"})


def test_volts_times_amperes_is_not_the_power_of_ac(load):
    with pytest.raises(StorageError, match="not the power of AC"):
        load(table("t_s,Voltage (V),Current (A),Power Factor", lambda i: f"{i / 10},230,0.5,0.6"))


def test_what_was_read_is_kept_with_the_trace(load, tmp_path):
    trace = load(table("Time (ms),Power (mW)", lambda i: f"{100 * i},50000.0"))
    settings = trace.header.settings
    assert settings["file"] == "readings.csv"
    assert settings["sha256"] == hashlib.sha256((tmp_path / "readings.csv").read_bytes()).hexdigest()
    assert (settings["format"], settings["column:power"]) == ("csv", "Power (mW)")
    assert trace.header.provenance == "measured_external"
    assert trace.header.channels[0].lsb == pytest.approx(1e-4)
    write_trace(tmp_path / "trace.jsonl", trace)
    assert import_trace(tmp_path / "trace.jsonl") == read_trace(tmp_path / "trace.jsonl")
    assert energy_j(read_trace(tmp_path / "trace.jsonl")) == JOULES


def test_a_marker_column_becomes_marks(load):
    levels = [0] * 10 + [1] * 20 + [0] * 10 + [1] * 5
    trace = load(table("t_s,power_w,gpio", lambda i: f"{i / 10},50,{levels[i]}", count=len(levels)))
    assert [(mark.t_s, mark.mark) for mark in trace.marks] == [(1.0, "marker.start"), (3.0, "marker.end")]


def test_plain_json_lines(tmp_path):
    path = tmp_path / "plain.jsonl"
    path.write_text("".join(f'{{"t_s": {5 + i / 10}, "power_w": 50}}\n' for i in range(101)))
    trace = import_trace(path)
    assert energy_j(trace) == JOULES
    path.write_text("".join(f'{{"t_s": {i / 10}, "energy_j": {5 * i}}}\n' for i in range(101)).rstrip())
    assert energy_j(import_trace(path)) == JOULES
    path.write_text('{"t_s": 0, "power_w": 1}\n{"t_s": 1, "power_w": 1}\n{"t_s": 1, "power')
    with pytest.raises(StorageError, match="line 3"):
        import_trace(path)


def test_clock_jumps(load):  # K17: of the meter's own clock
    back = [f"{1_700_000_000 + i / 10 - (3600 if i > 50 else 0)},50" for i in range(101)]
    with pytest.raises(StorageError, match=r"line 53 of .*time goes back by 3599\.9"):
        load("time,power_w\n" + "\n".join(back) + "\n")
    forward = [f"{1_700_000_000 + i / 10 + (3600 if i > 50 else 0)},50" for i in range(101)]
    trace = load("time,power_w\n" + "\n".join(forward) + "\n")
    assert "gaps" in flags(trace)
    assert "low_coverage" in energy_between(trace, 0, 3610).flags
