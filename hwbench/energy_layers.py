"""``hwbench energy layers``: the energy of single layers, by time share of a saved result or by a fit that is measured.

For the fit, the model is measured whole in mode ``energy``, then prefixes of its graph are, each as a model of its own
with the same inputs; what neighbouring prefixes differ by is what lies between (:mod:`hwbench.energy.layers`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hwbench.energy.layers import fit_layers, time_share
from hwbench.errors import EngineError, InvalidMeasurement, UsageError
from hwbench.files import write_record
from hwbench.graph.prefixes import Prefix, prefixes, write_prefix
from hwbench.pipeline import Watcher, profile
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyRun, Repeated
from hwbench.records.layer_energy import LAYER_ENERGY_SCHEMA, LayerEnergies, LayersResult, Variant
from hwbench.records.measurement import LayerTable, Measurement, ProfileRequest, ProfileResult

LAYERS = "layers.json"
_LEAST_SPREAD = 1e-4  # relative; windows that agreed by chance are not exact


def shared(result: ProfileResult) -> list[tuple[str, LayerEnergies | Missing]]:
    """Return for each measurement the energy of its layers by time share, or why there is none."""
    return [(measurement.label, _shared(measurement)) for measurement in result.measurements]


def _shared(measurement: Measurement) -> LayerEnergies | Missing:
    layers, run = measurement.layers, measurement.energy_run
    if not isinstance(layers, LayerTable):
        return layers
    total = run.total_j if isinstance(run, EnergyRun) else measurement.energy_per_inference_j
    if isinstance(total, Missing):
        return total
    return time_share(layers, total.value if isinstance(total, Repeated) else total)


def fitted(request: ProfileRequest, folder: Path, parts: int, *, watcher: Watcher | None = None) -> LayersResult:
    """Measure a model and ``parts - 1`` prefixes of it, and fit the energies of the layers between.

    Args:
        request: of mode ``energy``, one engine and one precision.
        folder: gets a result folder for each variant, and ``layers.json``.
        parts: how many pieces to cut into; fewer where the graph has not so many places for a cut.
        watcher: told what is going on.

    Raises:
        UsageError: several engines or precisions were asked for.
        InvalidMeasurement: a variant has no energy.
        HwbenchError: as :func:`hwbench.pipeline.profile`.
    """
    if len(request.engines) != 1 or len(request.precisions) != 1:
        raise UsageError("layers are fitted for one engine in one precision", hint="give one --engine, one --precision")
    whole = profile(request, folder / "whole", watcher=watcher)
    hub = folder / "whole" / "model"
    outputs = [spec.name for spec in whole.model.outputs]
    cut = prefixes(whole.model.layers, outputs, parts)
    inputs = [spec.name for spec in whole.model.inputs]
    variants = {cut[-1].layers[-1]: _variant(whole, cut[-1])}
    rest = list(cut[:-1])
    random.Random(request.seed).shuffle(rest)  # a machine that drifts must not look like a layer
    for prefix in rest:
        name = prefix.layers[-1]
        number = cut.index(prefix) + 1
        path = write_prefix(hub / "model.onnx", prefix, inputs, folder / f"prefix-{number}.onnx")
        asked = msgspec.structs.replace(
            request, model=str(path), batch_size=None, shapes={}, input_data=str(hub / "inputs.npz")
        )
        variants[name] = _variant(profile(asked, folder / f"prefix-{number}", watcher=watcher), prefix)
    ordered = tuple(variants[prefix.layers[-1]] for prefix in cut)
    result = LayersResult(
        schema_version=LAYER_ENERGY_SCHEMA,
        model=request.model,
        engine=request.engines[0],
        precision=request.precisions[0],
        variants=ordered,
        energies=fit_layers(_names(cut), ordered, seed=request.seed),
    )
    write_record(folder / LAYERS, result)
    return result


def _names(cut: Sequence[Prefix]) -> tuple[str, ...]:
    return cut[-1].layers


def _variant(result: ProfileResult, prefix: Prefix) -> Variant:
    """Return what a measured variant says, its uncertainty that of the mean over the windows."""
    if not result.measurements:
        raise EngineError(f"'{result.request.model}' gave no measurement")
    run = result.measurements[0].energy_run
    total = run if isinstance(run, Missing) else run.total_j
    if isinstance(total, Missing):
        msg = f"the first {len(prefix.layers)} layers have no energy: {total.why}"
        raise InvalidMeasurement(msg, hint=total.cure)
    return Variant(
        name=prefix.layers[-1],
        layers=prefix.layers,
        energy_j=total.value,
        standard_uncertainty_j=max(total.stdev / math.sqrt(total.n), _LEAST_SPREAD * total.value),
    )
