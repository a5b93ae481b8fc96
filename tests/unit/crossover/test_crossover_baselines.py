"""torch's products on the CPU: what is compiled, what they multiply by, how torch's GPU is found."""

from __future__ import annotations

import types

import pytest
import torch

from hwbench.crossover import baselines
from hwbench.crossover.baselines import BASELINES, Torch, bytes_of_blocks, entry_of, torch_of
from hwbench.crossover.grid import Product
from hwbench.crossover.kernels import random_slab, random_x
from hwbench.crossover.race import Problem, error_of

BY_NAME = {one.contender.name: one for one in BASELINES}


@pytest.fixture
def counted(monkeypatch):
    """Return how often something was compiled: by a backend that runs the graph as it is."""
    from torch._dynamo.testing import CompileCounter

    counter, real = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, mode, **other: real(f, backend=counter, **other))
    torch._dynamo.reset()
    yield counter
    torch._dynamo.reset()


@pytest.fixture
def here(monkeypatch):
    """Return torch on the CPU, with a cache of 8 KB."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return Torch(types.SimpleNamespace(facts=types.SimpleNamespace(l2_bytes=8192)), torch, torch.device("cpu"))


def problem(m=64, k=128, n=3):
    product = Product(m, k, n)
    return Problem(product=product, x=random_x(product, 0)), random_slab(m, k, 0)


def test_every_product_of_a_table_is_compiled_however_many_there_are(here, counted):
    for number in range(1, 13):
        given, slab = problem(k=64 * number)
        entry = entry_of(here, BY_NAME["dense-int8"], given, slab, 0.0)
        assert counted.frame_count == number
        assert error_of(entry, given) <= 1


@pytest.mark.parametrize("breaks", ["recompiled", "graph break"])
def test_a_product_that_would_run_uncompiled_is_refused(here, counted, breaks):
    def product(x):
        if breaks == "graph break":
            torch._dynamo.graph_break()
        return 2 * x

    call = here.compiled(product)
    with pytest.raises(Exception, match=r"(?i)recompil|graph.?break"):  # noqa: PT012 - the first or the second call
        call(torch.ones(3))
        call(torch.ones(4))


@pytest.mark.parametrize("name", ["dense-fp16", "compile-fp16", "dense-int8"])
def test_rows_beyond_the_slab_repeat_it(here, counted, name):
    given, slab = problem(m=600, n=1)
    entry = entry_of(here, BY_NAME[name], given, slab, 0.0)
    assert entry.result().shape == (1, 600)
    assert error_of(entry, given) <= 1


@pytest.mark.filterwarnings("ignore:Sparse BSR tensor support is in beta")
def test_bytes_of_blocks_are_those_of_the_tensors():
    held = torch.eye(64, dtype=torch.float16).to_sparse_bsr((16, 16))
    assert held.col_indices().dtype == torch.int64
    assert bytes_of_blocks(held) == 4 * 256 * 2 + 8 * (4 + 5)


def test_the_gpu_is_found_as_elsewhere(monkeypatch):
    from hwbench.inventory import find_or_describe

    device, cuda = find_or_describe("nvidia-h200").device, types.SimpleNamespace()
    monkeypatch.setattr(baselines, "cuda_of", lambda torch: None)
    monkeypatch.setattr(baselines, "torch_index", lambda torch, found: 3 if found is device else None)
    assert torch_of(cuda, device).device == torch.device("cuda", 3)
    monkeypatch.undo()
    if torch.version.cuda is None:
        assert torch_of(cuda, device).code == "torch_without_cuda"
