"""Each finding: just beyond its threshold, at it, and where it cannot be known."""

import os
import random

import fixtures_results
import msgspec
import pytest

from hwbench.measure.host import read_host
from hwbench.measure.validity import judge
from hwbench.records.base import Missing
from hwbench.records.gpu import GpuState, Limited
from hwbench.records.measurement import Parity, StopRule, TimedRun
from hwbench.records.modes import BuildVariance, PresetCheck, Requirement, ServerRun, Spread, SteadyState, TimerError
from hwbench.stats import summarize

NO = Missing(code="no", why="it is not known here")
CPUS = 4
QUIET = {
    "cpu_hz": (3.0e9, 3.0e9),
    "throttle_events": 5,
    "steal_s": 1.0,
    "busy_s": 100.0,
    "swap_out_bytes": 1000,
}


def clean(**changes):
    """Return a measurement with nothing against it: 10 s on 4 CPUs, 10 s of CPU time of its own, a quiet host."""
    samples = changes.pop("samples_ns", None) or fixtures_results.make_samples(0.0045, n=600, noise=0.01)
    measurement = fixtures_results.make_measurement(
        samples_ns=tuple(samples),
        latency=summarize(samples),
        settings=pinned(*range(CPUS)),
        outputs_finite=True,
        window_s=10.0,
        process_cpu_s=10.0,
        host_before=fixtures_results.make_host(10, **QUIET),
        host_after=fixtures_results.make_host(20, **{**QUIET, "busy_s": 110.0}),
    )
    return msgspec.structs.replace(measurement, **changes)


def pinned(*cpus, **changes):
    return fixtures_results.make_settings(cpus=cpus, **{"threads": min(2, len(cpus) or 2), **changes})


def moded(mode, **settings):
    """Return a measurement's settings for a mode, pinned as ``clean`` is."""
    return {"settings": pinned(*range(CPUS), mode=mode, streams=1, **settings)}


def steady(*, reached):
    state = SteadyState(
        reached=reached,
        after_s=300.0,
        median_change=0.02,
        median_change_limit=0.01,
        temperature_slope_c_per_10s=NO,
        temperature_slope_limit_c_per_10s=0.5,
        longest_s=300.0,
        windows=(),
    )
    return {**moded("steady"), "steady_state": state}


def sustained(seconds):
    return moded("sustained", stop=StopRule(name="duration", settings={"seconds": seconds}))


def served(late_share=0.0, *, grew=False):
    times = Spread(mean_s=0.001, median_s=0.001, p90_s=NO, p99_s=NO, max_s=0.002)
    median_s = clean().latency.median_s
    timer = TimerError(method="slept", waits=10, median_s=late_share * median_s, p99_s=NO, max_s=1.0)
    run = ServerRun(
        rate_per_s=100,
        seed=0,
        workers=1,
        arrivals=0,
        unserved=0,
        arrived_per_s=100,
        completed_per_s=100,
        offered_load=1.2 if grew else 0.5,
        backlog=9,
        backlog_grew=grew,
        queueing=times,
        service=times,
        timer=timer,
        arrivals_ns=(),
        service_ns=(),
    )
    return {**moded("server"), "server": run}


def built_often(between):
    variance = BuildVariance(
        medians_s=(1.0, 1.0),
        parts=10,
        mean_s=1.0,
        low_s=0.9,
        high_s=1.1,
        between_s=between,
        within_s=0.1,
        icc=0.1,
        method="as told",
    )
    return {"builds": variance}


def preset(verdict, name="duration"):
    rule = Requirement(name=name, verdict=verdict, why="2.0 s of at least 600 s")
    check = PresetCheck(
        name="mlperf-single-stream",
        statement="no MLPerf result",
        metric="p90",
        value=NO,
        unit="s",
        early_stopping=NO,
        requirements=(rule,),
    )
    return {"preset": check}


def hosts(name, before, after):
    base = clean()
    return {
        "host_before": msgspec.structs.replace(base.host_before, **{name: before}),
        "host_after": msgspec.structs.replace(base.host_after, **{name: after}),
    }


def codes(measurement, cpus=CPUS):
    return [(finding.code, finding.severity) for finding in judge(measurement, cpus).findings]


