"""Two saved measurements: may they stand beside each other, and how do they compare.

What differs between them falls in two kinds. What is being compared (the model, the engine, its version and settings)
is listed. What would make the comparison say something else than it seems to (another machine, other threads, another
batch) hinders: it is refused unless waved through by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwbench.compare import resample, verdict
from hwbench.compare.metrics import NOT_RECORDED, UNITS, WORDS, absolute, peak_bytes
from hwbench.compare.resample import Estimate
from hwbench.compare.sides import artefact_words
from hwbench.errors import InvalidMeasurement, UsageError
from hwbench.records.base import Missing
from hwbench.records.comparison import Difference, Metric, OneOff, Outputs, Pair, Settings, Side, Verdict
from hwbench.records.energy import EnergyReading, EnergyRun
from hwbench.records.measurement import Measurement, ProfileResult

HINDERING = (
    "fingerprint", "power-mode", "governor", "mode", "threads", "streams", "cpus", "batch", "inputs", "precision",
    "stop",
)  # fmt: skip
_CONFIDENCE = 0.95
_OUTPUTS = Missing(code="not_kept", why="saved results do not hold outputs")
_MANY = 200  # degrees of freedom of an uncertainty that was told, not estimated here
_MEMORY_STEP_BYTES = 2**20  # /proc lags by some pages a CPU

Quantity = tuple[float, float, Estimate]  # of A, of B, and the log ratio


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which measurement to take of each side; None leaves it open."""

    engine_a: str | None = None
    engine_b: str | None = None
    precision_a: str | None = None
    precision_b: str | None = None

    @property
    def other_precisions(self) -> bool:
        """Say whether different precisions were asked for by name."""
        named = self.precision_a is not None and self.precision_b is not None
        return named and self.precision_a != self.precision_b


@dataclass(frozen=True, kw_only=True)
class One:
    """One measurement and the result it stands in."""

    given: str
    result: ProfileResult
    measurement: Measurement

    @property
    def key(self) -> tuple[str, str]:
        """Engine and precision, as asked."""
        return self.measurement.engine, self.measurement.precision_asked


def choose(given: tuple[str, str], a: ProfileResult, b: ProfileResult, choice: Choice) -> list[tuple[One, One]]:
    """Return the pairs to compare: those named, or every engine and precision that both sides have.

    Raises:
        UsageError: a side has not what was named, or the two have nothing in common.
    """
    ones_a = _candidates("A", given[0], a, choice.engine_a, choice.precision_a)
    ones_b = _candidates("B", given[1], b, choice.engine_b, choice.precision_b)
    if len(ones_a) == len(ones_b) == 1 and (choice != Choice() or _built(ones_a[0]) or _built(ones_b[0])):
        return [(ones_a[0], ones_b[0])]
    by_key = {one.key: one for one in ones_b}
    pairs = [(one, by_key[one.key]) for one in ones_a if one.key in by_key]
    if not pairs:
        raise UsageError(
            "the two results have no engine and precision in common",
            hint=f"A has {_keys(ones_a)}; B has {_keys(ones_b)}; name them with --engine-a, --engine-b, --precision-a, "
            "--precision-b",
        )
    return pairs


def _candidates(side: str, given: str, result: ProfileResult, engine: str | None, precision: str | None) -> list[One]:
    every = [One(given=given, result=result, measurement=m) for m in result.measurements]
    found = [one for one in every if engine in {None, one.key[0]} and precision in {None, one.key[1]}]
    if not found:
        asked = " ".join(part for part in (engine, precision) if part) or "measurement"
        raise UsageError(f"{side} ('{given}') has no {asked}", hint=f"it has {_keys(every)}")
    return found


def _keys(ones: Sequence[One]) -> str:
    return ", ".join(" ".join(one.key) for one in ones) or "none"


