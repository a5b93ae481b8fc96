"""What channels last are worth to torch on a CPU: passes and training steps of zoo networks, with and without them.

    make bench PYTEST_ARGS="-k torch_layout"

Turns alternate in random order, a second plain view is the A/A control. Predicted after trying single convolutions:
0.7 of the time of a plain pass where channels are few, near 1 where they are many and in bf16.
"""

from __future__ import annotations

import random
import statistics
import time

import pytest
from compress_subjects import imported

from hwbench.torch_view.build import to_torch
from hwbench.torch_view.place import on_device

torch = pytest.importorskip("torch", reason="the torch view")

NETWORKS = {"resnet8": 32, "resnet20": 32, "mobilenet_v2": 8, "resnet50": 8}  # batch
ROUNDS = 7


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_torch_layout(benchmark, tmp_path, name, precision):
    model = imported(name, tmp_path, batch=NETWORKS[name])
    views = {"plain": to_torch(model), "again": to_torch(model), "last": on_device(to_torch(model), "cpu")}
    inputs = torch.randn(*model.graph.inputs[0].shape.numpy())

    def forward(view):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            view(inputs)

    def step(view):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = view(inputs)[0].square().mean()
        loss.backward()

    def turns():
        took = {(what, which): [] for what in (forward, step) for which in views}
        order = list(took)
        for _ in range(ROUNDS):
            random.Random(len(took[order[0]])).shuffle(order)
            for what, which in order:
                begun = time.perf_counter()
                what(views[which])
                took[what, which].append(time.perf_counter() - begun)
        return took

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for view in views.values():
        step(view)
    took = benchmark.pedantic(turns, rounds=1)
    torch.set_num_threads(threads)
    for what in (forward, step):
        ratios = {
            which: statistics.median(a / b for a, b in zip(took[what, which], took[what, "plain"], strict=True))
            for which in ("last", "again")
        }
        print(f"\n{name} {precision} {what.__name__}: {ratios['last']:.3f} of plain, A/A {ratios['again']:.3f}")
        benchmark.extra_info[what.__name__] = ratios
