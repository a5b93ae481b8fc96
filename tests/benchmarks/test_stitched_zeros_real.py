"""What pruning single layers of real networks loses, stitched, by format (docs/plan/sensitivity.md).

    make bench PYTEST_ARGS="-k stitched_zeros_real -s"

HWBENCH_SHARED_DATA names the folder of networks and data; HWBENCH_SPARSE_NETS ("resnet20,mini_lm") the networks. Every
layer that a format takes is pruned alone, refitted to the samples for calibration, and judged on HWBENCH_SAMPLES
samples (500). Prints quantiles over layers, how often a layer loses no less at 70 than at 50 %, and how long patches
take; HWBENCH_LAYERS (0: all) that many layers, evenly drawn.
"""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import real_tasks
from compress_subjects import imported

torch = pytest.importorskip("torch", reason="patches are put into the torch view")

from hwbench.data.samples import Samples  # noqa: E402
from hwbench.errors import Unsupported  # noqa: E402
from hwbench.graph.onnx_file import infer_shapes  # noqa: E402
from hwbench.plan.sites import space_of  # noqa: E402
from hwbench.records.planning import TWO_FOUR, Design, Zeros  # noqa: E402
from hwbench.sensitivity.network import Network  # noqa: E402
from hwbench.sensitivity.patches import Composer  # noqa: E402
from hwbench.sensitivity.stitch import Stitch  # noqa: E402

NETS = os.environ.get("HWBENCH_SPARSE_NETS", "resnet20,mini_lm").split(",")
SAMPLES = int(os.environ.get("HWBENCH_SAMPLES", "500"))
LAYERS = int(os.environ.get("HWBENCH_LAYERS", "0"))
WAYS = [("s24", 0.5), (TWO_FOUR, 0.5), ("gap4", 0.5), ("gap4", 0.7), ("vw16", 0.5), ("vw16", 0.7), ("bsr16", 0.5),
        ("bsr16", 0.7)]  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_stitched_zeros_real(name, tmp_path, benchmark):
    torch.set_num_threads(1)
    task = real_tasks.task(name, tmp_path)
    hub = infer_shapes(imported(task.spec, tmp_path, batch=50))
    samples = Samples(inputs={key: array[:SAMPLES] for key, array in task.test.items()}, labels=None, batch=50)
    space = space_of(hub, "0" * 64)
    learn = Samples(inputs=dict(task.calibration), labels=None, batch=50)
    network = Network(hub, samples, learn)
    composer, stitch = Composer(network, space), Stitch(network)
    layers = list(network.layers)
    layers = layers if not LAYERS else [layers[at] for at in np.linspace(0, len(layers) - 1, LAYERS).astype(int)]
    begun = time.monotonic()
    network.gather(layers, [])
    took = time.monotonic() - begun
    print(
        f"\n{name}: {len(layers)} layers, {SAMPLES} samples, {len(learn)} to refit, {stitch.measure}, "
        f"Grams {took:.0f} s"
    )
    losses = benchmark.pedantic(every, (composer, stitch, layers), rounds=1)
    lost = {}
    for (made, share), (found, took) in losses.items():
        lost[made, share] = {layer: one for layer, one in found.items() if one is not None}
        values = np.array(list(lost[made, share].values()))
        if len(values):
            quantiles = " ".join(f"{each:.2e}" for each in np.quantile(values, (0.1, 0.5, 0.9, 1)))
            print(f"  {made:7s} {share:.0%}  layers {len(values):2d}  10/50/90/100 %: {quantiles}  sum "
                  f"{values.sum():.3g}  patches {took:.1f} s")  # fmt: skip
    for made in ("gap4", "vw16", "bsr16"):
        few, many = lost[made, 0.5], lost[made, 0.7]
        print(f"  {made}: no less at 70 than at 50 %: {sum(many[each] >= few[each] for each in few)} of {len(few)}")
        assert sum(many[each] >= few[each] for each in few) >= 0.9 * len(few)


def every(composer, stitch, layers):
    """Return losses by layer (None: refused) and the time of composing, by format."""
    found = {}
    for made, share in WAYS:
        losses, took = {}, 0.0
        for layer in layers:
            begun = time.monotonic()
            try:
                patch = composer.compose(Design(zeros={layer: Zeros(format=made, sparsity=share)}))
            except Unsupported:
                losses[layer] = None
                continue
            took += time.monotonic() - begun
            losses[layer] = stitch.judge(patch, what=layer, prefix=False).divergence
        found[made, share] = losses, took
    return found