def parity(max_relative, *, finite=True, precision="fp32"):
    return Parity(
        reference=f"torch-eager {precision}",
        reference_precision=precision,
        max_absolute=1.0,
        max_relative=max_relative,
        finite=finite,
    )


def overhead(share):
    table = fixtures_results.make_layers(0.0045, "fp32", fused=False)
    return {"layers": msgspec.structs.replace(table, profiling_overhead=share)}


def spread(iqr_share):
    summary = clean().latency
    return {"latency": msgspec.structs.replace(summary, iqr_s=summary.median_s * iqr_share)}


def built(precision):
    return msgspec.structs.replace(clean().built, precision=precision)


def drifting(change):
    """Return samples whose last third is ``change`` slower than the first."""
    return [100_000] * 200 + [100_000 + round(50_000 * change)] * 200 + [round(100_000 * (1 + change))] * 200


def test_a_clean_run_is_valid():
    verdict = judge(clean(), CPUS)
    assert verdict.status == "valid"
    assert verdict.findings == ()


def test_nothing_known_is_nothing_found():
    unknown = dict.fromkeys(QUIET, NO)
    measurement = clean(
        host_before=fixtures_results.make_host(10, **unknown),
        host_after=fixtures_results.make_host(20, **unknown),
        parity=NO,
    )
    assert codes(measurement) == []


def on_adapter(kind):
    """Return a measurement of a GPU that is, or is not, played by the CPU."""
    built = clean().built
    settings = {**built.settings, "adapter": "SwiftShader Device", "adapter_type": kind}
    return {"built": msgspec.structs.replace(built, settings=settings)}


def gpu(sm_hz=1.98e9, **held):
    """Return the state of a GPU whose clocks have been held down for so long, in all, by reason."""
    limited = {"sw_thermal": 3.0, "sw_power_cap": 40.0, **held}
    return GpuState(
        of="cuda:0", sm_hz=sm_hz, memory_hz=2.6e9, sm_least_hz=0.0, sm_most_hz=0.0, temperature_c=60.0, power_w=300.0,
        performance_state="P0", limited_by=(), limited=tuple(Limited(reason=k, held_s=v) for k, v in limited.items()),
        throttle_events=0, power_limit_w=700.0, default_power_limit_w=700.0, memory_used_bytes=0,
    )  # fmt: skip


BEYOND = {
    "software_gpu": on_adapter("software"),
    "precision_not_as_asked": {"precision_asked": "bf16"},
    "outputs_not_finite": {"parity": parity(0.0, finite=False)},
    "outputs_differ": {"parity": parity(1.01e-3)},
    "noisy": spread(0.1001),
    "too_few_samples": {"latency": summarize([1_000_000] * 5)},
    "not_settled": {"target_reached": False},
    "near_clock": {"latency": summarize([4_999] * 100)},
    "drift": {"samples_ns": drifting(0.06)},
    "throttled": hosts("throttle_events", 5, 6),
    "clock_changed": hosts("cpu_hz", (3e9, 3e9), (2.39e9, 2.39e9)),
    "gpu_throttled": hosts("gpu", gpu(), gpu(sw_thermal=3.11)),  # 1 % of 10 s is 0.1 s
    "gpu_power_capped": hosts("gpu", gpu(), gpu(sw_power_cap=40.11)),
    "gpu_clock_changed": hosts("gpu", gpu(2.0e9), gpu(1.79e9)),
    "stolen_time": hosts("steal_s", 1.0, 1.81),  # 2 % of 10 s on 4 CPUs is 0.8 s
    "foreign_load": hosts("busy_s", 100.0, 114.1),  # 10 % is 4 s, on top of its own 10 s
    "swapping": hosts("swap_out_bytes", 1000, 1001),
    "layers_disturbed": overhead(0.501),
    "oversubscribed": {"settings": pinned(*range(CPUS), threads=5)},
    "no_plateau": steady(reached=False),
    "short_sustained": sustained(599),
    "backlog_grew": served(grew=True),
    "late_arrivals": served(0.101),
    "builds_differ": built_often(0.0201),
    "preset_not_kept": preset("does_not_hold"),
}
AT = {
    "software_gpu": on_adapter("Discrete GPU"),
    "precision_not_as_asked": {"precision_asked": "auto"},
    "outputs_differ": {"parity": parity(1e-3)},
    "noisy": spread(0.0999),
    "too_few_samples": {"latency": summarize([1_000_000] * 6)},
    "near_clock": {"latency": summarize([5_000] * 100)},
    "drift": {"samples_ns": drifting(0.0499)},
    "throttled": hosts("throttle_events", 5, 5),
    "clock_changed": hosts("cpu_hz", (3e9, 3e9), (2.41e9, 2.41e9)),
    "gpu_throttled": hosts("gpu", gpu(), gpu(sw_thermal=3.09)),
    "gpu_power_capped": hosts("gpu", gpu(), gpu(sw_power_cap=40.09)),
    "gpu_clock_changed": hosts("gpu", gpu(2.0e9), gpu(1.81e9)),
    "stolen_time": hosts("steal_s", 1.0, 1.79),
    "foreign_load": hosts("busy_s", 100.0, 113.9),
    "swapping": hosts("swap_out_bytes", 1000, 1000),
    "layers_disturbed": overhead(0.5),
    "oversubscribed": {"settings": pinned(*range(CPUS), threads=4)},
    "no_plateau": steady(reached=True),
    "short_sustained": sustained(600),
    "backlog_grew": served(),
    "late_arrivals": served(0.0999),
    "builds_differ": built_often(0.02),
    "preset_not_kept": preset("holds"),
}
INVALID = {"precision_not_as_asked", "outputs_not_finite", "software_gpu", "throttled", "gpu_throttled", "backlog_grew"}


