"""The verdict: may these numbers be believed, and if not, why and what to do.

Every check is a function of the saved record alone, so that a verdict can be reached again from a file. Thresholds
stand beside their check. ``invalid`` is kept for what is provably not the thing asked for: another precision, another
result, a throttled processor. Noise makes a measurement ``suspect``: its interval already says how little is known.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from hwbench.measure.gpu_held import held_down
from hwbench.measure.mlperf import KEPT_BY_THE_RUN
from hwbench.records.base import Missing
from hwbench.records.measurement import FEWEST, Finding, LayerTable, Measurement, Validity, validity
from hwbench.stats import quantile

_NOISY_IQR = 0.10  # torch.utils.benchmark warns at the same share
_DRIFT = 0.05
_STEAL = 0.02
_FOREIGN = 0.10
_CLOCK_CHANGE = 0.20
_GPU_HELD = 0.01
_GPU_CLOCK_CHANGE = 0.10
_TOO_SHORT_S = 5e-6
_FEW = FEWEST
_DISTURBED = 0.5
_SHORTEST_TOLD_S = 0.5  # five counters of whole ticks a CPU are known to 0.05 s: a tenth of this
_SUSTAINED_S = 600
_LATE = 0.1
_BUILDS = 0.02
_COURSE_IS_THE_RESULT = frozenset({"burst", "sustained", "server"})
_PARITY = {"fp32": (1e-3, 1e-1), "fp64": (1e-3, 1e-1), "bf16": (1e-1, 1.0), "fp16": (1e-1, 1.0)}  # (suspect, invalid)
_LOOSEST = (1e-1, 1.0)  # for int8 and every precision that is not listed


def judge(measurement: Measurement, usable_cpus: int) -> Validity:
    """Return the verdict on one measurement.

    Args:
        measurement: with busy and stolen times of the CPUs in ``settings.cpus``, or of all when that is empty.
        usable_cpus: how many logical CPUs there are for a measurement that was pinned to none.
    """
    cpus = len(measurement.settings.cpus) or usable_cpus
    found: list[Finding] = []
    for check in _CHECKS:
        found.extend(check(measurement, cpus))
    for number, other in enumerate(measurement.more_builds, start=2):
        run = msgspec.structs.replace(measurement, **msgspec.structs.asdict(other))
        for check in (*_RESULT_CHECKS, *_RUN_CHECKS):
            found.extend(_of_build(number, finding) for finding in check(run, cpus))
    return validity(tuple(found))


def _of_build(number: int, finding: Finding) -> Finding:
    return msgspec.structs.replace(finding, why=f"build {number}: {finding.why}")


def _finding(severity: Literal["warning", "invalid"], code: str, why: str, cure: str) -> Finding:
    return Finding(severity=severity, code=code, why=why, cure=cure)


def _precision(m: Measurement, _: int) -> Iterator[Finding]:
    if m.precision_asked not in {"auto", m.built.precision}:
        yield _finding(
            "invalid",
            "precision_not_as_asked",
            f"{m.precision_asked} was asked for and {m.built.precision} was built",
            "ask for a precision that this engine offers on this device",
        )


def _finite(m: Measurement, _: int) -> Iterator[Finding]:
    compared = not isinstance(m.parity, Missing)  # with a reference whose outputs are finite
    of_this_build = not m.more_builds  # otherwise it is that of the worst, which says so itself
    if m.outputs_finite and (isinstance(m.parity, Missing) or m.parity.finite or not of_this_build):
        return
    yield _finding(
        "invalid" if compared else "warning",
        "outputs_not_finite",
        f"the outputs hold NaN or infinity{', and those of the reference do not' if compared else ''}",
        "check the weights and the inputs",
    )


def _parity(m: Measurement, _: int) -> Iterator[Finding]:
    severity, why = _difference(m)
    if severity is not None:
        yield _finding(
            "invalid" if severity == "invalid" else "warning",
            "outputs_differ",
            why,
            "a number for another result is no number: compare the outputs layer by layer",
        )


def _difference(m: Measurement) -> tuple[Literal["warning", "invalid"] | None, str]:
    """Return how grave the difference from the reference is, None when it is not, and the difference."""
    if isinstance(m.parity, Missing):
        return ("invalid" if m.parity.code == "other_outputs" else None), m.parity.why
    both = (m.built.precision, m.parity.reference_precision)
    suspect, invalid = max(_PARITY.get(precision, _LOOSEST) for precision in both)
    why = f"outputs differ from {m.parity.reference}'s by {m.parity.max_relative:.2g} of their largest value"
    if not m.parity.finite or m.parity.max_relative <= suspect:
        return None, why
    return ("invalid" if m.parity.max_relative > invalid else "warning"), why


def _noise(m: Measurement, _: int) -> Iterator[Finding]:
    if isinstance(m.latency, Missing):
        return
    spread = m.latency.iqr_s / m.latency.median_s if m.latency.median_s else 0.0
    if spread > _NOISY_IQR and m.settings.mode != "server":  # a queue's latency varies by itself
        yield _finding(
            "warning",
            "noisy",
            f"half of the samples lie further apart than {spread:.0%} of the median",
            "close other programs, or run longer (--duration)",
        )
    if m.latency.n < _FEW:
        yield _finding(
            "warning",
            "too_few_samples",
            f"{m.latency.n} samples hold no 95 % interval of the median; {_FEW} is the least",
            "take more (--iterations, --duration or --processes)",
        )
    if not all(run.target_reached for run in (m, *m.more_builds)) and m.latency.n >= _FEW:
        width = m.latency.median_high_s - m.latency.median_low_s
        half = width / 2 / m.latency.median_s if m.latency.median_s else 0.0
        yield _finding(
            "warning",
            "not_settled",
            f"time or room for samples ran out with the median known to +-{half:.1%}",
            "run longer (--max-duration), or on a quieter machine",
        )
    if m.latency.median_s < _TOO_SHORT_S:
        yield _finding(
            "warning", "near_clock", "one inference is near the cost of reading the clock", "raise the batch size"
        )


def _drift(m: Measurement, _: int) -> Iterator[Finding]:
    n = len(m.samples_ns)
    if n < 30 or isinstance(m.latency, Missing) or m.settings.mode in _COURSE_IS_THE_RESULT:
        return
    first, last = sorted(m.samples_ns[: n // 3]), sorted(m.samples_ns[-(n // 3) :])
    change = quantile(last, 0.5) / quantile(first, 0.5) - 1 if quantile(first, 0.5) else 0.0
    if abs(change) > _DRIFT:
        yield _finding(
            "warning",
            "drift",
            f"the last third is {abs(change):.0%} {'slower' if change > 0 else 'faster'} than the first",
            "warm up longer (--warmup), or look at temperature and clocks",
        )


def _throttle(m: Measurement, _: int) -> Iterator[Finding]:
    before, after = m.host_before.throttle_events, m.host_after.throttle_events
    if not isinstance(before, Missing) and not isinstance(after, Missing) and after > before:
        yield _finding(
            "warning" if m.settings.mode == "sustained" else "invalid",
            "throttled",
            f"the processor throttled {after - before} times while it was being timed",
            "let it cool down, or improve its cooling; steady-state numbers need a steady clock",
        )


def _clock_change(m: Measurement, _: int) -> Iterator[Finding]:
    before, after = m.host_before.cpu_hz, m.host_after.cpu_hz
    if isinstance(before, Missing) or isinstance(after, Missing) or not before or not after:
        return
    if m.settings.mode in _COURSE_IS_THE_RESULT:
        return
    change = statistics.fmean(after) / statistics.fmean(before) - 1
    if abs(change) > _CLOCK_CHANGE:
        yield _finding(
            "warning",
            "clock_changed",
            f"CPU clocks were {abs(change):.0%} {'higher' if change > 0 else 'lower'} after the run than before",
            "warm up longer, or fix the governor to performance",
        )


def _gpu_throttle(m: Measurement, _: int) -> Iterator[Finding]:
    before, after = m.host_before.gpu, m.host_after.gpu
    if isinstance(before, Missing) or isinstance(after, Missing):
        return
    throttled, capped = held_down(before, after, m.window_s, _GPU_HELD)
    if throttled:
        yield _finding(
            "warning" if m.settings.mode == "sustained" else "invalid",
            "gpu_throttled",
            f"the GPU held its clocks down while it was being timed: {'; '.join(throttled)}",
            "let it cool down, improve its cooling or its power supply",
        )
    if capped:
        yield _finding(
            "warning",
            "gpu_power_capped",
            f"the GPU was at its power limit: {'; '.join(capped)}; its clock was what the limit left",
            "lock a clock that it can hold: hwbench doctor --apply gpu_clocks=..., or set the limit on purpose",
        )


def _gpu_clock_change(m: Measurement, _: int) -> Iterator[Finding]:
    before, after = m.host_before.gpu, m.host_after.gpu
    if isinstance(before, Missing) or isinstance(after, Missing) or m.settings.mode in _COURSE_IS_THE_RESULT:
        return
    if isinstance(before.sm_hz, Missing) or isinstance(after.sm_hz, Missing) or not before.sm_hz:
        return
    change = after.sm_hz / before.sm_hz - 1
    if abs(change) > _GPU_CLOCK_CHANGE:
        yield _finding(
            "warning",
            "gpu_clock_changed",
            f"the GPU's clock was {abs(change):.0%} {'higher' if change > 0 else 'lower'} after the run than before",
            "warm up longer (--warmup), or lock its clock: hwbench doctor --apply gpu_clocks=...",
        )


def _steal(m: Measurement, cpus: int) -> Iterator[Finding]:
    before, after = m.host_before.steal_s, m.host_after.steal_s
    if isinstance(before, Missing) or isinstance(after, Missing):
        return
    share = _share(m, after - before, cpus)
    if share > _STEAL and _told(m):
        yield _finding(
            "warning",
            "stolen_time",
            f"the hypervisor took {share:.0%} of the time of its CPUs away",
            "use a dedicated host, or compare only within one run",
        )


def _foreign(m: Measurement, cpus: int) -> Iterator[Finding]:
    before, after = m.host_before.busy_s, m.host_after.busy_s
    if isinstance(before, Missing) or isinstance(after, Missing):
        return
    share = _share(m, after - before - m.process_cpu_s, cpus)
    if share > _FOREIGN and _told(m):
        yield _finding(
            "warning",
            "foreign_load",
            f"other programs used {share:.0%} of the time of its CPUs",
            "stop them, or measure when they are done",
        )


def _share(m: Measurement, busy_s: float, cpus: int) -> float:
    """Return the share of the CPUs' time between the two looks at the host, which lie a little outside the window."""
    between_s = max(m.window_s, m.host_after.monotonic_s - m.host_before.monotonic_s)
    return min(1.0, busy_s / (between_s * cpus)) if between_s > 0 else 0.0


