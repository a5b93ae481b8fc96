"""Two clocks brought together by pulses of load: known offsets, and what must be refused."""

import numpy as np
import pytest

from hwbench.energy.account import energy_between
from hwbench.energy.align import Alignment, align, merge
from hwbench.energy.integrate import Sample
from hwbench.energy.trace import Trace
from hwbench.records.base import Missing
from hwbench.records.energy import TRACE_SCHEMA, Channel, Mark, TraceHeader

OFFSET_S, SKEW_PPM = 12.345, 40.0
IDLE_W, WORK_W, PULSE_W = 20.0, 80.0, 100.0
LENGTHS_S, GAPS_S = (2.03, 2.11, 1.97), (2.0, 4.0)


def trace(samples, marks=(), *, averaging_s=0.0, period_s=1.0, counter=False):
    channel = Channel(
        name="wall",
        quantity="energy" if counter else "power",
        role="total",
        source="a test",
        period_s=period_s,
        averaging_s=averaging_s,
    )
    header = TraceHeader(
        schema_version=TRACE_SCHEMA,
        meter="wall-meter",
        boundary="the wall",
        provenance="measured_external",
        clock="MonotonicClock",
        started_at="",
        channels=(channel,),
        settings={"flags": "gain_unknown"},
    )
    return Trace(header, {"wall": samples}, marks=list(marks))


def run(*, after=True, gaps_s=GAPS_S, lengths_s=LENGTHS_S, work_s=300.0):
    """Pulses, work, pulses on our clock: the stretches and their marks."""
    at, pulses = 5.0, []
    for length_s, gap_s in zip(lengths_s, (*gaps_s, 2.0), strict=True):
        pulses.append((at, at + length_s))
        at += length_s + gap_s
    work = (at, at + work_s)
    if after:
        pulses += [(start + work[1] + 2.0 - 5.0, end + work[1] + 2.0 - 5.0) for start, end in pulses]
    marks = [
        Mark(t_s=t_s, mark=f"{name}.{end}")
        for name, (a, b) in [*(("pulse", pulse) for pulse in pulses), ("window", work)]
        for t_s, end in ((a, "start"), (b, "end"))
    ]
    return pulses, work, sorted(marks, key=lambda mark: mark.t_s)


def metered(pulses, work, *, period_s, averaging_s=0.0, noise_w=3.0, seed=1, skew_ppm=SKEW_PPM):
    """What a meter whose clock is ours less the offset, and slower by the skew, reads."""
    rate = 1 + skew_ppm * 1e-6
    end_s = max(end for _, end in [*pulses, work]) + 10
    rng = np.random.default_rng(seed)
    theirs = np.arange((-20 - OFFSET_S) / rate + rng.uniform(0, period_s), (end_s - OFFSET_S) / rate, period_s)
    ours = theirs * rate + OFFSET_S

    def joules(t_s):  # since long ago
        total = IDLE_W * t_s
        for start, end in pulses:
            total = total + (PULSE_W - IDLE_W) * np.clip(t_s - start, 0, end - start)
        return total + (WORK_W - IDLE_W) * np.clip(t_s - work[0], 0, work[1] - work[0])

    over_s = averaging_s or 1e-6
    watts = (joules(ours) - joules(ours - over_s)) / over_s + rng.normal(0, noise_w, len(ours))
    samples = [Sample(float(t), float(w)) for t, w in zip(theirs, watts, strict=True)]
    return trace(samples, averaging_s=averaging_s, period_s=period_s)


def worst_s(found, pulses, skew_ppm=SKEW_PPM):
    """How far a time anywhere between the first and the last pulse is off."""
    ours = np.linspace(pulses[0][0], pulses[-1][1], 50)
    theirs = (ours - OFFSET_S) / (1 + skew_ppm * 1e-6)
    return max(abs(found.own_time(float(t)) - own) for t, own in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("period_s", "averaging_s"), [(1.0, 1.0), (1.0, 0.0), (0.1, 0.1), (0.1, 0.0), (0.01, 0.0)])
def test_offset_and_skew_are_recovered_within_half_a_sample(period_s, averaging_s, seed):
    pulses, work, marks = run()
    found = align(trace([], marks), metered(pulses, work, period_s=period_s, averaging_s=averaging_s, seed=seed))
    assert isinstance(found, Alignment), found
    assert worst_s(found, pulses) < period_s / 2
    assert found.residual_s < period_s
    assert found.quality > 0.6
    assert found.runner_up < 0.8 * found.quality


def test_the_skew_itself_is_recovered_by_a_fast_meter():
    pulses, work, marks = run()
    found = align(trace([], marks), metered(pulses, work, period_s=0.001))
    assert found.skew_ppm == pytest.approx(SKEW_PPM, abs=4)
    assert found.offset_s == pytest.approx(OFFSET_S, abs=0.001)


