"""What layers inside two networks put out, side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from hwbench.errors import UsageError
from hwbench.torch_view.tables import layer_names

Tensor = torch.Tensor


class Features:
    """Keeps what the layers of a view put out in its last pass, by the hub's names of the layers.

    Of layers with several outputs the first is kept. Hooks stay until :meth:`remove`.
    """

    def __init__(self, view: torch.fx.GraphModule, layers: Sequence[str]) -> None:
        self.seen: dict[str, Tensor] = {}
        self._handles = []
        for module, layer in layer_names(view).items():
            if layer in layers:
                self._handles.append(view.get_submodule(module).register_forward_hook(self._keeper(layer)))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self.seen.clear()

    def _keeper(self, layer: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - as torch wants it
        def keep(module: torch.nn.Module, given: object, output: Tensor | tuple[Tensor, ...]) -> None:
            del module, given
            self.seen[layer] = output[0] if isinstance(output, tuple) else output

        return keep


def common_layers(student: torch.fx.GraphModule, teacher: torch.fx.GraphModule, pattern: str) -> list[str]:
    """Return the layers whose whole name matches and that both networks have, in order.

    Raises:
        UsageError: there is none, or the pattern is no regular expression.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"'{pattern}' is no regular expression: {error}") from error
    theirs = set(layer_names(teacher).values())
    mine = list(layer_names(student).values())
    found = [layer for layer in mine if layer in theirs and wanted.fullmatch(layer)]
    if not found:
        raise UsageError(
            f"no layer that both the network and its original have matches '{pattern}'",
            hint=f"the network has {', '.join(mine[:8])}{', ...' if len(mine) > 8 else ''}",
        )
    return found


def channel_axis(layer: str, mine: Tensor, theirs: Tensor) -> int | None:
    """Return the one axis in which two features differ, or None where there is none.

    Raises:
        UsageError: they differ in more, or in the batch.
    """
    axes = [axis for axis, sizes in enumerate(zip(mine.shape, theirs.shape, strict=False)) if len(set(sizes)) > 1]
    if mine.dim() != theirs.dim() or len(axes) > 1 or 0 in axes:
        raise UsageError(
            f"the features of '{layer}' cannot be compared: {tuple(mine.shape)} here, {tuple(theirs.shape)} there",
            hint="they may differ in the number of channels only",
        )
    return axes[0] if axes else None


def normalised_error(mine: Tensor, theirs: Tensor) -> Tensor:
    """Return ||mine - theirs||^2 / ||theirs||^2 over the whole batch; the divisor is at least the smallest number."""
    size = theirs.square().sum().clamp_min(torch.finfo(theirs.dtype).tiny)
    return (mine - theirs).square().sum() / size


def attention_error(mine: Tensor, theirs: Tensor) -> Tensor:
    """Return how far the attention maps of two features [N, C, spatial...] differ (arXiv:1612.03928).

    A map is the sum of squares over channels, scaled to length one for each sample. The difference is the squared
    distance of the maps, a mean over samples; the paper's formula has the distance itself, its published code the
    square, which has a gradient where the maps are equal.
    """
    maps = []
    for feature in (mine, theirs):
        summed = feature.square().sum(1).flatten(1)
        maps.append(torch.nn.functional.normalize(summed, dim=1))
    return (maps[0] - maps[1]).square().sum(1).mean()