def _told(m: Measurement) -> bool:
    """Say whether the window is long enough for the kernel's counters, which go in ticks of a hundredth of a second."""
    return m.window_s >= _SHORTEST_TOLD_S


def _software_gpu(m: Measurement, _: int) -> Iterator[Finding]:
    if m.built.settings.get("adapter_type") == "software":
        yield _finding(
            "invalid",
            "software_gpu",
            f"{m.built.settings.get('adapter', 'the GPU')} is a CPU that plays a GPU: its times are no GPU's",
            "measure where there is a GPU",
        )


def _oversubscribed(m: Measurement, cpus: int) -> Iterator[Finding]:
    if m.settings.threads > cpus:
        yield _finding(
            "warning",
            "oversubscribed",
            f"{m.settings.threads} threads share {cpus} CPUs: they wait for each other",
            "ask for fewer (--threads)",
        )


def _plateau(m: Measurement, _: int) -> Iterator[Finding]:
    state = m.steady_state
    if not isinstance(state, Missing) and not state.reached:
        yield _finding(
            "warning",
            "no_plateau",
            f"no plateau in {state.after_s:.0f} s of warm-up: {state.basis}",
            "warm up longer (--max-warmup), or look at cooling and other programs",
        )
    run = m.energy_run
    if not isinstance(run, Missing) and not run.plateau.reached:
        yield _finding(
            "warning",
            "no_plateau",
            f"no plateau in {run.plateau.after_s:.0f} s of warm-up: {run.plateau.by}",
            "warm up longer (--max-warmup), or look at cooling and other programs",
        )


