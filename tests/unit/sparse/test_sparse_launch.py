from __future__ import annotations

import dataclasses
import types

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_examples import Strips, pruned, strips_kernel, with_strips
from sparse_fake_cuda import SparseGpu, image, strips_block

from hwbench.errors import Unsupported, UsageError
from hwbench.sparse.formats import Packed
from hwbench.sparse.launch import Loaded, SparseLinear, Variant, from_torch, newest_below, refusal
from hwbench.sparse.manifest import Shape


@pytest.fixture(autouse=True)
def _strips(monkeypatch):
    with_strips(monkeypatch)


def gpu(**other):
    return SparseGpu({"hwb_strips": strips_block}, compute_capability=(9, 0), **other)


def linear(cuda, weight, kernel=None, **other):
    return SparseLinear(Loaded(cuda, image), Strips().pack(weight), kernel=kernel or strips_kernel(), **other)


def run(cuda, sparse, x):
    """Put X into the GPU, launch, and fetch Y."""
    stream = cuda.stream()
    m = sparse.packed.shape[0]
    given, found = cuda.allocate(x.nbytes), cuda.allocate(2 * len(x) * m)
    cuda.copy_in(given.address, x, stream)
    sparse.bind(given.address, found.address, len(x)).launch(stream)
    y = np.empty((len(x), m), np.float16)
    cuda.copy_out(y, found.address, stream)
    stream.wait()
    given.free()
    found.free()
    return y


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), strips=st.integers(1, 5), k=st.integers(2, 40), bias=st.booleans(), relu=st.booleans(),
       seed=st.integers(0, 99))  # fmt: skip
def test_a_launch_computes_the_product_for_every_n(n, strips, k, bias, relu, seed):
    with pytest.MonkeyPatch.context() as patch:
        with_strips(patch)
        rng = np.random.default_rng(seed)
        weight = pruned(rng, 4 * strips, k)
        x = rng.normal(size=(n, k)).astype(np.float16)
        b = rng.normal(size=4 * strips).astype(np.float16) if bias else None
        cuda = gpu()
        with linear(cuda, weight, bias=b, act="relu" if relu else "none") as sparse:
            found = run(cuda, sparse, x)
        assert cuda.alive() == 0
    wide = x.astype(np.float64), weight.astype(np.float64)
    wanted = wide[0] @ wide[1].T + (0 if b is None else b.astype(np.float64))
    wanted = np.maximum(wanted, 0) if relu else wanted
    bound = np.abs(wide[0]) @ np.abs(wide[1]).T + (0 if b is None else np.abs(b.astype(np.float64)))
    assert (np.abs(found - wanted) <= 2.0**-10 * bound + 1e-7).all()


@pytest.mark.parametrize(("n", "tile", "blocks"), [(1, 8, 1), (8, 8, 1), (9, 16, 1), (32, 32, 1), (33, 32, 2)])
def test_the_tile_and_the_grid_follow_n(n, tile, blocks):
    cuda = gpu()
    with linear(cuda, pruned(np.random.default_rng(0), 12, 10)) as sparse:
        run(cuda, sparse, np.ones((n, 10), np.float16))
        assert sparse.variant(n) == Variant(kernel="strips", tile_n=tile)
    _, told, shape = cuda.launches[-1]
    assert (told["tile"], told["gpu"], shape.grid, shape.block) == (tile, [9, 0], (3, blocks, 1), (128, 1, 1))


@pytest.mark.parametrize(("n", "multiprocessors", "kernel"), [(8, 1, "strips"), (9, 1, "broad"), (9, 4, "strips")])
def test_a_wide_kernel_is_launched_where_it_fits(n, multiprocessors, kernel):
    """12 rows: two blocks of 8."""
    cuda = gpu()
    cuda.facts = dataclasses.replace(cuda.facts, multiprocessors=multiprocessors)
    broad = strips_kernel(name="broad", rows_per_block=8, tile_n=(16, 32))
    with linear(cuda, pruned(np.random.default_rng(0), 12, 10), wide=broad) as sparse:
        assert sparse.variant(n).kernel == kernel
        bound = sparse.bind(1024, 2048, n)
    assert bound.shape.grid[0] == (2 if kernel == "broad" else 3)


def test_a_wide_kernel_must_read_the_same_arrays():
    with pytest.raises(UsageError, match="is not what the kernel broad reads"):
        linear(gpu(), pruned(np.random.default_rng(0), 12, 10), wide=strips_kernel(name="broad", inputs=("values",)))


def test_a_kernel_is_compiled_once_for_a_tile_and_what_was_taken_is_given_back():
    cuda, asked = gpu(), []
    kernel, packed = strips_kernel(), Strips().pack(pruned(np.random.default_rng(0), 8, 10))
    loaded = Loaded(cuda, lambda variant, gpu: asked.append(variant) or image(variant, gpu))
    with loaded, SparseLinear(loaded, packed, kernel=kernel) as sparse, SparseLinear(loaded, packed, kernel=kernel):
        for n in (1, 2, 8, 20):
            run(cuda, sparse, np.ones((n, 10), np.float16))
        assert [variant.tile_n for variant in asked] == [8, 32]
        assert sparse.bytes == packed.bytes
    sparse.close()
    loaded.close()
    assert cuda.left() == 0


