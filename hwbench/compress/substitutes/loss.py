"""What a substitution costs: outputs of the layer and of the network, held against those without it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Array, Subject
from hwbench.compress.state import save_graph
from hwbench.data.samples import Samples
from hwbench.errors import EngineError, ModelError

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Relative squared errors ||Y' - Y||^2 / ||Y||^2 of the layer's output and of the network's, over all samples."""

    layer: float
    network: float


class Trials:
    """Runs a network in ONNX Runtime as it is, and with changes. ``values``: the layers' outputs to compare.

    Raises:
        EngineError: onnxruntime is not there, or refuses a graph.
    """

    def __init__(self, subject: Subject, samples: Samples, values: Collection[str]) -> None:
        self.subject, self.samples = subject, samples
        self.outputs = [value.name or "" for value in subject.model.graph.outputs]
        self.plain = self._session("as-it-is", subject.model.clone(), values)

    def loss(self, change: Callable[[ir.Model], None], value: str | None = None) -> Loss:
        """Return what a change costs; without ``value`` the layer is the network.

        Raises:
            ModelError: an output holds NaN or infinity.
        """
        model = self.subject.model.clone()
        change(model)
        changed = self._session("changed", model, [] if value is None else [value])
        compared = [*self.outputs, *([] if value is None else [value])]
        layer, network = _Sums(), _Sums()
        for inputs, _ in self.samples.in_order():
            results = self.plain.run(compared, inputs), changed.run(compared, inputs)
            for name, wanted, found in zip(compared, *results, strict=True):
                if wanted.dtype.kind == "f":
                    for sums in [network] * (name in self.outputs) + [layer] * (name == value):
                        sums.add(wanted, found)
        return Loss(layer=network.ratio() if value is None else layer.ratio(), network=network.ratio())

    def _session(self, name: str, model: ir.Model, values: Collection[str]) -> onnxruntime.InferenceSession:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError("losses are measured with onnxruntime", hint="pip install onnxruntime") from error
        for node in model.graph:
            model.graph.outputs.extend(out for out in node.outputs if out.name in values and not out.is_graph_output())
        path: Path = self.subject.folder / f"{name}.onnx"
        save_graph(model, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.subject.threads
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"onnxruntime refuses the graph to be tried: {str(error).strip()[:300]}") from error


@dataclass
class _Sums:
    error: float = field(default=0.0)
    whole: float = field(default=0.0)

    def add(self, wanted: Array, found: Array) -> None:
        self.error += float(np.square(found.astype(np.float64) - wanted).sum())
        self.whole += float(np.square(wanted.astype(np.float64)).sum())

    def ratio(self) -> float:
        if not np.isfinite([self.error, self.whole]).all():
            raise ModelError("the network puts out NaN or infinity on the samples")
        return self.error / self.whole if self.whole else float(self.error > 0)
