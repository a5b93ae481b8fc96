from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.compress.patterns import Blocks, NofM, Unstructured, lowest, parse_pattern, stored_bits, unit_scores
from hwbench.errors import UsageError

shapes = st.tuples(*[st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)])


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("unstructured", Unstructured()),
        ("2:4", NofM(2, 4)),
        ("1:16", NofM(1, 16)),
        ("16x1", Blocks(16, 1)),
        ("1x1", Unstructured()),
    ],
)
def test_a_pattern_is_read_and_written(text, pattern):
    assert parse_pattern(text) == pattern
    assert parse_pattern(str(pattern)) == pattern


@pytest.mark.parametrize("text", ["", "4:4", "4:2", "0:4", "2:4:8", "0x4", "16", "x", "2 : 4", "-1x3"])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(UsageError, match="no pattern"):
        parse_pattern(text)


@given(shape=shapes, keep=st.integers(1, 3), more=st.integers(1, 3), seed=st.integers(0, 99))
def test_n_of_m_keeps_the_highest_of_each_group(shape, keep, more, seed):
    of = keep + more
    scores = np.random.default_rng(seed).random(shape)
    kept = NofM(keep, of).kept(scores)
    for group, output, position in np.ndindex(shape[0], shape[1], shape[3]):
        for start in range(0, shape[2], of):
            found = kept[group, output, start : start + of, position]
            one = scores[group, output, start : start + of, position]
            assert found.sum() == min(keep, len(one))
            assert not found.all() or len(one) <= keep
            if not found.all():
                assert one[found].min() >= one[~found].max()


def test_what_is_2_of_4_is_what_sparse_kernels_take():
    conversions = pytest.importorskip("torch.sparse._semi_structured_conversions", reason="torch packs 2:4 matrices")
    torch = pytest.importorskip("torch", reason="torch packs 2:4 matrices")
    weights = np.random.default_rng(0).normal(size=(1, 32, 64, 1)).astype(np.float16)
    pruned = torch.from_numpy(np.where(NofM(2, 4).kept(np.abs(weights)), weights, 0)[0, :, :, 0])
    packed, where = conversions.sparse_semi_structured_from_dense_cutlass(pruned)
    assert packed.shape == (32, 32)
    assert torch.equal(conversions.sparse_semi_structured_to_dense_cutlass(packed, where), pruned)


@given(shape=shapes, rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_blocks_tile_the_matrix_of_each_group(shape, rows, columns):
    groups, outputs, inputs, kernel = shape
    units = Blocks(rows, columns).units(shape).reshape(groups, outputs, inputs * kernel)
    seen = {}
    for group, row, column in np.ndindex(units.shape):
        seen.setdefault((group, row // rows, column // columns), set()).add(int(units[group, row, column]))
    assert all(len(numbers) == 1 for numbers in seen.values())
    assert sorted(min(numbers) for numbers in seen.values()) == list(range(len(seen)))
    assert Blocks(rows, columns).refused(shape) is None or len(seen) == 1


def test_a_block_scores_the_mean_of_its_weights_and_one_of_zeros_goes_first():
    scores = np.array([[1.0, 3.0, 5.0, 5.0, 9.0]])
    units = np.array([[0, 0, 1, 1, 2]])
    means, sizes = unit_scores(scores, units, np.array([[False, False, True, True, False]]))
    assert means.tolist() == [2.0, -np.inf, 9.0]
    assert sizes.tolist() == [2, 2, 1]
    assert lowest(means, sizes, 3).tolist() == [False, True, False]
    assert lowest(means, sizes, 4).tolist() == [True, True, False]
    assert lowest(np.array([np.inf, 1.0]), np.array([1, 1]), 2).tolist() == [False, True]


def test_stored_bits_count_the_mask():
    assert stored_bits(Unstructured(), 0.25, 32) == 0.25 * 32 + 1
    assert stored_bits(Blocks(16, 1), 0.5, 32) == 0.5 * 32 + 1 / 16
    assert stored_bits(NofM(2, 4), 0.5, 16) == 0.5 * (16 + 2)
    assert stored_bits(NofM(3, 4), 0.5, 1) == 1  # the format would be larger than the weights
    assert stored_bits(Unstructured(), 1, 32) == 32