def test_what_is_outside_the_contract_is_refused_with_the_reason():
    cuda, weight = gpu(), pruned(np.random.default_rng(0), 8, 10)
    with linear(cuda, weight, strips_kernel(shape=Shape(n_most=4))) as sparse:
        with pytest.raises(UsageError, match="5 rows of inputs are more than 4"):
            sparse.bind(256, 512, 5)
        with pytest.raises(UsageError, match="Y lies at an address that is no multiple of 16"):
            sparse.bind(256, 520, 1)
        with pytest.raises(UsageError, match="X lies at an address"):
            sparse.bind(258, 512, 1)
        with pytest.raises(UsageError, match="no element"):
            sparse.bind(256, 512, 0)
    with pytest.raises(UsageError, match="not what the kernel other reads"):
        linear(cuda, weight, strips_kernel(name="other", format="other"))
    with pytest.raises(UsageError, match="not what the kernel strips reads"):
        linear(cuda, weight, strips_kernel(inputs=("columns", "values")))
    with pytest.raises(UsageError, match="the bias has the shape"):
        linear(cuda, weight, bias=np.zeros(7))
    assert cuda.alive() == 0


def test_what_32_bits_cannot_count_is_refused():
    kernel = strips_kernel(shape=Shape(n_most=1 << 30))
    packed = Packed(format="strips", shape=(4096, 4096), arrays={}, scalars={"width": 1})
    assert refusal(kernel, packed, 1 << 18) is None
    assert "X has 2147483648 elements" in refusal(kernel, packed, 1 << 19)
    large = msgspec.structs.replace(kernel)
    wide = Packed(format="strips", shape=(4096, 4096), arrays={}, scalars={"width": 1 << 31})
    assert "width = 2147483648" in refusal(large, wide, 1)


def test_memory_that_was_taken_is_given_back_when_there_is_no_more():
    cuda = gpu()
    allocate, left = cuda.allocate, [1]

    def once(size):
        if not left:
            raise UsageError("out of memory")
        left.pop()
        return allocate(size)

    cuda.allocate = once
    with pytest.raises(UsageError, match="out of memory"):
        linear(cuda, pruned(np.random.default_rng(0), 8, 10))
    assert cuda.alive() == 0


def test_a_launch_in_a_graph_is_not_run_before_the_graph():
    cuda = gpu()
    stream = cuda.stream()
    weight = pruned(np.random.default_rng(0), 8, 10)
    x, y = cuda.allocate(20), cuda.allocate(16)
    cuda.view(x.address, np.float16, (1, 10))[:] = 1
    with linear(cuda, weight) as sparse:
        bound = sparse.bind(x.address, y.address, 1)
        captured = cuda.capture(lambda: bound.launch(stream), stream)
        stream.wait()
        assert not cuda.launches
        captured.launch(stream)
        stream.wait()
        np.testing.assert_allclose(cuda.view(y.address, np.float16, (8,)), weight.sum(1), atol=1e-2)


def test_a_tensor_that_is_not_on_a_gpu_is_refused():
    torch = pytest.importorskip("torch", reason="tensors of torch")
    with linear(gpu(), pruned(np.random.default_rng(0), 8, 10)) as sparse, pytest.raises(UsageError, match="on cpu"):
        from_torch(sparse, torch.zeros(1, 10, dtype=torch.float16))


class OnGpu:
    """As much of a torch tensor on a GPU as is asked of one."""

    is_cuda = True

    def __init__(self, torch, cuda, array, index):
        self.dtype, self.shape, self.device = torch.float16, array.shape, torch.device("cuda", index)
        self._place = cuda.allocate(array.nbytes)
        cuda.view(self._place.address, array.dtype, array.shape)[:] = array

    def dim(self):
        return len(self.shape)

    def is_contiguous(self):
        return True

    def data_ptr(self):
        return int(self._place.address)


@pytest.mark.parametrize(("index", "count", "told", "taken"), [
    (0, 2, ["own", "other"], True), (1, 2, ["own", "other"], False), (0, 2, [None, None], False), (0, 1, [None], True),
])  # fmt: skip
def test_a_tensor_on_another_gpu_is_refused(monkeypatch, index, count, told, taken):
    """An address of another GPU would be read as one of this."""
    torch = pytest.importorskip("torch", reason="tensors of torch")
    cuda = gpu()
    uuids = {"own": cuda.facts.uuid.removeprefix("GPU-"), "other": "ffffffff-0405-0607-0809-0a0b0c0d0e0f", None: None}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: types.SimpleNamespace(uuid=uuids[told[number]])
    )
    stream = cuda.stream()
    current = types.SimpleNamespace(cuda_stream=stream.handle, synchronize=stream.wait)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    x = np.ones((3, 10), np.float16)
    weight = pruned(np.random.default_rng(0), 8, 10)
    with linear(cuda, weight) as sparse:
        given = OnGpu(torch, cuda, x, index)
        monkeypatch.setattr(torch, "empty", lambda *_, **__: OnGpu(torch, cuda, np.empty((3, 8), np.float16), index))
        if not taken:
            with pytest.raises(UsageError, match=f"torch's cuda:{index}, which is not known to be {cuda.facts.uuid}"):
                from_torch(sparse, given)
            return
        y = from_torch(sparse, given)
        stream.wait()
        found = cuda.view(y.data_ptr(), np.float16, (3, 8))
        np.testing.assert_allclose(found, x.astype(np.float64) @ weight.T, atol=2e-2)


def test_a_gpu_takes_the_newest_ptx_that_is_not_newer_than_it():
    assert [newest_below((75, 80, 90), sm) for sm in (75, 89, 90, 120)] == [75, 80, 90, 90]
    with pytest.raises(Unsupported, match="sm_75 and newer, and the GPU is sm_72"):
        newest_below((75, 80), 72)
