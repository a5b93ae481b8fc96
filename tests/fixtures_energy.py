"""Synthetic energy runs with their traces: round numbers, so that every figure in a report is known beforehand.

A run of ``make_run(watts, time_s)`` has five windows of 10 s with a scatter of 1 % in the middle three, 20 W of idle
power, and a trace that :func:`write_run` lays beside a result. ``sweep()`` is one engine at five batch sizes.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import msgspec
from fixtures_results import HOSTILE, make_device, make_estimate, make_measurement, make_model, make_result

from hwbench.energy.integrate import Sample
from hwbench.energy.trace import Trace, write_trace
from hwbench.records.base import Missing
from hwbench.records.energy import (
    TRACE_SCHEMA,
    Channel,
    CrossCheck,
    EnergyReading,
    EnergyRun,
    EnergyWindow,
    Idle,
    Mark,
    Plateau,
    PowerLevels,
    Repeated,
    TraceHeader,
)
from hwbench.records.measurement import Measurement, ProfileResult
from hwbench.stats import mean_interval

IDLE_W, IDLE_S, WARMUP_S, WINDOW_S, REPEATS = 20.0, 10.0, 15.0, 10.0, 5
SCATTER = (0.0, -0.01, 0.0, 0.01, 0.0)
BOUNDARY = "CPU package and its memory, from the regulators; disks and fans excluded"
TYPE_B = 0.1
TRACE = "runs/openvino-bf16/trace.jsonl"


def windows_s() -> list[tuple[float, float]]:
    """Return start and end of each window: a second between them."""
    first = IDLE_S + WARMUP_S
    return [(first + n * (WINDOW_S + 1), first + n * (WINDOW_S + 1) + WINDOW_S) for n in range(REPEATS)]


def make_trace(watts: float, *, time_s: float = 4e-3, heat: bool = True, meter: str = "rapl") -> Trace:
    """Return 10 Hz of a counter at ``watts`` under load, a power view of the same, and a temperature.

    The windows say that an inference took ``time_s``.
    """
    end_s = windows_s()[-1][1] + IDLE_S
    energy, power, warmth = [], [], []
    joules = 1000.0
    for step in range(round(end_s * 10) + 1):
        t_s = step / 10
        busy = IDLE_S <= t_s < end_s - IDLE_S
        energy.append(Sample(t_s, joules))
        power.append(Sample(t_s, watts if busy else IDLE_W))
        warmth.append(Sample(t_s, 45 + 20 * (1 - math.exp(-max(0.0, t_s - IDLE_S) / 8))))
        joules += (watts if busy else IDLE_W) / 10
    channels = [
        Channel(
            name="package-0", quantity="energy", role="total", source="intel-rapl:0", period_s=0.001, range=262144.0
        ),
        Channel(name="regulator", quantity="power", role="check", source="hwmon3/power1_input", period_s=0.1),
    ]
    samples = {"package-0": energy, "regulator": power}
    if heat:
        channels.append(
            Channel(name="package temperature", quantity="temperature", role="context", source="hwmon2", period_s=0.1)
        )
        samples["package temperature"] = warmth
    spans = [
        ("idle_before", 0.0, IDLE_S),
        ("warmup", IDLE_S, IDLE_S + WARMUP_S),
        *(("window", start, end) for start, end in windows_s()),
        ("idle_after", end_s - IDLE_S, end_s),
    ]
    facts = {"window": {"inferences": WINDOW_S / time_s}}
    marks = [
        mark
        for name, start, end in spans
        for mark in (
            Mark(t_s=start, mark=f"{name}.start"),
            Mark(t_s=end, mark=f"{name}.end", facts=facts.get(name, {})),
        )
    ]
    header = TraceHeader(
        schema_version=TRACE_SCHEMA,
        meter=meter,
        boundary=BOUNDARY,
        provenance="measured_onboard",
        clock="MonotonicClock",
        started_at="2026-11-22T10:15:00.000+00:00",
        channels=tuple(channels),
    )
    return Trace(header, samples=samples, marks=marks)


def repeated(value: float) -> Repeated:
    values = [value * (1 + part) for part in SCATTER]
    low, high = mean_interval(values)
    return Repeated(
        value=value, low=low, high=high, stdev=value * math.sqrt(2e-4 / 4), n=REPEATS, relative_uncertainty=TYPE_B
    )


def make_run(watts: float, time_s: float, *, idle_w: float = IDLE_W, **changes) -> EnergyRun:
    """Return a run at ``watts`` with ``time_s`` per inference: ``watts * time_s`` joules each."""
    inferences = round(WINDOW_S / time_s)
    windows = tuple(
        EnergyWindow(start_s=start, end_s=end, inferences=inferences, reading=_reading(watts * (1 + part)))
        for (start, end), part in zip(windows_s(), SCATTER, strict=True)
    )
    run = EnergyRun(
        meter="rapl",
        boundary=BOUNDARY,
        provenance="measured_onboard",
        windows=windows,
        plateau=Plateau(reached=True, after_s=WARMUP_S, by="temperature and power"),
        total_j=repeated(watts * time_s),
        dynamic_j=repeated((watts - idle_w) * time_s),
        idle=Idle(
            state="idle_active",
            before_w=idle_w,
            after_w=idle_w,
            mean_w=idle_w,
            standard_uncertainty_w=0.05,
            window_s=IDLE_S,
        ),
        inferences_per_j=1 / (watts * time_s),
        time_per_inference_s=time_s,
        energy_delay_js=watts * time_s**2,
        power=PowerLevels(average_w=watts, p95_w=watts * 1.02, peak_w=watts * 1.05, averaging_s=0.1),
        throttled_s={"sw_power_cap": 0.0, "hw_thermal": 0.0},
        start_c=61.0,
        end_c=63.5,
        crosscheck=CrossCheck(channel="regulator", energy_j=watts * WINDOW_S / 0.99, ratio=0.99),
        recorder_cpu_share=0.004,
        not_used={"nvml": "no NVIDIA GPU"},
        trace=TRACE,
        trace_sha256="0" * 64,
    )
    return msgspec.structs.replace(run, **changes)


def _reading(watts: float) -> EnergyReading:
    return EnergyReading(
        meter="rapl",
        boundary=BOUNDARY,
        provenance="measured_onboard",
        energy_j=watts * WINDOW_S,
        window_s=WINDOW_S,
        relative_uncertainty=TYPE_B,
        domains_j={"package-0": watts * WINDOW_S * 0.8, "dram": watts * WINDOW_S * 0.2},
        update_period_s=0.001,
        clock="MonotonicClock",
    )


def with_run(engine: str, precision: str, run: EnergyRun | Missing, **changes) -> Measurement:
    """Return a measurement that holds ``run``."""
    time_s = 4e-3 if isinstance(run, Missing) else run.time_per_inference_s
    return make_measurement(engine, precision, median_s=time_s, n=1200, energy_run=run, **changes)


def energy_result(**changes) -> ProfileResult:
    """Return two engines by the plateau method, one plain window, one estimate, one without anything."""
    reading = msgspec.structs.replace(_reading(70.0), flags=("window_too_short", "odd_word"))
    return make_result(
        with_run("onnxruntime", "fp32", make_run(50.0, 4e-3)),
        with_run("openvino", "bf16", make_run(60.0, 2e-3, flags=("clocks_not_locked",))),
        make_measurement("torch-compile", "fp32", median_s=6e-3, energy=reading, energy_per_inference_j=0.42),
        make_measurement("torch-eager", "fp32", median_s=9e-3, energy_estimate=make_estimate(0.01)),
        **changes,
    )


def batch_result(batch: int, watts: float, time_s: float, **changes) -> ProfileResult:
    """Return one engine at one batch size."""
    model = make_model(batch_size=batch, hub_sha256=f"{batch:064x}")
    run = make_run(watts, time_s)
    return make_result(with_run("openvino", "bf16", run), model=model, run_id=f"batch-{batch}", **changes)


def sweep() -> list[ProfileResult]:
    """Return one engine at batch sizes 1 to 16; 4 is within 5 % of the best, 8."""
    points = {1: (40.0, 2e-3), 2: (50.0, 2.5e-3), 4: (60.0, 4e-3), 8: (61.0, 7.6e-3), 16: (62.0, 15.6e-3)}
    return [batch_result(batch, watts, time_s) for batch, (watts, time_s) in points.items()]


def power_modes() -> list[ProfileResult]:
    """Return one engine in three power modes of a board."""
    found = []
    for mode, watts, time_s in (("15W", 14.0, 9e-3), ("30W", 27.0, 5e-3), ("MAXN", 48.0, 3.8e-3)):
        device = make_device("Jetson AGX Orin", power_mode=mode, fingerprint=f"jetson-{mode}", cpu=None)
        cold = Missing(code="no_sensor", why="no thermal zone could be read")
        run = make_run(watts, time_s, idle_w=6.0, start_c=cold)
        found.append(make_result(with_run("tensorrt", "fp16", run), device=device, run_id=f"mode-{mode}"))
    return found


def power_limits() -> list[ProfileResult]:
    """Return one engine at three power limits of a GPU, which the instrument tells."""
    found = []
    for limit, watts, time_s in ((300, 290.0, 1.5e-3), (500, 480.0, 1e-3), (700, 640.0, 0.9e-3)):
        run = make_run(
            watts, time_s, meter="nvml", settings={"power_limit_enforced": f"{limit} W"}, dynamic_j=NO_DYNAMIC
        )
        device = make_device(fingerprint=f"limit-{limit}")  # a GPU's is another at each limit
        found.append(make_result(with_run("tensorrt", "fp16", run), device=device, run_id=f"limit-{limit}"))
    return found


NO_DYNAMIC = Missing(code="no_idle", why="idle power could not be read", cure="stop other programs")


def write_run(folder: Path, result: ProfileResult, *, heat: bool = True) -> ProfileResult:
    """Write a trace for each run of ``result`` below ``folder``; return the result that names them."""
    measurements = []
    for number, m in enumerate(result.measurements):
        run = m.energy_run
        if not isinstance(run, Missing):
            assert not isinstance(run.power, Missing)
            name = f"runs/{number}/trace.jsonl"
            write_trace(folder / name, make_trace(run.power.average_w, heat=heat, meter=run.meter))
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            run = msgspec.structs.replace(run, trace=name, trace_sha256=digest)
        measurements.append(msgspec.structs.replace(m, energy_run=run))
    return msgspec.structs.replace(result, measurements=tuple(measurements))


def hostile_energy() -> ProfileResult:
    """Return markup in every string of an energy run, a reading and an estimate."""
    run = make_run(
        50.0,
        4e-3,
        meter=HOSTILE,
        boundary=HOSTILE,
        plateau=Plateau(reached=False, after_s=3.0, by=HOSTILE),
        crosscheck=CrossCheck(channel=HOSTILE, energy_j=1.0, ratio=1.0),
        throttled_s={HOSTILE: 1.5},
        idle=Missing(code="x", why=HOSTILE, cure=HOSTILE),
        not_used={HOSTILE: HOSTILE},
        flags=(HOSTILE,),
        trace=HOSTILE,
        settings={HOSTILE: HOSTILE},
    )
    windows = tuple(
        msgspec.structs.replace(w, reading=msgspec.structs.replace(w.reading, domains_j={HOSTILE: 1.0}))
        for w in run.windows
    )
    run = msgspec.structs.replace(run, windows=windows)
    reading = msgspec.structs.replace(_reading(9.0), meter=HOSTILE, boundary=HOSTILE, flags=(HOSTILE,))
    estimate = msgspec.structs.replace(make_estimate(0.1), method=HOSTILE, boundary=HOSTILE, inputs={HOSTILE: HOSTILE})
    return make_result(
        with_run(HOSTILE, HOSTILE, run, energy_estimate=estimate),
        make_measurement("b", energy=reading, energy_per_inference_j=0.1),
        make_measurement("c", energy=Missing(code="x", why=HOSTILE)),
        model=make_model(HOSTILE),
        device=make_device(HOSTILE),
    )


def hostile_trace(run: EnergyRun) -> dict[str, Trace]:
    """Return a trace whose channel is named by an enemy, for ``run``."""
    trace = make_trace(50.0)
    channel = msgspec.structs.replace(trace.header.channels[0], name=HOSTILE)
    header = msgspec.structs.replace(trace.header, channels=(channel, *trace.header.channels[1:]))
    samples = {HOSTILE: trace.samples["package-0"], "regulator": trace.samples["regulator"]}
    return {run.trace_sha256: Trace(header, samples=samples, marks=trace.marks)}
