"""Every kernel on a GPU against float64, over shapes, sparsities and epilogues drawn as for the emulated ones.

    pytest tests/gpu/test_sparse_kernels_gpu.py
    compute-sanitizer --tool memcheck python -m pytest tests/gpu/test_sparse_kernels_gpu.py -k small
    compute-sanitizer --tool racecheck python -m pytest tests/gpu/test_sparse_kernels_gpu.py -k small

Skipped where there is no GPU, no package for CUDA or no compiler. Not run on a GPU yet.
"""

from __future__ import annotations

import numpy as np
import pytest

from hwbench.cuda.choose import open_cuda
from hwbench.errors import HwbenchError
from hwbench.records.base import Missing
from hwbench.sparse.build import ACTS
from hwbench.sparse.compilers import find_compiler
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.launch import Loaded, SparseLinear
from hwbench.sparse.manifest import load_manifest

pytestmark = pytest.mark.gpu
KERNELS = load_manifest()
SMALL, LARGE = 6, 12  # cases drawn


@pytest.fixture(scope="module")
def loaded():
    try:
        cuda = open_cuda()
    except HwbenchError as error:
        pytest.skip(f"no CUDA: {error.message}")
    found = find_compiler()
    if isinstance(found, Missing):
        pytest.skip(f"the kernels cannot be compiled: {found.why}")
    with Loaded(cuda) as kernels:
        yield kernels
    cuda.close()


