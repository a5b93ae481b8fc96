from types import SimpleNamespace

import numpy as np
import pytest

from hwbench.measure.job import OUTPUTS
from hwbench.measure.parity import compare_outputs, worst
from hwbench.pipeline import _Profile
from hwbench.records.base import Missing
from hwbench.records.measurement import Parity


@pytest.fixture
def compare(tmp_path):
    def run(reference, other):
        paths = tmp_path / "reference.npz", tmp_path / "other.npz"
        for path, arrays in zip(paths, (reference, other), strict=True):
            np.savez(path, **arrays)
        return compare_outputs(*paths, label="torch-eager fp32", precision="fp32")

    return run


def test_known_difference_on_the_scale_of_the_output(compare):
    parity = compare({"y": np.float32([1, -4, 2])}, {"y": np.float32([1, -4, 2.5])})
    assert parity == Parity(
        reference="torch-eager fp32",
        reference_precision="fp32",
        max_absolute=0.5,
        max_relative=0.125,
        finite=True,
    )


def test_equal_outputs(compare):
    assert compare({"y": np.ones(3)}, {"y": np.ones(3)}).max_relative == 0


def test_the_largest_of_all_outputs_each_on_its_own_scale(compare):
    reference = {"big": np.float64([1000.0]), "small": np.float64([0.001])}
    parity = compare(reference, {"big": np.float64([1001.0]), "small": np.float64([0.002])})
    assert parity.max_absolute == pytest.approx(1)
    assert parity.max_relative == pytest.approx(1)


def test_a_zero_reference_has_no_scale(compare):
    assert compare({"y": np.zeros(2)}, {"y": np.float64([0, 0.25])}).max_relative == 0.25


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(compare, bad):
    good, broken = {"y": np.float32([1, 2])}, {"y": np.float32([bad, 2])}
    parity = compare(good, broken)
    assert not parity.finite
    assert (parity.max_absolute, parity.max_relative) == (0, 0)
    for other in (good, broken):
        missing = compare(broken, other)
        assert missing.code == "reference_not_finite"
        assert "torch-eager fp32" in missing.why


def test_in_float64_so_that_half_precision_does_not_overflow(compare):
    parity = compare({"y": np.float16([60_000])}, {"y": np.float16([-60_000])})
    assert parity.max_absolute == 120_000


def test_integers_and_booleans_are_numbers(compare):
    assert compare({"y": np.int64([1, 2])}, {"y": np.int32([1, 3])}).max_absolute == 1
    assert compare({"y": np.array([True, False])}, {"y": np.array([True, True])}).max_absolute == 1


def test_empty_outputs(compare):
    assert compare({"y": np.zeros((0, 3))}, {"y": np.zeros((0, 3))}).max_relative == 0


@pytest.mark.parametrize(
    "other", [{"y": np.ones((3, 2))}, {"z": np.ones((2, 3))}, {"y": np.ones((2, 3)), "z": np.ones(1)}, {}]
)
def test_other_shapes_or_names_cannot_be_compared(compare, other):
    missing = compare({"y": np.ones((2, 3))}, other)
    assert isinstance(missing, Missing)
    assert missing.code == "other_outputs"
    assert "y [2, 3]" in missing.why


def test_text_cannot_be_compared(compare):
    missing = compare({"label": np.array(["cat"]), "p": np.ones(1)}, {"label": np.array(["dog"]), "p": np.ones(1)})
    assert missing.code == "not_numeric"
    assert "label" in missing.why


@pytest.mark.parametrize(
    "strange", [np.ones(2, "V2"), np.array(["a", 1], dtype=object), np.array([b"a", b"b"]), np.zeros(2, "M8[s]")]
)
@pytest.mark.parametrize("side", [0, 1])
def test_what_cannot_be_cast_gives_a_reason(compare, strange, side):
    arrays = [{"y": np.ones(2)}, {"y": np.ones(2)}]
    arrays[side] = {"y": strange}
    missing = compare(*arrays)
    assert missing.code == "not_numeric"
    assert "y (" in missing.why


def test_bfloat16_that_npz_keeps_as_bytes(compare):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    assert compare({"y": np.ones(2, bfloat16)}, {"y": np.ones(2)}).code == "not_numeric"
    assert compare({"y": np.ones(2, bfloat16).astype(np.float32)}, {"y": np.ones(2)}).max_relative == 0


def test_other_names_are_other_outputs_whatever_they_hold(compare):
    assert compare({"label": np.array(["cat"])}, {"p": np.ones(1)}).code == "other_outputs"


def test_complex_numbers(compare):
    parity = compare({"y": np.complex64([3 + 4j])}, {"y": np.complex64([3 + 5j])})
    assert (parity.max_absolute, parity.max_relative) == (1, 0.2)


def test_the_worst_of_several(compare):
    near, far = (compare({"y": np.ones(3)}, {"y": np.full(3, value)}) for value in (1.1, 1.5))
    broken, other = compare({"y": np.ones(3)}, {"y": np.full(3, np.nan)}), compare({"y": np.ones(3)}, {"z": np.ones(3)})
    assert worst([near, far, near]) == far
    assert worst([near, broken, far]) == broken
    assert worst([broken, other, near]) == other


def test_every_build_is_compared_with_the_reference(tmp_path):
    for name, value in (("reference", 1.0), ("run", 1.0), ("run/build-2", 1.5), ("run/build-3", 1.0)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / OUTPUTS, y=np.full(3, value))
    profile = SimpleNamespace(
        reference=("torch-eager fp32", "fp32", tmp_path / "reference" / OUTPUTS),
        request=SimpleNamespace(repeat_build=3),
    )
    assert _Profile._parity(profile, "other", "fp32", tmp_path / "run").max_relative == 0.5
