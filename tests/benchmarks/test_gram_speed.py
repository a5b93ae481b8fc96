"""What statistics and least squares cost beside the forward passes alone: ResNet-50 at 224 x 224 over 256 images.

make bench PYTEST_ARGS="-k gram_speed"
"""

from __future__ import annotations

import resource
import time

import numpy as np
import pytest
from compress_subjects import imported, random_samples, subject_of

from hwbench.graph.linear import set_constant

torch = pytest.importorskip("torch", reason="the torch view gives the activations")

IMAGES, BATCH = 256, 16


def timed(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def test_gram_speed_of_resnet50(benchmark, tmp_path):
    """All 54 layers are solved for, each with all its channels: no cut network costs more."""
    from hwbench.compress.repair.least_squares import reconstruct
    from hwbench.compress.repair.match import match
    from hwbench.compress.statistics.pairs import paired

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = imported("resnet50", tmp_path, batch=BATCH)
    subject = subject_of(model, tmp_path, samples=random_samples(model, IMAGES))
    rng = np.random.default_rng(0)
    for layer in subject.layers().values():
        set_constant(layer.node, 1, layer.weight * (1 + 0.1 * rng.normal(size=layer.weight.shape)))
    view = subject.view()

    def plain():
        with torch.no_grad():
            for inputs, _ in subject.samples.in_order():
                view(*subject.tensors(inputs))

    def squares():
        matches = [match(subject, layer) for layer in subject.layers().values()]
        for one, pair in paired(subject, matches, own=False):
            reconstruct(subject, one, pair, 0.01)

    before = timed(plain)
    took = benchmark.pedantic(timed, args=(squares,), rounds=1)
    after = timed(plain)
    torch.set_num_threads(threads)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ratio = took / ((before + after) / 2)
    print(f"\nplain {before:.0f} s and {after:.0f} s (A/A {after / before:.2f}), least squares {took:.0f} s")
    print(f"ratio {ratio:.2f}, peak memory {peak:.2f} GiB")
    assert ratio < 3
    assert peak < 4
