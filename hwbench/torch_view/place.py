"""Where a view computes."""

from __future__ import annotations

import torch


def on_device(view: torch.fx.GraphModule, device: torch.device | str) -> torch.fx.GraphModule:
    """Return a view moved to where it computes; its results differ by rounding alone.

    On a CPU its weights lie with the channels last, and so do, by torch's rules, all tensors that its convolutions put
    out: torch's kernels for CPUs reorder the others on the way in and out (`make bench PYTEST_ARGS="-k torch_layout"`).
    Views that a runtime is built from are left as they are.
    """
    view.to(torch.device(device))
    if torch.device(device).type == "cpu":
        view.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types it for whole tensors alone
    return view
