"""s24, vw16 and bsr: what is packed comes back, in as many bytes as the formulas say, and lies as hardware wants it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.sparse.formats import FORMATS, words

NAMES = ["s24", "s24_int8", "vw16", "vw16_int8", "bsr16", "bsr16_int8", "bsr32", "bsr32_int8"]
STEP = {"s24": 64, "vw16": 8, "bsr16": 16, "bsr32": 32}
# Bytes per weight at 50, 70 and 90 % (bound against dense fp16: 2 / bytes), rounded as published for fp16 and int16.
TABLE = {
    "vw16": (1.06, 0.64, 0.21),
    "bsr16": (1.00, 0.60, 0.20),
    "s24": (1.125, None, None),
    "s24_int8": (0.625, None, None),
}


def step_of(name):
    return STEP[name.removesuffix("_int8")]


@st.composite
def weights(draw, name):
    """A matrix with an unstructured pattern on top of the format's, so that blocks and columns have holes."""
    m, k = draw(st.integers(1, 70)), step_of(name) * draw(st.integers(1, 1024 // step_of(name)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.normal(size=(m, k)).astype(np.float16).astype(np.float32)
    sparsity = 0.5 if name.startswith("s24") else draw(st.floats(0, 1))
    weight *= FORMATS[name].mask(np.abs(weight), sparsity)
    weight *= rng.random(weight.shape) < draw(st.sampled_from([0.02, 0.5, 1]))
    return weight


@pytest.mark.parametrize("name", NAMES)
def test_what_is_packed_comes_back(name):
    @settings(max_examples=40, deadline=None, database=None)
    @given(weights(name))
    def holds(weight):
        form = FORMATS[name]
        packed = form.pack(weight)
        assert (packed.format, packed.shape, form.name) == (name, weight.shape, name)
        again = form.unpack(packed)
        assert again.dtype == np.float32
        if form.values == "fp16":
            np.testing.assert_array_equal(again, weight)
        else:
            step = np.max(np.abs(weight), axis=1, initial=0, keepdims=True) / 127
            assert (np.abs(again - weight) <= step * 0.5001).all()
            assert not again[weight == 0].any()

    holds()


def most_on_top(name, packed):
    """Bytes that a format may take beyond its formula: pointers, padding of M, filling of fragments."""
    m, k = packed.shape
    value = 2 if FORMATS[name].values == "fp16" else 1
    if name.startswith("s24"):
        return (-m % 16) * k * (value / 2 + 1 / 8)
    if name.startswith("vw16"):
        strips, per_fragment, quarters = -(-m // 16), (16 if value == 2 else 32), -(-k // 256)
        fragments = len(packed.arrays["columns"]) * 2 // per_fragment
        return 4 * strips * (quarters + 1) + min(fragments, strips * quarters) * per_fragment * (16 * value + 2)
    size = 16 if name.startswith("bsr16") else 32
    return 4 * (-(-m // size) + 1) + 2


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_of_the_formula(name):
    @settings(max_examples=40, deadline=None, database=None)
    @given(st.integers(1, 5), st.integers(1, 1024 // step_of(name)), st.sampled_from([0.0, 0.5, 0.7, 0.9, 1.0]))
    def holds(rows, steps, asked):
        m, k = 32 * rows, step_of(name) * steps
        form, scores = FORMATS[name], np.random.default_rng(rows * steps).random((m, k)) + 1
        mask = form.mask(scores, 0.5 if name.startswith("s24") else asked)
        packed = form.pack(scores, mask)
        least = form.bytes_of(m, k, 1 - mask.mean())
        assert least - 0.5 <= packed.bytes <= least + 0.5 + most_on_top(name, packed)
        assert packed.bytes == sum(each.nbytes for each in packed.arrays.values())

    holds()


@pytest.mark.parametrize("name", TABLE)
def test_the_formulas_are_those_of_the_research(name):
    for sparsity, published in zip((0.5, 0.7, 0.9), TABLE[name], strict=True):
        if published is not None:
            per_row = 4 if name.endswith("int8") else 0
            per_weight = (FORMATS[name].bytes_of(4096, 4096, sparsity) - per_row * 4096) / 4096**2
            assert per_weight == pytest.approx(published, abs=0.006)


def test_large_matrices_take_hardly_more_than_the_formula():
    rng = np.random.default_rng(0)
    weight = rng.random((64, 4096)).astype(np.float32) + 1
    for name in ("vw16", "vw16_int8", "bsr16", "bsr32"):
        last = 1.1 if name == "vw16_int8" else 1.05  # 32 columns to a fragment, and 26 to 51 within its reach
        for sparsity, most in ((0.5, 1.01), (0.7, 1.02), (0.9, last)):
            mask = FORMATS[name].mask(weight, sparsity)
            packed = FORMATS[name].pack(weight, mask)
            assert packed.bytes <= most * FORMATS[name].bytes_of(64, 4096, 1 - mask.mean()), (name, sparsity)


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([n for n in NAMES if not n.startswith("s24")]), st.floats(0, 1))
def test_a_mask_keeps_the_best_of_each_strip(seed, name, sparsity):
    form, size = FORMATS[name], 32 if name.startswith("bsr32") else 16
    wide = size if name.startswith("bsr") else 1
    scores = np.random.default_rng(seed).random((70, 128))
    mask = form.mask(scores, sparsity)
    for top in range(0, 70, size):
        sums = scores[top : top + size].sum(axis=0).reshape(-1, wide).sum(axis=1)
        kept = mask[top : top + size].reshape(-1, 128 // wide, wide).all(axis=(0, 2))
        assert (mask[top : top + size].reshape(-1, 128 // wide, wide).any(axis=(0, 2)) == kept).all()
        assert kept.sum() == round((1 - sparsity) * len(sums))
        if 0 < kept.sum() < len(sums):
            assert sums[kept].min() >= sums[~kept].max()


def test_a_mask_of_s24_keeps_the_best_two_of_four():
    scores = np.random.default_rng(0).random((5, 64))
    groups, kept = scores.reshape(-1, 4), FORMATS["s24"].mask(scores, 0.5).reshape(-1, 4)
    assert (kept.sum(axis=1) == 2).all()
    assert (np.sort(groups, axis=1)[:, 2:] == np.sort(groups[kept].reshape(-1, 2), axis=1)).all()


@pytest.mark.parametrize(
    ("name", "m", "k", "why"),
    [
        ("s24", 16, 96, "K is 96, and s24 takes multiples of 64"),
        ("vw16_int8", 16, 27, "K is 27, and vw16_int8 takes multiples of 8"),
        ("vw16", 16, 65544, "counts columns in 16 bits"),
        ("bsr32", 64, 48, "takes multiples of 32"),
        ("bsr16", 0, 16, "holds nothing"),
    ],
)
def test_shapes_outside_the_contract_are_refused_in_words(name, m, k, why):
    assert why in FORMATS[name].refuses(m, k)
    with pytest.raises(ValueError, match=r"K is|holds nothing"):
        FORMATS[name].pack(np.zeros((m, k), np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_rows_is_taken(name):
    assert all(FORMATS[name].refuses(m, 64) is None for m in (1, 15, 16, 17, 1000))


class TestWhatCannotBeHeld:
    def test_three_of_four(self):
        with pytest.raises(ValueError, match="16 groups of four hold more than two"):
            FORMATS["s24"].pack(np.tile([1.0, 1, 0, 1], (1, 16)))

    def test_beyond_fp16(self):
        for name in ("s24", "vw16", "bsr16"):
            weight = np.zeros((16, 64), np.float32)
            weight[0, 0] = 65519  # rounds to 65504
            FORMATS[name].pack(weight)
            weight[0, 0] = 65520  # rounds to infinity
            with pytest.raises(ValueError, match="1 weights are beyond fp16's largest"):
                FORMATS[name].pack(weight)

    def test_what_is_not_finite_has_no_scale(self):
        with pytest.raises(ValueError, match="not finite"):
            FORMATS["vw16_int8"].pack(np.full((16, 64), np.nan, np.float32))

    def test_other_shapes_and_formats(self):
        form = FORMATS["bsr16"]
        with pytest.raises(ValueError, match="3 dimensions"):
            form.pack(np.zeros((1, 16, 16), np.float32))
        with pytest.raises(ValueError, match="mask is"):
            form.pack(np.zeros((16, 16), np.float32), np.ones((16, 8), bool))
        with pytest.raises(ValueError, match="packed as bsr16, not as bsr32"):
            FORMATS["bsr32"].unpack(form.pack(np.zeros((16, 32), np.float32)))

    def test_sparsities(self):
        with pytest.raises(ValueError, match="drops half of the weights; a sparsity of"):
            FORMATS["s24"].mask(np.ones((4, 64)), 0.7)
        for name in ("vw16", "bsr16"):
            with pytest.raises(ValueError, match="no share from 0 to 1"):
                FORMATS[name].mask(np.ones((16, 64)), 1.5)
        with pytest.raises(ValueError, match="no multiple of 16"):
            FORMATS["bsr16"].mask(np.ones((16, 24)), 0.5)
        with pytest.raises(ValueError, match="no multiple of four"):
            FORMATS["s24"].mask(np.ones((16, 6)), 0.5)


def test_fragments_of_vw16_span_two_quarters_at_most():
    rng = np.random.default_rng(0)
    weight = (rng.random((32, 4096)) < 0.004).astype(np.float32)
    for name in ("vw16", "vw16_int8"):
        packed = FORMATS[name].pack(weight)
        columns = words.uint16_of(packed.arrays["columns"]).reshape(-1, FORMATS[name].columns)
        quarters = columns // 256
        assert ((quarters[:, -1] - quarters[:, 0]) <= 1).all()
        assert (np.diff(columns.astype(int), axis=1) >= 0).all()
        starts = packed.arrays["starts"].reshape(2, 17)
        for strip in starts:
            for quarter in range(16):
                assert (quarters[strip[quarter] : strip[quarter + 1], -1] == quarter).all()


def test_operands_lie_as_the_ptx_isa_says():
    """PTX ISA, mma.m16n8k16: row = groupID for a0, a1, a4, a5, else + 8; column = 2 threadID + (i & 1), + 8 from a4."""
    tile = np.arange(256).reshape(16, 16)
    fragments = words.to_fragments(tile)
    for lane in range(32):
        for i in range(8):
            row = lane // 4 + (0 if i in {0, 1, 4, 5} else 8)
            assert fragments[lane, i] == tile[row, lane % 4 * 2 + (i & 1) + (8 if i >= 4 else 0)]
    assert (words.from_fragments(fragments) == tile).all()


def test_metadata_lies_as_cutlass_has_it():
    """Torch carries CUTLASS's own reordering of 2:4 metadata: an oracle that shares no line with ours."""
    torch = pytest.importorskip("torch")
    from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, 128)).astype(np.float32)
    weight *= FORMATS["s24"].mask(np.abs(weight), 0.5)
    metadata = FORMATS["s24"].pack(weight).arrays["metadata"].reshape(2, 2, 8, 2, 2)  # strip, unit, g, step, half

    order = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # s24 gives the instruction the groups of a step in this order
    given_order = weight.reshape(32, 4, 8, 4)[:, :, order].reshape(32, 128)
    _, meta = sparse_semi_structured_from_dense_cutlass(torch.from_numpy(given_order).half())
    theirs = meta.numpy().ravel().view(np.int32).reshape(4, 8, 2, 2)  # 32 columns, g, strip (of two), half
    assert (metadata.transpose(1, 3, 2, 0, 4).reshape(4, 8, 2, 2) == theirs).all()