def _short(m: Measurement, _: int) -> Iterator[Finding]:
    if m.settings.mode == "sustained" and m.settings.stop.settings["seconds"] < _SUSTAINED_S:
        yield _finding(
            "warning",
            "short_sustained",
            f"{m.settings.stop.settings['seconds']:g} s of load say little about minutes of it: a case heats up slowly",
            "sustain it for ten minutes or more (--duration 10min)",
        )


def _server(m: Measurement, _: int) -> Iterator[Finding]:
    if isinstance(m.server, Missing) or isinstance(m.latency, Missing):
        return
    if m.server.backlog_grew:
        unserved = f", {m.server.unserved} were given up" if m.server.unserved else ""
        yield _finding(
            "invalid",
            "backlog_grew",
            f"the queue grew: {m.server.offered_load:.0%} of what the workers can do was asked of them, "
            f"{m.server.backlog} queries were waiting at the end{unserved}; its latency depends on when one stops",
            "lower the rate (--rate), or give more workers (--streams)",
        )
    timer = m.server.timer
    if not isinstance(timer, Missing) and timer.median_s > _LATE * m.latency.median_s:
        yield _finding(
            "warning",
            "late_arrivals",
            f"the load generator sent half of its queries over {timer.median_s * 1e6:.0f} µs late, "
            f"{timer.median_s / m.latency.median_s:.0%} of the median latency",
            "leave a CPU to the load generator (fewer --threads), or use a larger batch",
        )