@pytest.mark.parametrize("code", BEYOND)
def test_beyond_its_threshold(code):
    changes = dict(BEYOND[code])
    assert codes(clean(**changes)) == [(code, "invalid" if code in INVALID else "warning")]


@pytest.mark.parametrize("code", AT)
def test_at_its_threshold(code):
    assert codes(clean(**AT[code])) == []


@pytest.mark.parametrize(
    ("precision", "suspect", "invalid"), [("fp32", 1e-3, 0.1), ("fp64", 1e-3, 0.1), ("bf16", 0.1, 1), ("int8", 0.1, 1)]
)
def test_parity_by_precision(precision, suspect, invalid):
    same = {"built": built(precision), "precision_asked": precision}
    assert codes(clean(**same, parity=parity(suspect))) == []
    assert codes(clean(**same, parity=parity(suspect * 1.01))) == [("outputs_differ", "warning")]
    assert codes(clean(**same, parity=parity(invalid))) == [("outputs_differ", "warning")]
    assert codes(clean(**same, parity=parity(invalid * 1.01))) == [("outputs_differ", "invalid")]


@pytest.mark.parametrize(
    ("built_in", "reference", "suspect"),
    [("fp32", "bf16", 0.1), ("bf16", "fp32", 0.1), ("fp32", "fp64", 1e-3), ("fp32", "int8", 0.1)],
)
def test_the_looser_precision_of_the_two_decides(built_in, reference, suspect):
    same = {"built": built(built_in), "precision_asked": built_in}
    assert codes(clean(**same, parity=parity(suspect, precision=reference))) == []
    assert codes(clean(**same, parity=parity(suspect * 1.01, precision=reference))) == [("outputs_differ", "warning")]


@pytest.mark.parametrize("code", ["is_reference", "reference_not_finite", "not_numeric"])
def test_not_finite_without_a_finite_reference_is_a_warning(code):
    alone = Missing(code=code, why="there is nothing to compare with")
    assert codes(clean(parity=alone)) == []
    assert codes(clean(parity=alone, outputs_finite=False)) == [("outputs_not_finite", "warning")]


def test_not_finite_is_said_once_and_against_a_finite_reference_invalid():
    broken = clean(parity=parity(0.0, finite=False), outputs_finite=False)
    assert codes(broken) == [("outputs_not_finite", "invalid")]