def drawn(kernel, seed, most):
    """A product inside the kernel's contract, with tails and empty rows; whether with a bias; an activation."""
    rng = np.random.default_rng(seed)
    shape = kernel.shape
    m = shape.m_multiple * int(rng.integers(1, most // shape.m_multiple + 1))
    k = shape.k_multiple * int(rng.integers(1, most // shape.k_multiple + 1))
    n = int(rng.integers(1, min(shape.n_most, 70) + 1))
    format_ = FORMATS[kernel.format]
    weight = rng.normal(size=(m, k)).astype(np.float32)
    weight[rng.random(m) < 0.1] = 0
    sparsities = [0.0, 0.3, 0.5, 0.7, 0.9, 0.99]
    rng.shuffle(sparsities)
    for sparsity in sparsities:
        try:
            packed = format_.pack(weight, format_.mask(np.abs(weight), sparsity))
        except ValueError:  # this format has no such sparsity, or this shape is not its
            continue
        bias = rng.normal(size=m).astype(np.float16) if rng.random() < 0.5 else None
        return packed, rng.normal(size=(n, k)).astype(np.float16), bias, ACTS[int(rng.integers(len(ACTS)))]
    pytest.skip(f"{kernel.format} does not hold {m}x{k}")


def computed(loaded, kernel, packed, x, bias, act):
    """Y on the GPU; what is not written stays NaN."""
    cuda, shape = loaded.cuda, (len(x), packed.shape[0])
    stream, found = cuda.stream(), np.empty(shape, np.float16)
    given, result = cuda.allocate(x.nbytes), cuda.allocate(found.nbytes)
    try:
        cuda.copy_in(given.address, x, stream)
        cuda.fill(result.address, 0xFF, found.nbytes, stream)
        with SparseLinear(loaded, packed, kernel=kernel, bias=bias, act=act) as linear:
            linear.bind(given.address, result.address, len(x)).launch(stream)
            cuda.copy_out(found, result.address, stream)
            stream.wait()
    finally:
        given.free()
        result.free()
        stream.free()
    return found.astype(np.float64)


def activated(value, act):
    if act == "relu":
        return np.maximum(value, 0)
    if act == "gelu-tanh":
        return 0.5 * value * (1 + np.tanh(np.sqrt(2 / np.pi) * (value + 0.044715 * value**3)))
    return value / (1 + np.exp(-value)) if act == "silu" else value


def runs_here(loaded, kernel):
    """Skip what the GPU is too old for."""
    major, minor = loaded.cuda.facts.compute_capability
    if 10 * major + minor < kernel.archs[0]:
        pytest.skip(f"{kernel.name} needs sm_{kernel.archs[0]}")


def holds(loaded, kernel, packed, x, bias, act):
    """The product is within what fp32 sums and an fp16 result leave of float64."""
    found = computed(loaded, kernel, packed, x, bias, act)
    weight = FORMATS[packed.format].unpack(packed).astype(np.float64)
    shift = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    wide = x.astype(np.float64)
    wanted = activated(wide @ weight.T + shift, act)
    allowed = 2.0**-10 * (np.abs(wide) @ np.abs(weight).T + np.abs(shift)) + 2.0**-24
    assert np.isfinite(found).all(), "something was not written"
    worst = float(np.max(np.abs(found - wanted) / allowed))
    assert worst <= 1, f"{kernel.name} {packed.shape} N={len(x)} {act}: {worst:.3g} times the error allowed"


@pytest.mark.parametrize("seed", range(SMALL))
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_small_products(loaded, name, seed):
    kernel = KERNELS[name]
    runs_here(loaded, kernel)
    holds(loaded, kernel, *drawn(kernel, seed, 300))


@pytest.mark.parametrize("seed", range(100, 100 + LARGE))
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_large_products(loaded, name, seed):
    kernel = KERNELS[name]
    runs_here(loaded, kernel)
    holds(loaded, kernel, *drawn(kernel, seed, 4096))


def sized(kernel, m, k, n, sparsity, seed=0):
    """A product of a fixed shape; dense formats keep everything, s24 a half."""
    rng = np.random.default_rng(seed)
    weight, format_ = rng.normal(size=(m, k)).astype(np.float32), FORMATS[kernel.format]
    fixed = {"int4": 0.0, "int2": 0.0, "s24": 0.5, "s24_int8": 0.5}
    packed = format_.pack(weight, format_.mask(np.abs(weight), fixed.get(kernel.format, sparsity)))
    return packed, rng.normal(size=(n, k)).astype(np.float16), rng.normal(size=m).astype(np.float16), "relu"


@pytest.mark.parametrize("sparsity", [0.5, 0.95])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("k", [4096, 4104, 8192, 8200])
@pytest.mark.parametrize("name", ["gap4_mv", "bitmap_mm", "vw16"])
def test_columns_behind_a_panel_of_x(loaded, name, k, n, sparsity):
    """gap4 holds 4096 columns of X at a time: one panel, eight columns more, two panels, eight more."""
    kernel = KERNELS[name]
    runs_here(loaded, kernel)
    holds(loaded, kernel, *sized(kernel, 136, k, n, sparsity))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_weight_of_more_than_100_mb(loaded, name):
    """2048 x 28672: 117 MB in fp16, more than any cache holds; packing it takes most of the time."""
    kernel = KERNELS[name]
    runs_here(loaded, kernel)
    holds(loaded, kernel, *sized(kernel, 2048, 28672, 4, 0.5))


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_torch_tensors_and_a_captured_graph(loaded, name):
    torch = pytest.importorskip("torch", reason="tensors of torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    from hwbench.sparse.launch import from_torch

    kernel = KERNELS[name]
    runs_here(loaded, kernel)
    packed, x, bias, act = drawn(kernel, 7, 1024)
    with SparseLinear(loaded, packed, kernel=kernel, bias=bias, act=act) as linear:
        given = torch.from_numpy(x).cuda()
        found = from_torch(linear, given)
        torch.cuda.synchronize()
        np.testing.assert_array_equal(found.cpu().numpy(), computed(loaded, kernel, packed, x, bias, act))
        stream, result = loaded.cuda.stream(), torch.empty_like(found)
        bound = linear.bind(given.data_ptr(), result.data_ptr(), len(x))
        graph = loaded.cuda.capture(lambda: bound.launch(stream), stream)
        graph.launch(stream)
        stream.wait()
        assert torch.equal(result, found)
        graph.free()
        stream.free()