def _builds(m: Measurement, _: int) -> Iterator[Finding]:
    if not isinstance(m.builds, Missing) and m.builds.between_s > _BUILDS * m.builds.mean_s:
        yield _finding(
            "warning",
            "builds_differ",
            f"from build to build the median varies by {m.builds.between_s / m.builds.mean_s:.1%} (standard deviation)",
            "compare over several builds (--repeat-build), and ship the build that was measured",
        )


def _preset(m: Measurement, _: int) -> Iterator[Finding]:
    if isinstance(m.preset, Missing):
        return
    kept = [rule for rule in m.preset.requirements if rule.name in KEPT_BY_THE_RUN]
    broken = [f"{rule.name} ({rule.why})" for rule in kept if rule.verdict == "does_not_hold"]
    if broken:
        yield _finding(
            "warning",
            "preset_not_kept",
            f"limits of {m.preset.name} that do not hold: {'; '.join(broken)}",
            "leave --duration and --batch-size to the preset, or lower --rate",
        )


def _swap(m: Measurement, _: int) -> Iterator[Finding]:
    before, after = m.host_before.swap_out_bytes, m.host_after.swap_out_bytes
    if not isinstance(before, Missing) and not isinstance(after, Missing) and after > before:
        yield _finding(
            "warning", "swapping", "the machine swapped memory out meanwhile", "free memory, or use a smaller batch"
        )


def _layers(m: Measurement, _: int) -> Iterator[Finding]:
    if isinstance(m.layers, LayerTable) and m.layers.profiling_overhead > _DISTURBED:
        yield _finding(
            "warning",
            "layers_disturbed",
            f"an inference took {m.layers.profiling_overhead:.0%} longer while its layers were timed: "
            "their shares say little about the undisturbed one",
            "use a quieter machine, or a larger model",
        )


_Check = Callable[[Measurement, int], Iterator[Finding]]
_RESULT_CHECKS: tuple[_Check, ...] = (_precision, _finite, _software_gpu)
_RUN_CHECKS: tuple[_Check, ...] = (
    _throttle, _gpu_throttle, _drift, _clock_change, _gpu_clock_change, _steal, _foreign, _swap, _plateau,
)  # fmt: skip
_CHECKS = (
    *_RESULT_CHECKS,
    _parity,
    _noise,
    *_RUN_CHECKS,
    _layers,
    _oversubscribed,
    _short,
    _server,
    _builds,
    _preset,
)