def test_other_outputs_are_another_result():
    other = Missing(code="other_outputs", why="torch-eager fp32 returned y [1], this engine y [2]")
    (finding,) = judge(clean(parity=other), CPUS).findings
    assert (finding.code, finding.severity, finding.why) == ("outputs_differ", "invalid", other.why)


def test_what_was_built_decides_over_what_was_asked():
    assert codes(clean(built=built("bf16"), precision_asked="auto", parity=parity(0.05))) == []
    findings = judge(clean(built=built("bf16"), precision_asked="fp32"), CPUS).findings
    assert findings[0].why == "fp32 was asked for and bf16 was built"


def test_clocks_that_rise_count_too():
    assert codes(clean(**hosts("cpu_hz", (2e9,), (2.5e9,)))) == [("clock_changed", "warning")]
    assert codes(clean(**hosts("cpu_hz", (), (2.5e9,)))) == []


def test_drift_to_faster_and_its_least_count():
    (finding,) = judge(clean(samples_ns=drifting(-0.08)), CPUS).findings
    assert finding.code == "drift"
    assert "faster" in finding.why
    short = [100] * 15 + [200] * 14
    assert "drift" not in dict(codes(clean(samples_ns=short)))
    assert "drift" in dict(codes(clean(samples_ns=[*short, 200])))


def test_pinned_to_none_all_usable_cpus_count():
    loaded = clean(**hosts("busy_s", 100.0, 114.1), settings=pinned())
    assert judge(loaded, 4).status == "suspect"
    assert judge(loaded, 8).status == "valid"


@pytest.fixture
def seen(tmp_path):
    """Return codes for a run of 10 s pinned to ``cpus``, its own CPU time and each CPU's busy and stolen seconds."""

    def judged(cpus, own_s, busy_s, steal_s):
        ticks = os.sysconf("SC_CLK_TCK")

        def state(busy, steal):
            rows = [f"{round(b * ticks)} 0 0 0 0 0 0 {round(s * ticks)} 0 0" for b, s in zip(busy, steal, strict=True)]
            total = f"cpu  {round(sum(busy) * ticks)} 0 0 0 0 0 0 {round(sum(steal) * ticks)} 0 0"
            lines = [total, *(f"cpu{cpu} {row}" for cpu, row in enumerate(rows))]
            (tmp_path / "proc").mkdir(exist_ok=True)
            (tmp_path / "proc/stat").write_text("\n".join(lines) + "\n")
            read = read_host(tmp_path, cpus)
            quiet = clean().host_before
            return msgspec.structs.replace(quiet, busy_s=read.busy_s, steal_s=read.steal_s)

        idle = [0.0] * len(busy_s)
        return codes(
            clean(
                settings=pinned(*cpus),
                process_cpu_s=own_s,
                host_before=state(idle, idle),
                host_after=state(busy_s, steal_s),
            ),
            len(busy_s),
        )

    return judged


def test_half_of_the_one_cpu_of_16_taken(seen):
    busy, none = [0.0] * 16, [0.0] * 16
    busy[3] = 10.0
    assert seen((3,), 5.0, busy, none) == [("foreign_load", "warning")]
    assert seen((3,), 10.0, busy, none) == []
    assert seen((3,), 10.0, busy, [0.0] * 3 + [0.3] + [0.0] * 12) == [("stolen_time", "warning")]


def test_two_quiet_cpus_of_64_that_are_busy(seen):
    assert seen((0, 1), 20.0, [10.0] * 64, [0.0, 0.0] + [5.0] * 62) == []


def test_a_clock_that_reads_zero_is_not_divided_by():
    verdict = judge(clean(samples_ns=[0] * 100, target_reached=False), CPUS)
    assert {finding.code for finding in verdict.findings} == {"not_settled", "near_clock"}


def test_throughput_mode_is_judged_on_what_it_has():
    measurement = fixtures_results.make_measurement(mode="throughput", parity=parity(5.0))
    assert ("outputs_differ", "invalid") in codes(measurement)
    assert not {"noisy", "drift", "not_settled", "near_clock"} & set(dict(codes(measurement)))


