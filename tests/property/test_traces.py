"""Files of readings, damaged in every way: refused, flagged, or right. Never a plausible wrong number."""

import contextlib
import math
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.energy.account import energy_between
from hwbench.energy.imports import import_trace
from hwbench.energy.trace import read_trace, write_trace
from hwbench.errors import StorageError
from hwbench.records.base import Missing

STEP_S, LINES = 0.1, 301
START_S, END_S = 5.0, 25.0
QUIET = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def power_w(t_s):
    """A load that goes between 40 and 60 W in 7 s, and never stands still."""
    return 50 + 10 * math.sin(2 * math.pi * t_s / 7)


def joules(start_s, end_s):
    """The integral of :func:`power_w`."""
    omega = 2 * math.pi / 7
    return 50 * (end_s - start_s) - 10 / omega * (math.cos(omega * end_s) - math.cos(omega * start_s))


@dataclass
class Row:
    """One line of the file."""

    t_s: float
    value: float


def rows(counter):
    return [Row(i * STEP_S, joules(0, i * STEP_S) if counter else power_w(i * STEP_S)) for i in range(LINES)]


def lost(found, at, count, size):
    del found[at : at + count]


def backwards(found, at, count, size):
    for row in found[at:]:
        row.t_s -= size


def frozen(found, at, count, size):
    for row in found[at : at + count]:
        row.value = found[at].value


def negative(found, at, count, size):
    found[at].value = -size


def not_a_number(found, at, count, size):
    for row in found[at : at + count]:
        row.value = math.nan


def clock_stepped(found, at, count, size):
    for row in found[at:]:
        row.t_s += size


def out_of_order(found, at, count, size):
    found[at], found[at + count] = found[at + count], found[at]


def doubled(found, at, count, size):
    found[at:at] = found[at : at + count]


def truncated(found, at, count, size):
    del found[at:]


def nothing(found, at, count, size):
    """The file as it should be."""


DAMAGES = (
    lost, backwards, frozen, negative, not_a_number, clock_stepped, out_of_order, doubled, truncated, nothing,
)  # fmt: skip
damages = st.tuples(
    st.sampled_from(DAMAGES),
    st.integers(min_value=60, max_value=240),  # where: within the window or near it
    st.integers(min_value=1, max_value=40),  # how many rows
    st.floats(min_value=0.05, max_value=5000, allow_nan=False),  # seconds, watts or joules
)


def damaged(damage, counter):
    change, at, count, size = damage
    found = rows(counter)
    change(found, at, count, size)
    return found


def table(found, key):
    return f"t_s,{key}\n" + "".join(f"{row.t_s:.4f},{row.value:.6f}\n" for row in found)


def lines(found, key):
    return "".join(f'{{"t_s": {row.t_s:.4f}, "{key}": {row.value:.6f}}}\n' for row in found)


def check(path, what):
    """Import the file and hold its energy against the truth."""
    try:
        trace = import_trace(path)
    except StorageError:
        return
    reading = energy_between(trace, START_S, END_S)
    if isinstance(reading, Missing):
        return
    told = set(reading.flags) - {"gain_unknown"}
    off = abs(reading.energy_j - joules(START_S, END_S)) / joules(START_S, END_S)
    assert told or off <= reading.relative_uncertainty, f"{what}: off by {off:.2%}, nothing said"


@QUIET
@given(damage=damages, counter=st.booleans(), write=st.sampled_from([table, lines]))
def test_a_damaged_file_is_refused_flagged_or_right(tmp_path, damage, counter, write):
    path = tmp_path / "readings.txt"
    path.write_text(write(damaged(damage, counter), "energy_j" if counter else "power_w"))
    check(path, damage)


@QUIET
@given(at=st.integers(min_value=0, max_value=6000), counter=st.booleans(), write=st.sampled_from([table, lines]))
def test_a_file_cut_anywhere_is_refused_flagged_or_right(tmp_path, at, counter, write):
    path = tmp_path / "readings.txt"
    text = write(rows(counter), "energy_j" if counter else "power_w")
    path.write_text(text[: min(at, len(text))])
    check(path, f"cut at {at}")


@QUIET
@given(data=st.binary(max_size=300), at=st.integers(min_value=0, max_value=4000))
def test_bytes_thrown_in_never_break_the_reader(tmp_path, data, at):
    path = tmp_path / "readings.txt"
    text = table(rows(False), "power_w").encode()
    path.write_bytes(text[:at] + data + text[at:])
    with contextlib.suppress(StorageError):
        import_trace(path)


@QUIET
@given(damage=damages, counter=st.booleans())
def test_an_imported_trace_survives_the_disk(tmp_path, damage, counter):
    path = tmp_path / "readings.csv"
    path.write_text(table(damaged(damage, counter), "energy_j" if counter else "power_w"))
    try:
        trace = import_trace(path)
    except StorageError:
        return
    write_trace(tmp_path / "trace.jsonl", trace)
    assert energy_between(read_trace(tmp_path / "trace.jsonl"), START_S, END_S) == energy_between(trace, START_S, END_S)


@QUIET
@given(at=st.integers(min_value=0, max_value=20000), counter=st.booleans())
def test_a_cut_trace_of_ours_is_refused(tmp_path, at, counter):
    source = tmp_path / "readings.csv"
    source.write_text(table(rows(counter), "energy_j" if counter else "power_w"))
    path = tmp_path / "trace.jsonl"
    write_trace(path, import_trace(source))
    data = path.read_bytes()
    path.write_bytes(data[: min(at, len(data) - 2)])
    try:
        read_trace(path)
    except StorageError:
        return
    raise AssertionError(f"a trace cut at byte {at} was read as whole")
