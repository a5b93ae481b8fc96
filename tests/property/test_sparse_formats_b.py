"""gap4, bitmap, int4 and int2: what is packed comes out again, byte for byte counted; places and codes by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.sparse.formats import FORMATS
from hwbench.sparse.formats.bitmap import Bitmap
from hwbench.sparse.formats.few_bits import FewBits
from hwbench.sparse.formats.gap4 import Gap4

UNSTRUCTURED = [Gap4(), Bitmap()]
DENSE = [FewBits(4), FewBits(2)]
SPARSITIES = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0])


def weight(seed, m, k, sparsity):
    """Return random weights, some of whose rows are empty, and what of them is kept."""
    rng = np.random.default_rng(seed)
    kept = (rng.random((m, k)) >= sparsity) & (rng.random((m, 1)) < 0.9)
    return rng.standard_normal((m, k)).astype(np.float32), kept


@pytest.mark.parametrize("form", UNSTRUCTURED, ids=lambda form: form.name)
class TestUnstructured:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 40), SPARSITIES)
    def test_any_pattern_comes_out_again(self, form, seed, m, eights, sparsity):
        full, kept = weight(seed, m, 8 * eights, sparsity)
        unpacked = form.unpack(form.pack(full, kept))
        assert unpacked.dtype == np.float32
        np.testing.assert_array_equal(unpacked, np.where(kept, full, 0).astype(np.float16))

    @pytest.mark.parametrize("k", [4088, 4096, 4104, 12296])
    def test_long_rows_come_out_again(self, form, k):
        full, kept = weight(1, 5, k, 0.98)
        np.testing.assert_array_equal(form.unpack(form.pack(full, kept)), np.where(kept, full, 0).astype(np.float16))

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 99), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
    def test_the_mask_keeps_the_best(self, form, seed, sparsity):
        scores = np.random.default_rng(seed).random((6, 48))
        kept = form.mask(scores, sparsity)
        assert np.count_nonzero(kept) == round(6 * 48 * (1 - sparsity))
        if 0 < sparsity < 1:
            assert scores[kept].min() > scores[~kept].max()

    @pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
    def test_bytes_are_those_of_the_formula(self, form, sparsity):
        m, k = 64, 8192
        full, _ = weight(2, m, k, 0)
        kept = np.random.default_rng(3).random((m, k)) >= sparsity
        assert form.pack(full, kept).bytes == pytest.approx(form.bytes_of(m, k, sparsity), rel=0.01)

    def test_a_matrix_of_zeros_has_no_values(self, form):
        packed = form.pack(np.zeros((17, 64), np.float32))
        assert packed.arrays["values"].size == 0
        assert packed.bytes == form.bytes_of(17, 64, 1.0)
        assert not form.unpack(packed).any()

    def test_what_it_cannot_hold_is_refused(self, form):
        assert form.refuses(16, 64) is None
        assert "multiples of 8" in form.refuses(16, 60)
        with pytest.raises(ValueError, match="multiples of 8"):
            form.pack(np.zeros((16, 60), np.float32))
        with pytest.raises(ValueError, match="beyond fp16"):
            form.pack(np.full((16, 64), 1e6, np.float32))
        with pytest.raises(ValueError, match="no share"):
            form.mask(np.zeros((2, 8)), 1.5)
        other = FORMATS["int4"].pack(np.ones((16, 64), np.float32))
        with pytest.raises(ValueError, match="packed as int4"):
            form.unpack(other)


# The shares of trt_kernels.md 4.2, in bytes a weight, padding not counted.
@pytest.mark.parametrize(("sparsity", "gap4", "bitmap"), [(0.5, 1.25, 1.125), (0.7, 0.75, 0.725), (0.9, 0.307, 0.325)])
def test_bytes_a_weight(sparsity, gap4, bitmap):
    m, k = 4096, 16384
    assert Gap4().bytes_of(m, k, sparsity) / (m * k) == pytest.approx(gap4, rel=0.035)
    assert Bitmap().bytes_of(m, k, sparsity) / (m * k) == pytest.approx(bitmap, rel=0.035)


class TestGaps:
    @staticmethod
    def gaps(row):
        packed = Gap4().pack(row[None])
        nibbles = packed.arrays["gaps"].view(np.uint8)
        return [int(each) for pair in zip(nibbles & 15, nibbles >> 4, strict=True) for each in pair], packed

    @pytest.mark.parametrize(
        ("column", "gaps"), [(0, [0]), (15, [15]), (16, [15, 0]), (31, [15, 15]), (32, [15, 15, 0]), (40, [15, 15, 8])]
    )
    def test_a_gap_above_15_takes_fillers(self, column, gaps):
        row = np.zeros(48, np.float32)
        row[column] = 2
        found, packed = self.gaps(row)
        assert found[: len(gaps)] == gaps
        assert packed.arrays["values"][: len(gaps)].tolist() == [0] * (len(gaps) - 1) + [2]

    def test_places_start_again_at_every_panel(self):
        row = np.zeros(8192, np.float32)
        row[[4090, 4096 + 3]] = 1
        found, packed = self.gaps(row)
        entries = 4090 // 16 + 1
        assert packed.arrays["offsets"].tolist() == [0, -(-entries // 16), -(-entries // 16) + 1]
        assert found[-16] == 3

    def test_two_halves_of_a_step_lie_apart(self):
        _, packed = self.gaps(np.arange(1, 33, dtype=np.float32))  # two groups of 16
        halves = packed.arrays["values"].reshape(2, 2, 8)
        assert halves[0, 0].tolist() == list(range(1, 9))
        assert halves[0, 1].tolist() == list(range(17, 25))
        assert halves[1, 0].tolist() == list(range(9, 17))


class TestBits:
    @pytest.mark.parametrize(
        ("row", "column", "lane", "bit"),
        [(0, 0, 0, 0), (0, 1, 0, 1), (8, 0, 0, 2), (0, 2, 0, 4), (0, 4, 0, 8), (3, 16, 13, 0), (15, 63, 31, 31)],
    )
    def test_lie_where_the_operands_want_them(self, row, column, lane, bit):
        full = np.zeros((16, 64), np.float32)
        full[row, column] = 3
        packed = Bitmap().pack(full)
        words = packed.arrays["bits"].view(np.uint32).reshape(32, 4)
        assert {(int(at), int(step)): int(words[at, step]) for at, step in np.argwhere(words)} == {(lane, 0): 1 << bit}
        assert packed.arrays["values"].tolist() == [3] + [0] * 7


@pytest.mark.parametrize("form", DENSE, ids=lambda form: form.name)
class TestFewBits:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 6))
    def test_codes_and_scales_come_out_again(self, form, seed, m, blocks):
        rng, k = np.random.default_rng(seed), 64 * blocks
        codes = rng.integers(0, 1 << form.bits, (m, k)).astype(np.uint8)
        scales = rng.uniform(0.1, 2, (m, k // form.group(k))).astype(np.float16)
        packed = form.pack_codes(codes, scales)
        offset = 8 if form.bits == 4 else 1.5
        exact = (codes.astype(np.float64) - offset) * np.repeat(scales.astype(np.float64), form.group(k), axis=1)
        np.testing.assert_array_equal(form.unpack(packed), exact)  # few bits times fp16: float32 holds it
        assert packed.scalars == {"group": form.group(k)}

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 99), st.floats(1e-3, 1e3))
    def test_a_weight_is_rounded_to_the_nearest_of_its_scale(self, form, seed, size):
        full = (np.random.default_rng(seed).standard_normal((3, 128)) * size).astype(np.float32)
        packed = form.pack(full)
        scales = packed.arrays["scales"].reshape(8, 2)[:3, 0].astype(np.float32)[:, None]
        least, most = (1, 15) if form.bits == 4 else (0, 3)
        levels = (np.arange(least, most + 1) - (8 if form.bits == 4 else 1.5)) * scales  # (3, levels)
        nearest = np.abs(full[..., None] - levels[:, None]).min(axis=2)
        np.testing.assert_allclose(np.abs(form.unpack(packed) - full), nearest, rtol=1e-3, atol=1e-4 * size)

    def test_scales_are_better_than_those_of_the_largest_weight(self, form):
        full = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
        steps = 7 if form.bits == 4 else 1.5
        largest = np.abs(full.reshape(64, 8, 128)).max(axis=2) / steps
        grouped = full.reshape(64, 8, 128) / largest[..., None]
        plain = np.rint(grouped) if form.bits == 4 else np.clip(np.floor(grouped), -2, 1) + 0.5
        error = np.mean((plain * largest[..., None] - full.reshape(64, 8, 128)) ** 2)
        assert np.mean((form.unpack(form.pack(full)) - full) ** 2) < error

    def test_bytes_are_those_of_the_formula(self, form):
        assert form.pack(np.ones((32, 512), np.float32)).bytes == form.bytes_of(32, 512, 0)
        assert form.bytes_of(1000, 1024, 0) / 1024000 == {4: 0.515625, 2: 0.265625}[form.bits]

    def test_zeros_have_a_scale_of_zero(self, form):
        assert not form.unpack(form.pack(np.zeros((16, 64), np.float32))).any()

    def test_what_it_cannot_hold_is_refused(self, form):
        assert "multiples of 64" in form.refuses(16, 96)
        with pytest.raises(ValueError, match="multiples of 64"):
            form.pack(np.zeros((16, 96), np.float32))
        with pytest.raises(ValueError, match="too large"):
            form.pack(np.full((16, 64), 1e6, np.float32))
        with pytest.raises(ValueError, match="not finite"):
            form.pack(np.full((16, 64), np.nan, np.float32))
        with pytest.raises(ValueError, match="is dense"):
            form.mask(np.ones((16, 64)), 0.5)
        with pytest.raises(ValueError, match="has more than"):
            form.pack_codes(np.full((16, 64), 1 << form.bits, np.uint8), np.ones((16, 1), np.float16))
        with pytest.raises(ValueError, match="not one for 128 or 64"):
            form.pack_codes(np.ones((16, 64), np.uint8), np.ones((16, 2), np.float16))

    def test_the_mask_keeps_everything(self, form):
        assert form.mask(np.ones((16, 64)), 0.0).all()


def test_two_bits_drop_no_weight():
    with pytest.raises(ValueError, match="no zero"):
        FewBits(2).pack(np.ones((16, 64), np.float32), np.zeros((16, 64), np.bool_))


def test_four_bits_hold_a_dropped_weight_as_zero():
    kept = np.arange(64) % 2 == 0
    unpacked = FewBits(4).pack(np.ones((16, 64), np.float32), np.tile(kept, (16, 1)))
    assert not FewBits(4).unpack(unpacked)[:, ~kept].any()