def test_throttling_is_what_sustained_load_looks_for():
    assert codes(clean(**sustained(600), **BEYOND["gpu_throttled"])) == [("gpu_throttled", "warning")]
    hot = clean(**sustained(600), **BEYOND["throttled"])
    assert codes(hot) == [("throttled", "warning")]


@pytest.mark.parametrize("mode", ["burst", "sustained", "server"])
def test_the_course_of_these_modes_is_their_result_and_no_drift(mode):
    stop = StopRule(name="duration", settings={"seconds": 600.0})
    drifted = clean(**moded(mode, stop=stop), **BEYOND["drift"], **BEYOND["clock_changed"])
    assert codes(drifted) == []
    assert codes(clean(**moded(mode, stop=stop), **BEYOND["gpu_clock_changed"])) == []


def test_a_window_shorter_than_the_kernel_s_ticks_is_not_judged_by_them():
    """Two ticks in a window of 5 ms are no 400 %: the counters do not resolve it."""
    short = {"window_s": 0.005, "process_cpu_s": 0.0}
    assert codes(clean(**hosts("busy_s", 100.0, 100.02), **short)) == []
    assert codes(clean(**hosts("steal_s", 1.0, 1.02), **short)) == []


def test_no_share_is_more_than_the_whole():
    base = hosts("busy_s", 100.0, 1000.0)
    (finding,) = judge(clean(**base), CPUS).findings
    assert "100%" in finding.why


def test_a_rule_that_hwbench_never_keeps_is_no_finding():
    assert codes(clean(**preset("does_not_hold", name="LoadGen"))) == []


def test_every_build_is_judged_and_named():
    measurement = clean()
    quiet = TimedRun(**{name: getattr(measurement, name) for name in TimedRun.__struct_fields__})
    hot = msgspec.structs.replace(quiet, **BEYOND["throttled"])
    (finding,) = judge(msgspec.structs.replace(measurement, more_builds=(quiet, hot)), CPUS).findings
    assert (finding.code, finding.severity) == ("throttled", "invalid")
    assert finding.why.startswith("build 3: ")


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("precision_not_as_asked", {"built": msgspec.structs.replace(clean().built, precision="int8")}),
        ("outputs_not_finite", {"outputs_finite": False}),
    ],
)
def test_what_another_build_computed_is_judged(code, changes):
    measurement = clean(parity=parity(0.0, finite="precision" in code))
    first = TimedRun(**{name: getattr(measurement, name) for name in TimedRun.__struct_fields__})
    (finding,) = judge(
        msgspec.structs.replace(measurement, more_builds=(first, msgspec.structs.replace(first, **changes))), CPUS
    ).findings
    assert (finding.code, finding.severity) == (code, "invalid")
    assert finding.why.startswith("build 3: ")


def test_a_later_build_that_did_not_settle_is_said():
    measurement = clean()
    first = TimedRun(**{name: getattr(measurement, name) for name in TimedRun.__struct_fields__})
    late = msgspec.structs.replace(first, target_reached=False)
    assert codes(msgspec.structs.replace(measurement, more_builds=(late,))) == [("not_settled", "warning")]


def test_one_invalid_finding_decides():
    everything = clean(**{k: v for changes in (BEYOND["throttled"], BEYOND["noisy"]) for k, v in changes.items()})
    assert judge(everything, CPUS).status == "invalid"
    assert judge(clean(**BEYOND["noisy"]), CPUS).status == "suspect"


@pytest.mark.parametrize("code", BEYOND)
def test_every_finding_says_why_and_what_to_do(code):
    (finding,) = judge(clean(**BEYOND[code]), CPUS).findings
    assert len(finding.why) > 15
    assert len(finding.cure) > 10
    assert "nan" not in finding.why


def test_every_code_is_tested():
    import inspect
    import re

    from hwbench.measure import validity

    source = inspect.getsource(validity)
    assert set(re.findall(r'(?:"(?:warning|invalid)"|\)),?\s+"(\w+)",', source)) | {"outputs_differ"} == set(BEYOND)


def test_noise_of_a_random_machine_is_seen():
    chance = random.Random(8)
    samples = [round(1e6 * chance.lognormvariate(0, 0.2)) for _ in range(500)]
    assert ("noisy", "warning") in codes(clean(samples_ns=samples))