def compare_saved(a: One, b: One, choice: Choice, settings: Settings, *, ignore: frozenset[str], force: bool) -> Pair:
    """Return the verdicts on two saved measurements.

    Raises:
        InvalidMeasurement: one of them is invalid, or something hinders that was not waved through.
    """
    for side, one in (("A", a), ("B", b)):
        if one.measurement.validity.status == "invalid":
            why = "; ".join(f.why for f in one.measurement.validity.findings if f.severity == "invalid")
            msg = f"{side} ({one.given}: {' '.join(one.key)}) is invalid: {why}"
            raise InvalidMeasurement(msg, hint="measure it again; an invalid number is not compared, --force or not")
    waived = frozenset(HINDERING) if force else ignore | ({"precision"} if choice.other_precisions else frozenset())
    hindering = hindrances(*_facts(a, b), waived)
    found: list[Verdict] = []
    absent: dict[str, Missing] = {"accuracy": NOT_RECORDED}
    quantities: dict[Metric, Quantity | Missing] = {
        "latency": _latency(a.measurement, b.measurement, settings, 0.5),
        "latency_p90": _p90(a.measurement, b.measurement, settings),
        "throughput": _throughput(a.measurement, b.measurement, settings),
        "energy": _energy(a.measurement, b.measurement, settings),
        "peak_memory": _memory(a.measurement, b.measurement, settings),
    }
    for metric, quantity in quantities.items():
        if isinstance(quantity, Missing):
            absent[metric] = quantity
        else:
            found.append(_verdict(metric, quantity, settings))
    return Pair(
        label=" ".join(a.key) if a.key == b.key else f"{' '.join(a.key)} against {' '.join(b.key)}",
        a=_side(a),
        b=_side(b),
        verdicts=tuple(found),
        absent=absent,
        one_off=_one_off(a.measurement, b.measurement),
        differences=(*hindering, *_compared(a, b)),
        accuracy=NOT_RECORDED,
        outputs=Outputs(b=_OUTPUTS, control=_OUTPUTS),
    )


def _built(one: One) -> bool:
    """Say whether an engine was measured that had been built before; it runs in its own precision."""
    return isinstance(one.measurement.artefact_sha256, str)


def _facts(a: One, b: One) -> tuple[dict[str, str], dict[str, str]]:
    found = facts(a), facts(b)
    if _built(a) or _built(b):
        for one in found:
            one.pop("precision")
    return found


def facts(one: One) -> dict[str, str]:
    """Return what must be the same on both sides, in words."""
    model, device, m = one.result.model, one.result.device, one.measurement
    settings = m.settings
    values: dict[str, object] = {
        "fingerprint": device.fingerprint,
        "power-mode": device.power_mode,
        "governor": m.host_before.governor,
        "mode": " ".join((settings.mode, *(f"{key}={value:g}" for key, value in settings.mode_settings.items()))),
        "threads": settings.threads,
        "streams": settings.streams,
        "cpus": ",".join(map(str, settings.cpus)),
        "batch": model.batch_size,
        "inputs": ", ".join(f"{i.dtype}[{'x'.join(map(str, i.shape))}]" for i in model.inputs),
        "precision": m.precision_asked,
        "stop": settings.stop.name,
    }
    return {
        name: f"unknown ({value.code})" if isinstance(value, Missing) else str(value) for name, value in values.items()
    }


def hindrances(a: dict[str, str], b: dict[str, str], waived: frozenset[str]) -> tuple[Difference, ...]:
    """Return the differences that would hinder and were waved through.

    Raises:
        InvalidMeasurement: there are others.
    """
    differ = [name for name in a if a[name] != b[name]]
    refused = [name for name in differ if name not in waived]
    if refused:
        lines = [f"{name}: {a[name]} in A, {b[name]} in B" for name in refused]
        lines.append(f"{' '.join(f'--ignore {name}' for name in refused)} compares them all the same; --force, always")
        raise InvalidMeasurement(f"A and B cannot be compared: {', '.join(refused)} differ", hint="\n".join(lines))
    return tuple(Difference(name=name, a=a[name], b=b[name], hinders=True) for name in differ)


_SETTING = "engine setting "


def _compared(a: One, b: One) -> tuple[Difference, ...]:
    sides = [_compared_facts(one) for one in (a, b)]
    names = sorted({name for side in sides for name in side})
    if a.measurement.engine != b.measurement.engine:  # the settings of one engine mean nothing to another
        names = [name for name in names if not name.startswith(_SETTING)]
    pairs = [(name, sides[0].get(name, "none"), sides[1].get(name, "none")) for name in names]
    return tuple(Difference(name=name, a=of_a, b=of_b) for name, of_a, of_b in pairs if of_a != of_b)


