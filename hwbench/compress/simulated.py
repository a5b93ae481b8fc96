"""A quantised network judged before it is built: ranges from the samples, and the runtime's arithmetic in torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from hwbench.bundles.hashing import file_sha256
from hwbench.compress.base import Array, Subject
from hwbench.compress.layout import CALIBRATION
from hwbench.data.samples import Samples
from hwbench.files import write_record
from hwbench.graph.linear import Linear
from hwbench.graph.lower import fold_batch_norms
from hwbench.graph.parts import write_graph
from hwbench.quantize.collect import Batches, collect
from hwbench.quantize.session import tensors_of
from hwbench.quantize.weights import quantise, scales_for_bias, weight_scales
from hwbench.records.model import DataFacts
from hwbench.records.quantization import CALIBRATION_SCHEMA, Calibration, CalibrationSettings, TensorRange

if TYPE_CHECKING:
    import torch

    from hwbench.fake_quant.grids import WeightSteps

Ranges = Mapping[str, TensorRange]
JUDGED = 512  # samples that a simulation is judged on, at most


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A simulated network beside the float one. ``figures``: sqnr_db, agreement, accuracy, accuracy_float, samples."""

    figures: dict[str, float]


def folded(model: ir.Model) -> ir.Model:
    """Return a copy as runtimes are given it: BatchNorm in the layers before."""
    copy = model.clone()
    fold_batch_norms(copy)
    return copy


def find_ranges(model: ir.Model, subject: Subject, samples: Samples, settings: CalibrationSettings) -> Ranges:
    """Return the ranges of the activations of a folded network on samples.

    Raises:
        ModelError: an activation is NaN or infinite.
        EngineError: onnxruntime is missing or cannot run the network.
    """
    return collect(
        model,
        Batches(arrays=samples.inputs, samples=len(samples), size=samples.batch),
        settings,
        folder=scratch(subject),
        threads=subject.threads,
        progress=lambda fraction: subject.report("finding ranges", fraction),
    ).ranges


def activations_of(model: ir.Model, subject: Subject, samples: Samples, name: str) -> Iterator[Array]:
    """Run the network up to a tensor, batch by batch."""
    batches = (inputs for inputs, _ in samples.in_order())
    path = scratch(subject) / "activation.onnx"
    for (activation,) in tensors_of(model, [name], batches, path=path, threads=subject.threads):
        yield activation


def scratch(subject: Subject) -> Path:
    """Return the folder for what is written and read again."""
    subject.folder.mkdir(parents=True, exist_ok=True)
    return subject.folder


def eight_bit_steps(layer: Linear, runtime: str, found: TensorRange, bits: int) -> WeightSteps:
    """Return the integers that ``hwbench build`` gives a layer: symmetric in [-127, 127] by output channel.

    Weights of fewer bits go through that grid too, since the runtimes multiply 8-bit activations with 8-bit weights.
    """
    from hwbench.fake_quant.grids import WeightSteps
    from hwbench.fake_quant.runtimes import arithmetic

    weight, axis, bias = layer.weight, layer.output_axis, layer.bias()
    scales = weight_scales(weight, axis)
    if bias is not None and runtime != "openvino":  # whose biases are floats
        grid = arithmetic(runtime).grid(found, bits=bits, product=not layer.spatial)
        scales = scales_for_bias(bias, grid.scale, scales)
    return WeightSteps(values=quantise(weight, scales, axis), scales=scales, axis=axis)


def on_integers(model: ir.Model, ranges: Ranges, layers: Collection[str]) -> dict[str, Linear]:
    """Return those of ``layers`` that runtimes run on integers: Conv, Gemm and MatMul that read what has a range."""
    from hwbench.fake_quant.simulate import integer_layers

    chosen = {name: layer for name, layer in integer_layers(model).items() if name in layers}
    return {name: layer for name, layer in chosen.items() if layer.input.name in ranges}


def simulated(
    model: ir.Model, ranges: Ranges, layers: Collection[str], *, runtime: str, bits: int
) -> torch.fx.GraphModule:
    """Return a view of a folded network that computes as a runtime does with ``layers`` on integers where it can.

    Raises:
        UsageError: the runtime has no such activations.
    """
    from hwbench.fake_quant.simulate import Simulation, simulate

    known = on_integers(model, ranges, layers)
    weights = {
        name: eight_bit_steps(layer, runtime, ranges[layer.input.name or ""], bits) for name, layer in known.items()
    }
    return simulate(model, ranges, Simulation(runtime=runtime, weights=weights, bits=dict.fromkeys(known, bits)))


def judge(subject: Subject, view: torch.fx.GraphModule, teacher: torch.fx.GraphModule, samples: Samples) -> Judged:
    """Hold a simulated network against the float one, on the first output in floating point.

    ``agreement`` and ``accuracy`` are fractions of the samples whose largest score is at the same place, or at the
    label; they are there where the output is [samples, classes].
    """
    import torch

    signal = noise = 0.0
    same = right = right_float = count = 0
    few = samples.first(JUDGED)
    labelled = few.labels is not None and few.labels.ndim == 1 and np.issubdtype(few.labels.dtype, np.integer)
    classes = False
    with torch.no_grad():
        for inputs, labels in few.in_order():
            tensors = tuple(tensor.cpu() for tensor in subject.tensors(inputs))
            wanted, found = (_first_float(net(*tensors)) for net in (teacher, view))
            signal += float((wanted**2).sum())
            noise += float(((wanted - found) ** 2).sum())
            count += len(wanted)
            classes = wanted.ndim == 2 and wanted.shape[1] > 1
            if classes:
                same += int((wanted.argmax(1) == found.argmax(1)).sum())
            if classes and labelled and labels is not None:
                right += int((found.argmax(1) == labels).sum())
                right_float += int((wanted.argmax(1) == labels).sum())
    figures = {"samples": float(count)}
    if noise and signal:
        figures["sqnr_db"] = 10 * math.log10(signal / noise)
    if classes:
        figures["agreement"] = same / count
    if classes and labelled:
        figures |= {"accuracy": right / count, "accuracy_float": right_float / count}
    return Judged(figures=figures)


def _first_float(outputs: Any) -> Array:
    found: Array = next(output for output in outputs if output.is_floating_point()).cpu().double().numpy()
    return found


def save_calibration(
    subject: Subject, model: ir.Model, ranges: Ranges, settings: CalibrationSettings, samples: Samples
) -> Path:
    """Write the ranges of a folded network beside it, as the record that runtimes are lowered with; return the file."""
    home = scratch(subject)
    files = write_graph(model, home / "folded.onnx")
    sha256 = file_sha256(*files)
    for file in files:
        file.unlink()
    record = Calibration(
        schema_version=CALIBRATION_SCHEMA,
        settings=settings,
        data=_facts(samples),
        graph_sha256=sha256,
        tensors=dict(ranges),
    )
    path = home / CALIBRATION
    write_record(path, record)
    return path


def _facts(samples: Samples) -> DataFacts:
    digest = hashlib.sha256()
    for name in sorted(samples.inputs):
        array = np.ascontiguousarray(samples.inputs[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return DataFacts(
        source="the samples of hwbench compress",
        sha256=digest.hexdigest(),
        samples=len(samples),
        labels=samples.labels is not None,
    )
