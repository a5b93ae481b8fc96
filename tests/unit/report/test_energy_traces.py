import hashlib

import msgspec
import pytest
from fixtures_energy import (
    IDLE_S,
    IDLE_W,
    WARMUP_S,
    energy_result,
    make_run,
    make_trace,
    with_run,
    write_run,
)
from fixtures_results import make_result

from hwbench.energy.integrate import Sample
from hwbench.energy.trace import Trace, read_trace
from hwbench.records.base import Missing
from hwbench.records.energy import Mark
from hwbench.report.energy_traces import find_traces, phases_of, power_lines, temperature_lines
from hwbench.report.thinning import SERIES_POINTS


@pytest.fixture
def saved(tmp_path):
    """A folder with a trace, and the result that names it."""
    return tmp_path, write_run(tmp_path, make_result(with_run("a", "fp32", make_run(50.0, 4e-3))))


def found(result, folder):
    (trace,) = find_traces(result, folder).values()
    return trace


def test_the_trace_is_found_by_its_hash(saved):
    folder, result = saved
    run = result.measurements[0].energy_run
    assert set(find_traces(result, folder)) == {run.trace_sha256}
    assert found(result, folder) == read_trace(folder / run.trace)
    assert find_traces(make_result(), folder) == {}


def test_a_trace_that_is_gone_or_changed_is_said_to_be(saved):
    folder, result = saved
    path = folder / result.measurements[0].energy_run.trace
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"v":50.0', b'"v":51.0', 1))
    assert path.read_bytes() != before
    changed = found(result, folder)
    assert changed.code == "trace_changed"
    assert "was changed since" in changed.why
    path.unlink()
    assert found(result, folder).code == "trace_gone"


@pytest.mark.parametrize("name", ["../elsewhere.jsonl", "/etc/hostname", "runs/../../elsewhere.jsonl"])
def test_a_trace_outside_the_folder_is_not_opened(name, tmp_path):
    (tmp_path / "elsewhere.jsonl").write_text("secret")
    (tmp_path / "result").mkdir()
    result = make_result(with_run("a", "fp32", make_run(50.0, 4e-3, trace=name)))
    assert found(result, tmp_path / "result").code == "outside"


def test_a_damaged_trace_with_the_right_hash_is_said_to_be(saved):
    folder, result = saved
    measurement = result.measurements[0]
    path = folder / measurement.energy_run.trace
    path.write_bytes(path.read_bytes()[:-40])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    run = msgspec.structs.replace(measurement.energy_run, trace_sha256=digest)
    cut = make_result(msgspec.structs.replace(measurement, energy_run=run))
    assert found(cut, folder).code == "trace_damaged"


def test_phases_have_their_names_and_times():
    phases = phases_of(make_trace(50.0))
    assert [phase.title for phase in phases] == [
        "idle before", "warm-up", "window 1", "window 2", "window 3", "window 4", "window 5", "idle after",
    ]  # fmt: skip
    assert (phases[1].start_s, phases[1].end_s) == (IDLE_S, IDLE_S + WARMUP_S)


def test_a_phase_without_end_is_a_reason_not_a_crash():
    trace = make_trace(50.0)
    trace.marks.append(Mark(t_s=99.0, mark="window.start"))
    assert isinstance(phases_of(trace), Missing)


def test_the_counter_is_drawn_as_its_mean_power():
    counter, regulator = power_lines(make_trace(50.0))
    assert (counter.channel.name, regulator.channel.name) == ("package-0", "regulator")
    loaded = [w for t, w in zip(counter.times_s, counter.values, strict=True) if IDLE_S + 2 < t < 70]
    assert loaded == pytest.approx([50.0] * len(loaded))
    assert counter.values[0] == pytest.approx(IDLE_W)
    assert counter.over_s == pytest.approx(1.0)  # ten readings, which are slower than its updates
    assert regulator.over_s is None


def test_a_wrap_of_the_counter_is_no_dip_and_a_step_back_is_a_gap():
    trace = make_trace(50.0)
    wrap = 2000.0
    channel = msgspec.structs.replace(trace.header.channels[0], range=wrap)
    samples = [Sample(s.t_s, s.value % wrap) for s in trace.samples["package-0"]]
    header = msgspec.structs.replace(trace.header, channels=(channel,))
    (line,) = power_lines(Trace(header, samples={"package-0": samples}))
    assert min(w for w in line.values if w is not None) >= IDLE_W * 0.999
    unexplained = msgspec.structs.replace(header, channels=(msgspec.structs.replace(channel, range=None),))
    (line,) = power_lines(Trace(unexplained, samples={"package-0": samples}))
    assert None in line.values
    assert min(w for w in line.values if w is not None) >= 0


def test_time_without_readings_is_a_gap():
    trace = make_trace(50.0)
    trace.samples["regulator"] = [s for s in trace.samples["regulator"] if not 40 <= s.t_s < 50]
    line = power_lines(trace)[1]
    at = line.values.index(None)
    assert line.times_s[at] == pytest.approx(39.9)
    assert line.times_s[at + 1] == pytest.approx(50.0)
    assert line.values.count(None) == 1


def test_long_traces_are_thinned_and_keep_their_spikes():
    trace = make_trace(50.0)
    many = [Sample(n / 1000, 50.0) for n in range(60_000)]
    many[31_234] = Sample(31.234, 480.0)
    trace.samples["regulator"] = many
    channel = msgspec.structs.replace(trace.header.channels[1], period_s=0.001)
    header = msgspec.structs.replace(trace.header, channels=(trace.header.channels[0], channel))
    line = power_lines(Trace(header, samples=trace.samples))[1]
    assert len(line.values) <= SERIES_POINTS
    assert 480.0 in line.values


def test_temperature_is_there_only_where_there_is_a_sensor():
    assert [line.channel.unit for line in temperature_lines(make_trace(50.0))] == ["°C"]
    assert temperature_lines(make_trace(50.0, heat=False)) == ()


def test_a_channel_without_readings_is_left_out():
    trace = make_trace(50.0)
    del trace.samples["regulator"]
    assert [line.channel.name for line in power_lines(trace)] == ["package-0"]


def test_every_run_of_a_result_has_its_trace(tmp_path):
    result = write_run(tmp_path, energy_result())
    assert len(find_traces(result, tmp_path)) == 2