def _compared_facts(one: One) -> dict[str, str]:
    built, environment = one.measurement.built, one.result.environment
    return {
        "model": f"{one.result.model.name} {one.result.model.hub_sha256[:12]}",
        "artefact": artefact_words(one.measurement.artefact_sha256),
        "engine": f"{built.engine} {built.version}",
        "built precision": built.precision,
        "timed region": one.measurement.timed_region,
        "seed": str(one.measurement.settings.seed),
        "hwbench": environment.hwbench,
        "python": environment.python,
        "os": environment.os,
        "kernel": environment.kernel,
        **{f"{_SETTING}{key}": value for key, value in built.settings.items()},
        **{f"package {item.name}": item.version for item in environment.packages},
    }


def _side(one: One) -> Side:
    notes = [f"{finding.code}: {finding.why}" for finding in one.measurement.validity.findings]
    if one.result.status != "complete":
        notes.append(f"the run is {one.result.status}")
    return Side(
        given=one.given,
        model=one.result.model.name,
        hub_sha256=one.result.model.hub_sha256,
        artefact_sha256=one.measurement.artefact_sha256,
        engine=one.measurement.engine,
        precision_asked=one.measurement.precision_asked,
        built=one.measurement.built,
        created_at=one.measurement.started_at,
        notes=tuple(notes),
    )


def _one_off(a: Measurement, b: Measurement) -> tuple[OneOff, ...]:
    def one(value: float | Missing) -> tuple[float, ...] | Missing:
        return value if isinstance(value, Missing) else (value,)

    return (
        OneOff(name="load", a_s=one(a.phases.load_s), b_s=one(b.phases.load_s)),
        OneOff(name="compile", a_s=one(a.phases.compile_s), b_s=one(b.phases.compile_s)),
        OneOff(name="first_inference", a_s=one(a.phases.first_inference_s), b_s=one(b.phases.first_inference_s)),
    )


def _verdict(metric: Metric, quantity: Quantity, settings: Settings) -> Verdict:
    a, b, estimate = quantity
    found = verdict.ratio(estimate, _CONFIDENCE)
    least = verdict.minimum(settings.min_effect, absolute(metric, settings), a)
    side = verdict.decide(found, least)
    return Verdict(
        metric=metric,
        unit=UNITS[metric],
        word=verdict.word(side, *WORDS[metric]),
        a=a,
        b=b,
        ratio=found,
        min_ratio=least,
        control=Missing(code="not_interleaved", why="saved results have no A/A control"),
        method=_METHODS[metric] + f"; {settings.between_runs:.2g} assumed from run to run",
        why=verdict.unsettled_saved(estimate, least, _CONFIDENCE) if side == "unclear" else None,
    )


_METHODS: dict[Metric, str] = {
    "latency": "ratio of medians; blocks of consecutive samples resampled",
    "latency_p90": "ratio of 90th percentiles; blocks of consecutive samples resampled",
    "throughput": "ratio of mean rates over the parts of each window",
    "energy": "ratio of single windows; the meter's own uncertainty",
    "peak_memory": "ratio of single values; 1 MiB resolution",
}


def _latency(a: Measurement, b: Measurement, settings: Settings, p: float) -> Quantity | Missing:
    found: list[tuple[float, Estimate]] = []
    for seed, m in enumerate((a, b)):
        if isinstance(m.latency, Missing):
            return m.latency
        samples = np.array(m.samples_ns, dtype=np.float64) / 1e9
        if samples.min() <= 0:
            return Missing(code="near_clock", why="some inferences took no time by this clock")
        correlation = m.latency.n / m.latency.n_effective
        one = resample.quantile_in_blocks(samples, p, correlation=correlation, seed=settings.seed * 2 + seed)
        if one is None:
            why = f"{m.latency.n} samples are worth {m.latency.n_effective:.0f} independent ones: too few"
            return Missing(code="too_few_samples", why=why, cure="measure longer: hwbench profile --duration")
        found.append(one)
    (value_a, of_a), (value_b, of_b) = found
    return value_a, value_b, resample.ratio_of(of_a, of_b, between=settings.between_runs)


