"""Tensors told apart by their values, and what each operator can have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.engines.litert_kinds import verdict
from hwbench.engines.litert_match import print_of, same_values


@given(st.integers(0, 2**32 - 1), st.sampled_from([(2, 3, 5, 7), (1, 210), (14, 15)]))
def test_a_print_does_not_depend_on_layout(seed, shape):
    array = np.random.default_rng(seed).standard_normal((2, 3, 5, 7)).astype(np.float32)
    moved = np.ascontiguousarray(array.transpose(0, 2, 3, 1)).reshape(shape)
    assert print_of(array).equals(print_of(moved))


@given(st.integers(0, 2**32 - 1), st.sampled_from([lambda x: -x, lambda x: x + 0.01, lambda x: x * 1.01, np.abs]))
def test_other_values_have_another_print(seed, change):
    array = np.random.default_rng(seed).standard_normal(500).astype(np.float32)
    assert not print_of(array).equals(print_of(change(array)))


def test_the_rounding_of_another_kernel_is_no_difference():
    array = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    rounded = (array.astype(np.float64) * (1 + 1e-6 * np.sign(array))).astype(np.float32)
    assert print_of(array).equals(print_of(rounded))


@pytest.mark.parametrize("values", [[], [np.inf, 1], [np.nan]])
def test_what_cannot_be_told_apart_has_no_print(values):
    assert print_of(np.array(values, np.float32)) is None


def test_every_hub_tensor_with_the_same_values_is_named_in_order():
    first, other = np.arange(12, dtype=np.float32), np.arange(12, dtype=np.float32) ** 2
    hub = {"a": print_of(first), "b": print_of(other), "a_reshaped": print_of(first.reshape(3, 4))}
    found = same_values({7: print_of(first.reshape(4, 3).T), 8: print_of(first + 0.5)}, hub)
    assert found == {7: ("a", "a_reshaped")}


@pytest.mark.parametrize(
    ("kind", "scheme", "has_weight", "wanted"),
    [
        ("CONV_2D", "float", True, "yes"),
        ("DEPTHWISE_CONV_2D", "int8", True, "yes"),
        ("DEPTHWISE_CONV_2D", "int8-dynamic", True, "slow"),
        ("CONV_2D", "int4-weights", True, "slow"),
        ("FULLY_CONNECTED", "int8", False, "no"),
        ("BATCH_MATMUL", "int8", False, "slow"),
        ("BATCH_MATMUL", "int8-weights", False, "no"),
        ("SOFTMAX", "int8", True, "no"),
    ],
)
def test_what_xnnpack_has_kernels_for(kind, scheme, has_weight, wanted):
    found, why = verdict(kind, scheme, has_weight=has_weight)
    assert found == wanted
    assert bool(why) == (wanted != "yes")
