"""Whether a repair helps: the network's outputs held against the original's on samples that the repair has not seen."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir
import torch

from hwbench.compress.base import Subject
from hwbench.data.samples import Samples
from hwbench.records.base import Missing


@dataclass
class Judge:
    """Measures E|y - t|^2 / Var(t), a mean over the outputs in floating point; t: what the original puts out.

    Samples that fill up a short batch count once, where outputs have the batch on their first axis.
    """

    subject: Subject
    samples: Samples
    _targets: list[tuple[torch.Tensor, ...]] = field(default_factory=list)

    def error(self) -> float | Missing:
        """Return the error of the network as it is now; infinite where it puts out NaN.

        Missing where no output is in floating point, or the outputs have other shapes than the original's.
        """
        if not self._targets:
            self._targets = self._outputs(self.subject.teacher())
        total: list[float] = []
        for y, t in zip(self._joined(self._outputs(self.subject.view())), self._joined(self._targets), strict=True):
            if y.shape != t.shape:
                why = f"the network puts out {tuple(y.shape)}, its original {tuple(t.shape)}"
                return Missing(code="other_outputs", why=why)
            spread = float((t - t.mean(dim=0)).square().mean()) or float(t.square().mean()) or 1.0
            total.append(float((y - t).square().mean()) / spread)
        if not total:
            why = "no output of the network is in floating point, so no repair can be judged"
            return Missing(code="no_float_output", why=why)
        found = sum(total) / len(total)
        return found if found == found else float("inf")  # noqa: PLR0124 - NaN is not itself

    def _outputs(self, view: torch.fx.GraphModule) -> list[tuple[torch.Tensor, ...]]:
        found, count = [], len(self.samples)
        with torch.no_grad():
            for inputs, _ in self.samples.in_order():
                outputs = view(*self.subject.tensors(inputs))
                floats = tuple(each.double().cpu() for each in outputs if each.is_floating_point())
                by_row = all(each.dim() and len(each) == self.samples.batch for each in floats)
                found.append(tuple(each[:count] for each in floats) if by_row else floats)
        return found

    @staticmethod
    def _joined(batches: list[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
        return [
            torch.cat([each.reshape(1) if each.dim() == 0 else each for each in one])
            for one in zip(*batches, strict=True)
        ]


def copy_of(model: ir.Model) -> ir.Model:
    """Return a model of its own with the same graph and weights."""
    found: ir.Model = ir.from_proto(ir.to_proto(model))
    return found
