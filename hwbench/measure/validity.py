"""The verdict: may these numbers be believed, and if not, why and what to do.

Every check is a function of the saved record alone, so that a verdict can be reached again from a file. Thresholds
stand beside their check. ``invalid`` is kept for what is provably not the thing asked for: another precision, another
result, a throttled processor. Noise makes a measurement ``suspect``: its interval already says how little is known.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Literal

from hwbench.records.base import Missing
from hwbench.records.measurement import Finding, LayerTable, Measurement, Validity, validity
from hwbench.stats import quantile

_NOISY_IQR = 0.10  # torch.utils.benchmark warns at the same share
_DRIFT = 0.05
_STEAL = 0.02
_FOREIGN = 0.10
_CLOCK_CHANGE = 0.20
_TOO_SHORT_S = 5e-6
_FEW = 6  # fewer have no 95 % interval of the median: even all of them hold it with a chance of 1 - 2 / 2^n only
_DISTURBED = 0.5
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
    return validity(tuple(found))


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
    if m.outputs_finite and (isinstance(m.parity, Missing) or m.parity.finite):
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
    if spread > _NOISY_IQR:
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
            "take more (--iterations)",
        )
    if not m.target_reached:
        width = m.latency.median_high_s - m.latency.median_low_s
        half = width / 2 / m.latency.median_s if m.latency.median_s else 0.0
        yield _finding(
            "warning",
            "not_settled",
            f"time ran out with the median known to +-{half:.1%}",
            "run longer (--max-duration), or on a quieter machine",
        )
    if m.latency.median_s < _TOO_SHORT_S:
        yield _finding(
            "warning", "near_clock", "one inference is near the cost of reading the clock", "raise the batch size"
        )


def _drift(m: Measurement, _: int) -> Iterator[Finding]:
    n = len(m.samples_ns)
    if n < 30 or isinstance(m.latency, Missing):
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
            "invalid",
            "throttled",
            f"the processor throttled {after - before} times while it was being timed",
            "let it cool down, or improve its cooling; steady-state numbers need a steady clock",
        )


def _clock_change(m: Measurement, _: int) -> Iterator[Finding]:
    before, after = m.host_before.cpu_hz, m.host_after.cpu_hz
    if isinstance(before, Missing) or isinstance(after, Missing) or not before or not after:
        return
    change = statistics.fmean(after) / statistics.fmean(before) - 1
    if abs(change) > _CLOCK_CHANGE:
        yield _finding(
            "warning",
            "clock_changed",
            f"CPU clocks were {abs(change):.0%} {'higher' if change > 0 else 'lower'} after the run than before",
            "warm up longer, or fix the governor to performance",
        )


def _steal(m: Measurement, cpus: int) -> Iterator[Finding]:
    before, after = m.host_before.steal_s, m.host_after.steal_s
    if isinstance(before, Missing) or isinstance(after, Missing):
        return
    share = (after - before) / (m.window_s * cpus)
    if share > _STEAL:
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
    share = (after - before - m.process_cpu_s) / (m.window_s * cpus)
    if share > _FOREIGN:
        yield _finding(
            "warning",
            "foreign_load",
            f"other programs used {share:.0%} of the time of its CPUs",
            "stop them, or measure when they are done",
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


_CHECKS: tuple[Callable[[Measurement, int], Iterator[Finding]], ...] = (
    _precision, _finite, _parity, _throttle, _noise, _drift, _clock_change, _steal, _foreign, _swap, _layers,
)  # fmt: skip