def _p90(a: Measurement, b: Measurement, settings: Settings) -> Quantity | Missing:
    for m in (a, b):
        if isinstance(m.latency, Missing):
            return m.latency
        if isinstance(m.latency.p90_s, Missing):
            return m.latency.p90_s
    return _latency(a, b, settings, 0.9)


def _throughput(a: Measurement, b: Measurement, settings: Settings) -> Quantity | Missing:
    found = []
    for m in (a, b):
        if isinstance(m.throughput, Missing):
            return m.throughput
        rates = np.array(m.throughput.sub_window_per_s)
        if len(rates) < 2 or rates.mean() <= 0:
            return Missing(code="too_few_samples", why="the window has too few parts to know its noise")
        found.append((m.throughput.inferences_per_s, resample.mean_of(rates)))
    (value_a, of_a), (value_b, of_b) = found
    return value_a, value_b, resample.ratio_of(of_a, of_b, between=settings.between_runs)


def _energy(a: Measurement, b: Measurement, settings: Settings) -> Quantity | Missing:
    """Compare joules of one instrument: what its scale is off by is in both, and cancels."""
    if isinstance(a.energy, Missing):
        return a.energy
    if isinstance(b.energy, Missing):
        return b.energy
    if (reason := _other_joules(a.energy, b.energy)) is not None:
        return reason
    if isinstance(a.energy_run, EnergyRun) and isinstance(b.energy_run, EnergyRun):
        return _plateaus(a.energy_run, b.energy_run, settings)
    if isinstance(a.energy_run, EnergyRun) != isinstance(b.energy_run, EnergyRun):
        why = "one is an energy run of repeated windows, the other has the energy of one window"
        return Missing(code="other_mode", why=why, cure="measure both with --mode energy")
    values = [m.energy_per_inference_j for m in (a, b)]
    return _told(values, [_own_error(a.energy), _own_error(b.energy)], settings)


def _other_joules(a: EnergyReading, b: EnergyReading) -> Missing | None:
    """Return why two readings are not of one kind, if so."""
    if (a.meter, a.boundary) != (b.meter, b.boundary):
        why = f"measured by {a.meter} ({a.boundary}) and {b.meter} ({b.boundary})"
        return Missing(code="other_meter", why=why, cure="measure both with the same --meter")
    if "replayed" in {a.provenance, b.provenance}:
        return Missing(code="replayed", why="the energy was replayed from a recording, not measured")
    return None


def _plateaus(a: EnergyRun, b: EnergyRun, settings: Settings) -> Quantity | Missing:
    """Compare the totals of two energy runs: their windows scatter, and their edges and steps are their own."""
    values: list[float | Missing] = []
    errors: list[float] = []
    for run in (a, b):
        if isinstance(run.total_j, Missing):
            return run.total_j
        scatter = run.total_j.stdev / math.sqrt(run.total_j.n) / abs(run.total_j.value)
        own = [_own_error(w.reading) for w in run.windows if isinstance(w.reading, EnergyReading)]
        values.append(run.total_j.value)
        errors.append(math.hypot(scatter, max(own, default=0.0)))
    return _told(values, errors, settings)


def _own_error(reading: EnergyReading) -> float:
    """Return the relative standard error of a reading but for the gain, which is k=2 in the record, as the whole is."""
    return math.sqrt(max(0.0, reading.relative_uncertainty**2 - reading.gain_uncertainty**2)) / 2


def _memory(a: Measurement, b: Measurement, settings: Settings) -> Quantity | Missing:
    values: list[float | Missing] = [peak_bytes(m) for m in (a, b)]
    errors = [0.0 if isinstance(v, Missing) or v <= 0 else _MEMORY_STEP_BYTES / math.sqrt(3) / v for v in values]
    return _told(values, errors, settings)


def _told(values: Sequence[float | Missing], errors: Sequence[float], settings: Settings) -> Quantity | Missing:
    """Return the ratio of two single values with relative standard errors told from outside."""
    known: list[float] = []
    for value in values:
        if isinstance(value, Missing):
            return value
        if value <= 0:
            return Missing(code="below_resolution", why="the instrument saw nothing")
        known.append(value)
    of_a, of_b = (Estimate(log_ratio=math.log(v), error=e, df=_MANY) for v, e in zip(known, errors, strict=True))
    return known[0], known[1], resample.ratio_of(of_a, of_b, between=settings.between_runs)
