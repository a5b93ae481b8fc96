"""Packing: the same bits come back, from memory and from a file, and the sizes are those that were counted."""

import heapq

import numpy as np
import pytest
from compress_subjects import subject_of
from factor_graphs import conv
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.compress.codebooks import Codebook, index_counts, mean_code_length, pack, read, unpack, write
from hwbench.compress.state import Books, load, save
from hwbench.errors import ModelError, StorageError
from hwbench.records.base import Missing
from hwbench.records.compression import CompressRequest


def same_bits(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@st.composite
def few_valued(draw):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), max_size=len(shape)))))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    count = draw(st.integers(1, 256))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.standard_normal(count).astype(dtype)
    values[0] = draw(st.sampled_from([0.0, -0.0, np.inf]))
    return values[rng.integers(0, count, shape)], axes


@given(case=few_valued())
@settings(max_examples=100, deadline=None)
def test_what_was_packed_comes_back_bit_by_bit(case):
    array, axes = case
    packed = pack([array], axes)
    (back,) = unpack(packed)
    assert same_bits(back, array)
    assert packed.indices[0].nbytes == -(-packed.bits * array.size // 8)
    assert packed.stored_bits == packed.bits * array.size + packed.values.nbytes * 8
    assert packed.values.shape[1] <= 2**packed.bits
    assert int(index_counts(packed).sum()) == array.size


def test_zero_and_minus_zero_are_two():
    array = np.array([0.0, -0.0, 0.0], np.float32)
    packed = pack([array])
    assert packed.values.shape == (1, 2)
    assert same_bits(unpack(packed)[0], array)


def test_more_than_256_values_are_no_codebook():
    assert pack([np.arange(257, dtype=np.float32)]) is None
    assert pack([np.arange(256, dtype=np.float32)]).bits == 8
    assert pack([np.arange(257, dtype=np.float32).reshape(257, 1)], (0,)).bits == 0


def test_tensors_share_a_book():
    left, right = np.array([[1, 2], [2, 1]], np.float32), np.array([3, 1, 3], np.float32)
    packed = pack([left, right])
    assert packed.values.tolist() == [[1, 2, 3]]
    assert all(same_bits(a, b) for a, b in zip(unpack(packed), (left, right), strict=True))


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any))
@settings(deadline=None)
def test_a_huffman_code_is_within_a_bit_of_the_entropy(counts):
    counts = np.array(counts)
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log2(shares)).sum())
    length = mean_code_length(counts)
    assert entropy - 1e-9 <= length < entropy + 1


def test_a_huffman_code_has_the_lengths_of_the_tree():
    counts = [5, 9, 12, 13, 16, 45]  # the textbook's: 224 bits for 100 symbols
    assert mean_code_length(np.array(counts)) == 2.24
    heap = [(count, (index,)) for index, count in enumerate(counts)]
    heapq.heapify(heap)
    depth = [0] * 6
    while len(heap) > 1:
        (a, left), (b, right) = heapq.heappop(heap), heapq.heappop(heap)
        for index in left + right:
            depth[index] += 1
        heapq.heappush(heap, (a + b, left + right))
    assert sum(d * c for d, c in zip(depth, counts, strict=True)) == 224


def test_a_file_gives_the_tensors_back_and_what_has_left_its_codebook_is_an_error(tmp_path):
    model = conv(outputs=8, inputs=40)
    weight = model.graph.initializers["w"]
    import onnx_ir as ir

    weight.const_value = ir.tensor(np.round(weight.const_value.numpy() * 3).astype(np.float32), name="w")
    subject = subject_of(model, tmp_path)
    books = {"w": Codebook(name="conv", axes=(0,)), "b": Codebook(name="bias"), "gone": Codebook(name="gone")}
    assert write(subject.model, books, tmp_path / "books.npz") == ("w", "b")
    found = read(tmp_path / "books.npz")
    assert all(same_bits(found[name], model.graph.initializers[name].const_value.numpy()) for name in ("w", "b"))
    weight.const_value = ir.tensor(np.random.default_rng(0).standard_normal((8, 40, 3, 3)).astype(np.float32), name="w")
    with pytest.raises(ModelError, match="w: more values"):
        write(subject.model, books, tmp_path / "books.npz")
    with pytest.raises(ModelError, match="b: more values than the 1 of"):
        write(subject.model, {"b": Codebook(name="bias", codes=1)}, tmp_path / "books.npz")


def test_bfloat16_goes_through_a_file(tmp_path):
    import onnx_ir as ir

    model = conv()
    bfloat16 = ir.DataType.BFLOAT16.numpy()
    array = np.array([1, 2, 1.5, 1], bfloat16)
    model.graph.initializers["b"].const_value = ir.tensor(array, dtype=ir.DataType.BFLOAT16, name="b")
    write(model, {"b": Codebook(name="b")}, tmp_path / "books.npz")
    assert same_bits(read(tmp_path / "books.npz")["b"], array)


def test_files_that_cannot_be_written_or_read_say_so(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        write(conv(), {"b": Codebook(name="b")}, tmp_path / "no" / "books.npz")
    with pytest.raises(StorageError, match="cannot be read"):
        read(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(StorageError, match="cannot be read"):
        read(tmp_path / "other.npz")


def test_books_are_as_they_were_when_a_run_goes_on(tmp_path):
    request = CompressRequest(
        model="m", steps=(), data=None, preprocess=None, samples=1, batch_size=1, shapes={},
        verify=Missing(code="none", why="not asked for"), emit=("onnx",), training_device="cpu", replace=False,
        resume=False, device="cpu", threads=1, seed=0, timeout_s=1.0,
    )  # fmt: skip
    books = Books(
        request=request, hub_sha256="", data_sha256=None, applied=(), kept=(), held_zeros=(), bits={}, codebooks={}
    )
    subject, again = subject_of(conv(), tmp_path), subject_of(conv(), tmp_path)
    subject.on_grid, subject.codebooks = {"w", "b"}, {"w": Codebook(name="conv", axes=(0,), codes=4)}
    save(tmp_path, subject, books)
    assert load(tmp_path, again, books) == ()
    assert (again.on_grid, again.codebooks) == (subject.on_grid, subject.codebooks)
