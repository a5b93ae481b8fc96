"""Single facts of a result as short sentences, the same in the terminal and on the page.

What comes from outside (names, error texts) is put in as it is: whoever shows a sentence escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading
from hwbench.records.measurement import LayerTime, Measurement, Memory, NotMeasured, ProfileResult
from hwbench.records.model import Model
from hwbench.units import format_bytes, format_seconds, format_si

DASH = "—"
PROVENANCE = {
    "measured_external": "measured by an external meter",
    "measured_onboard": "measured by a sensor on the board",
    "vendor_modelled": "read from the vendor's counter, which models the power",
    "replayed": "REPLAYED from a recording, not of this run",
}


def model_facts(model: Model) -> list[str]:
    """Return what the model is: name, size, cost, inputs, and whether its weights mean anything."""
    shapes = ", ".join(f"{spec.name} {spec.dtype}[{'x'.join(map(str, spec.shape))}]" for spec in model.inputs)
    origin = {"random": "random values", "file": "values from a file", "example": "the model's example values"}
    return [
        model.name if model.source == model.name else f"{model.name} ({model.source})",
        f"{format_si(model.parameters, '').strip()} parameters, {format_bytes(model.weight_bytes)} of weights",
        macs(model),
        f"inputs {shapes}: {origin[model.input_origin]}",
        weights(model),
    ]


def macs(model: Model) -> str:
    """Return the multiply-adds, saying so when some op could not be counted."""
    uncounted = model.uncounted
    if uncounted and all(isinstance(layer.macs, Missing) for layer in model.layers):
        return f"MACs unknown (no cost known for {', '.join(uncounted)})"
    least = f", at least (not counted: {', '.join(uncounted)})" if uncounted else ""
    return f"{format_si(model.macs, '').strip()} MACs{least}"


def weights(model: Model) -> str:
    """Return whether accuracy may be read into the outputs."""
    return {
        "trained": "weights trained",
        "untrained": "weights UNTRAINED: speed is real, accuracy and the output values mean nothing",
        "as_given": "weights as given",
    }[model.weights]


def device_facts(result: ProfileResult) -> list[str]:
    """Return what the device is, and what it runs in."""
    device = result.device
    facts = [f"{device.title} ({device.name})"]
    if device.cpu is not None:
        cpu = device.cpu
        host = "" if device.kind == "cpu" else f"host {cpu.model_name}: "
        facts.append(f"{host}{cpu.physical_cores} cores, {cpu.logical_cpus} logical CPUs, {cpu.architecture}")
        if not isinstance(cpu.governor, Missing):
            facts.append(f"governor {cpu.governor}")
    if not isinstance(device.memory_bytes, Missing):
        facts.append(f"{format_bytes(device.memory_bytes)} memory")
    for name, value in (
        ("virtualised by", device.virtual),
        ("in container", device.container),
        ("power mode", device.power_mode),
    ):
        if not isinstance(value, Missing):
            facts.append(f"{name} {value}")
    facts.append(f"fingerprint {device.fingerprint}")
    return facts


def run_status(result: ProfileResult) -> str | None:
    """Return what is to be said about an unfinished run; None for a complete one."""
    return {
        "complete": None,
        "partial": "PARTIAL: this run had not finished when it was saved",
        "interrupted": "INTERRUPTED: the run was stopped; engines that are not listed were not reached",
    }[result.status]


def built_difference(measurement: Measurement) -> str | None:
    """Return what was really built where that is not what was asked, with the runtime's notes; None if it is."""
    built, asked = measurement.built, measurement.settings.threads
    parts = []
    if built.precision != measurement.precision_asked:
        parts.append(f"asked {measurement.precision_asked}, built {built.precision}")
    if not isinstance(built.threads, Missing) and built.threads != asked:
        parts.append(f"asked {asked} threads, built with {built.threads}")
    parts.extend(built.notes)
    return "; ".join(parts) or None


def estimate_line(measurement: Measurement) -> str | None:
    """Return the estimated energy, marked as such, with its band; None when there is no estimate."""
    estimate = measurement.energy_estimate
    if isinstance(estimate, Missing):
        return None
    value, low, high = (format_si(j, "J") for j in (estimate.energy_per_inference_j, estimate.low_j, estimate.high_j))
    return f"~{value} per inference (between {low} and {high})"


def estimate_basis(measurements: Iterable[Measurement]) -> str:
    """Return how the estimates were made and what they cover, each way once."""
    estimates = [m.energy_estimate for m in measurements if not isinstance(m.energy_estimate, Missing)]
    return "; or ".join(dict.fromkeys(f"{e.method}: {e.boundary}" for e in estimates))


def energy_note(reading: EnergyReading) -> str:
    """Return instrument, boundary and provenance of an energy reading."""
    flags = f"; {'; '.join(reading.flags)}" if reading.flags else ""
    return (
        f"energy from {reading.meter}: {reading.boundary}; {PROVENANCE[reading.provenance]}; over a window of "
        f"{format_seconds(reading.window_s)}; uncertainty with k=2{flags}"
    )


def memory_over_baseline(memory: Memory) -> int | Missing:
    """Return the peak resident set while loading or running, less that of the worker without a model, in bytes."""
    parts = (memory.baseline_rss_bytes, memory.peak_load_rss_bytes, memory.peak_run_rss_bytes)
    baseline, *peaks = parts
    if isinstance(baseline, Missing):
        return baseline
    highest = 0
    for peak in peaks:
        if isinstance(peak, Missing):
            return peak
        highest = max(highest, peak)
    return highest - baseline


_GPU_PEAKS = {
    "nvml_process_peak_bytes": "the process on the GPU, as the driver counts it (sampled)",
    "nvml_device_delta_bytes": "the whole GPU, less what was used before (sampled); other processes' are in it",
    "torch_peak_reserved_bytes": "what torch's allocator took on the GPU; the CUDA context is not in it",
}


def gpu_peak(measurement: Measurement) -> tuple[int | Missing, str] | None:
    """Return the peak on the GPU, loading or running, and what was counted; None of what ran on the CPU.

    What counts most comes first: the process, else the whole GPU, else torch's allocator.
    """
    phases = [measurement.gpu_memory_loading, measurement.gpu_memory]
    seen = [phase for phase in phases if not isinstance(phase, Missing)]
    if not seen:
        return None
    for field, words in _GPU_PEAKS.items():
        values = [getattr(phase, field) for phase in seen]
        if known := [value for value in values if not isinstance(value, Missing)]:
            return max(known), f"peak mem of {words}"
    return seen[-1].nvml_process_peak_bytes, ""


def achieved_ops_per_s(row: LayerTime) -> float | Missing:
    """Return 2 x MACs over the layer's time, in operations per second."""
    if isinstance(row.macs, Missing):
        return row.macs
    if row.macs == 0:
        return Missing(code="no_macs", why="no multiply-adds in it, and other operations are not counted")
    if row.scaled_s <= 0:
        return Missing(code="no_time", why="the runtime's clock saw no time in it")
    return 2 * row.macs / row.scaled_s


def not_measured_line(entry: NotMeasured) -> tuple[str, str]:
    """Return ``FAILED`` or ``not measured``, and the reason with its cure."""
    return ("FAILED" if entry.failed else "not measured"), str(entry.reason)
