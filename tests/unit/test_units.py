import pytest

from hwbench.cli.verify import parse_drop
from hwbench.errors import UsageError
from hwbench.testing import FakeClock
from hwbench.units import MonotonicClock, format_bytes, format_seconds, format_si, parse_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00123, "1.23 ms"),
        (0, "0 s"),
        (1, "1.00 s"),
        (0.999, "999 ms"),
        (123.4, "123 s"),
        (4.5e-6, "4.50 µs"),
        (2e-9, "2.00 ns"),
        (5e-10, "0.50 ns"),
        (-0.00123, "-1.23 ms"),
        (86_400, "86400 s"),
        (0.0009996, "1.00 ms"),
        (0.0009994, "999 µs"),
        (0.009996, "10.0 ms"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (102_760_448, "98.0 MiB"),
        (2**40, "1.00 TiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_format_bytes(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.09e9, "FLOP", "4.09 GFLOP"),
        (1.5e13, "FLOP/s", "15.0 TFLOP/s"),
        (0.0025, "J", "2.50 mJ"),
        (0, "W", "0 W"),
        (999, "B/s", "999 B/s"),
        (3e-7, "J", "300 nJ"),
        (5e-12, "J", "5.00 pJ"),
        (5e-19, "J", "5.00e-19 J"),
        (999_600, "FLOP", "1.00 MFLOP"),
    ],
)
def test_format_si(value, unit, text):
    assert format_si(value, unit) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("10s", 10), (" 500 ms ", 0.5), ("2min", 120), ("2m", 120), ("0.5h", 1800), ("0", 0)],
)
def test_parse_seconds(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1e3", "10 sec", "1d", "nan", "inf", "1,5s", "1s 2s", "٣x"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="is not a duration") as refused:
        parse_seconds(text)
    assert "500ms" in refused.value.hint


def test_the_clock_does_not_go_back():
    clock = MonotonicClock()
    times = [clock.now_ns() for _ in range(1000)]
    assert times == sorted(times)
    before = clock.now_ns()
    clock.sleep(0.002)
    assert clock.now_ns() - before >= 2_000_000


@pytest.mark.parametrize(("text", "drop"), [(".5pp", 0.005), ("0.5pp", 0.005), (".02", 0.02), ("1.pp", 0.01)])
def test_a_drop_may_begin_with_its_point(text, drop):
    assert parse_drop(text) == pytest.approx(drop)


def test_the_fake_clock_moves_when_told_and_never_back():
    clock = FakeClock()
    before = clock.now_ns()
    clock.sleep(1.5)
    clock.advance(0.25)
    assert clock.now_ns() - before == 1_750_000_000
    with pytest.raises(AssertionError):
        clock.advance(-1)