def test_pulses_at_one_end_give_the_offset_alone():
    pulses, work, marks = run(after=False)
    own, meter = trace([], marks), metered(pulses, work, period_s=0.1, skew_ppm=0.0)
    found = align(own, meter)
    assert not found.skew_known
    assert worst_s(found, pulses, 0.0) < 0.05
    assert merge(own, meter, found).header.settings["flags"] == "gain_unknown skew_unknown"


def test_a_counter_is_aligned_too():
    pulses, work, marks = run()
    power = metered(pulses, work, period_s=0.1, averaging_s=0.1, noise_w=0.5).samples["wall"]
    sums = np.cumsum([sample.value * 0.1 for sample in power])
    counter = [Sample(sample.t_s, float(joules)) for sample, joules in zip(power, sums, strict=True)]
    found = align(trace([], marks), trace(counter, counter=True, period_s=0.1))
    assert worst_s(found, pulses) < 0.05


def test_the_merged_trace_has_our_marks_and_their_readings():
    pulses, work, marks = run()
    own, meter = trace([Sample(0.0, 1.0)], marks), metered(pulses, work, period_s=0.1, averaging_s=0.1)
    merged = merge(own, meter, align(own, meter))
    assert merged.marks == own.marks
    assert merged.header.clock == own.header.clock
    assert float(merged.header.settings["align_offset_s"]) == pytest.approx(OFFSET_S, abs=0.05)
    assert {"align_skew_ppm", "align_residual_s", "align_quality"} <= set(merged.header.settings)
    ((start, end),) = merged.windows("window")
    reading = energy_between(merged, start.t_s, end.t_s)
    assert reading.energy_j == pytest.approx(WORK_W * 300, rel=2e-3)
    assert reading.meter == "wall-meter"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda own, meter: (trace([]), meter), "no_pulses"),
        (lambda own, meter: (own, trace([])), "no_total"),
        (lambda own, meter: (own, trace([Sample(3.0 * i, 50.0) for i in range(200)])), "meter_too_slow"),
        (lambda own, meter: (own, trace(meter.samples["wall"][:50])), "pulses_not_found"),
        (lambda own, meter: (own, trace(meter.samples["wall"][: len(meter.samples["wall"]) // 2])), "pulses_not_found"),
        (lambda own, meter: (own, trace([Sample(s.t_s, 50.0) for s in meter.samples["wall"]])), "pulses_not_found"),
        (  # the meter's clock was set forward in the middle of the work
            lambda own, meter: (
                own,
                trace([Sample(s.t_s + (30.0 if s.t_s > 150 else 0.0), s.value) for s in meter.samples["wall"]]),
            ),
            "pulses_not_found",
        ),
    ],
)
def test_what_cannot_be_aligned_is_refused(change, code):
    pulses, work, marks = run()
    own, meter = change(trace([], marks), metered(pulses, work, period_s=0.1))
    found = align(own, meter)
    assert isinstance(found, Missing)
    assert found.code == code


def test_two_runs_in_one_recording_are_ambiguous():
    pulses, work, marks = run()
    once = metered(pulses, work, period_s=0.1, noise_w=1.0).samples["wall"]
    length_s = once[-1].t_s - once[0].t_s + 0.1
    twice = [*once, *(Sample(sample.t_s + length_s, sample.value) for sample in once)]
    assert align(trace([], marks), trace(twice)).code == "alignment_ambiguous"


def test_load_of_others_all_the_time_hides_the_pulses():
    pulses, work, marks = run()
    meter = metered(pulses, work, period_s=0.1, noise_w=400.0)
    assert align(trace([], marks), meter).code == "pulses_not_found"


def marked(meter, windows, skew_ppm=SKEW_PPM, late_s=0.0):
    rate = 1 + skew_ppm * 1e-6
    marks = []
    for i, (start, end) in enumerate(windows):
        late = late_s if i % 2 else 0.0
        marks.append(Mark(t_s=(start - OFFSET_S) / rate + late, mark="marker.start"))
        marks.append(Mark(t_s=(end - OFFSET_S) / rate + late, mark="marker.end"))
    return Trace(meter.header, meter.samples, marks=marks)


def test_a_marker_column_needs_no_correlation():
    pulses, _, marks = run()
    flat = trace([Sample(i / 10, 50.0) for i in range(4000)], period_s=0.1)
    found = align(trace([], marks), marked(flat, pulses))
    assert found.method == "marker column"
    assert worst_s(found, pulses) < 1e-6
    assert found.skew_ppm == pytest.approx(SKEW_PPM, abs=0.01)
    assert align(trace([], marks), marked(flat, pulses, late_s=1.0)).code == "alignment_poor"
