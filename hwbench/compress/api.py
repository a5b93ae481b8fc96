"""Compression from Python, in this process: a torch module or an ONNX graph in, a smaller one out.

    from hwbench.compress.api import compress
    from hwbench.records.compression import Step

    found = compress(net, [Step(method="width", settings={"amount": 0.5})], example={"x": batch}, inputs={"x": images})
    smaller = found.torch()      # an fx.GraphModule, to train or to export
    found.save("smaller.onnx")

``hwbench compress`` does the same in a child process, keeps its state, and judges the result;
:func:`hwbench.compression_pipeline.compress` is that from Python.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from hwbench.compress import state
from hwbench.compress.base import Array, Report, Subject
from hwbench.compress.check import check_graph
from hwbench.compress.facts import network_facts
from hwbench.compress.order import planned, with_repairs
from hwbench.compress.run import apply, count_nodes, sparse_weights
from hwbench.data.samples import Samples
from hwbench.errors import ModelError, UsageError
from hwbench.graph.inputs import input_specs, random_inputs
from hwbench.graph.onnx_file import graph_inputs, infer_shapes
from hwbench.records.base import Missing
from hwbench.records.compression import Applied, NetworkFacts, Step

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class CompressedModel:
    """A compressed network, still in memory; its batch axis is fixed to that of the example."""

    model: ir.Model
    applied: tuple[Applied, ...]
    before: NetworkFacts
    after: NetworkFacts

    def torch(self) -> torch.fx.GraphModule:
        """Return the network as a torch module in evaluation mode: ``module(*inputs)`` gives a tuple of outputs."""
        from hwbench.torch_view.build import to_torch

        view: torch.fx.GraphModule = to_torch(self.model)
        return view

    def save(self, path: str | Path) -> None:
        """Write the network as ONNX.

        Raises:
            StorageError: the file cannot be written.
        """
        state.save_graph(self.model, Path(path))


def compress(
    model: torch.nn.Module | ir.Model,
    steps: Sequence[Step],
    *,
    example: Mapping[str, torch.Tensor] | None = None,
    inputs: Mapping[str, Array] | None = None,
    labels: Array | None = None,
    repair: str = "default",
    device: str = "cpu",
    seed: int = 0,
    report: Report | None = None,
) -> CompressedModel:
    """Carry steps out on a network; the one given is left as it is.

    Args:
        model: a torch module, or an ONNX graph of fixed shapes.
        steps: the methods, as :class:`~hwbench.records.compression.Step` has them.
        example: of a torch module: a tensor for each argument of ``forward``, by name, as large as a batch of training.
        inputs: samples to learn from, [N, ...] by input name; what methods and repairs need.
        labels: [N, ...], where there are any.
        repair: ``default``, ``none``, or names with commas: what follows each step that cuts, where there are samples.
        device: torch's name of where gradients are computed.
        seed: of all that is random.
        report: told what goes on, and the fraction done.

    Raises:
        UsageError: a step does not fit, or an example or samples are wanting.
        ModelError: torch cannot export the module, or ONNX Runtime and torch differ on the result.
        EngineError: onnxruntime is not here.
    """
    graph = infer_shapes(model.clone()) if isinstance(model, ir.Model) else _exported(model, example)
    given = [value for value in graph.graph.inputs if not value.is_initializer()]
    if not given or given[0].shape is None or not given[0].shape.is_static():
        raise UsageError("the network's first input has no fixed shape", hint="fix its axes, the batch included")
    batch = int(given[0].shape.numpy()[0]) if len(given[0].shape) > 1 else 1
    samples = None if inputs is None else Samples(inputs=inputs, labels=labels, batch=batch)
    steps = with_repairs(steps, repair) if samples is not None else tuple(steps)
    with tempfile.TemporaryDirectory(prefix="hwbench-compress-") as folder:
        subject = Subject(
            model=graph,
            original=graph.clone(),
            batch=batch,
            samples=samples,
            folder=Path(folder),
            report=report or _silent,
            seed=seed,
            device=device,
            held_zeros=sparse_weights(graph),
        )
        subject.view()  # what torch cannot express is refused before anything is done
        before = network_facts(graph, batch, {}, subject.held_zeros)
        applied: tuple[Applied, ...] = ()
        for step in planned(steps):
            applied = (*applied, apply(step, subject, applied))
        _check(subject, Path(folder) / "checked.onnx")
    return CompressedModel(
        model=subject.model,
        applied=applied,
        before=before,
        after=network_facts(subject.model, batch, subject.bits, subject.held_zeros),
    )


def _check(subject: Subject, path: Path) -> None:
    """Hold ONNX Runtime against torch on the first batch, or on random inputs where there are no samples."""
    if subject.samples is not None:
        inputs, _ = next(subject.samples.in_order())
    else:
        inputs = random_inputs(subject.model, input_specs(graph_inputs(subject.model)), subject.seed)
    state.save_graph(subject.model, path)
    check_graph(subject, path, inputs, count_nodes(subject.model))


def _exported(module: torch.nn.Module, example: Mapping[str, torch.Tensor] | None) -> ir.Model:
    from hwbench.graph.torch_export import export
    from hwbench.graph.torch_source import TorchModel

    if example is None:
        raise UsageError(
            "a torch module needs an example of its inputs", hint='example={"x": torch.zeros(32, 3, 32, 32)}'
        )
    graph = export(TorchModel(module=module.eval(), example=dict(example)), dict(example))
    if isinstance(graph, Missing):
        raise ModelError(graph.why, hint=graph.cure)
    return infer_shapes(graph)


def _silent(what: str, fraction: float | None) -> None:  # noqa: ARG001 - nobody listens
    return
