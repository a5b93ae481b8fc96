"""What may be samples, and what may be trained on."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench.data.samples import Samples
from hwbench.errors import UsageError


@pytest.mark.parametrize(("inputs", "told"), [
    ({"x": np.zeros((0, 3))}, "'x' has 0"),
    ({"x": np.zeros((4, 3)), "z": np.zeros((3, 3))}, "'x' has 4, 'z' has 3"),
    ({}, "no input"),
])  # fmt: skip
def test_samples_are_there_and_as_many_for_every_input(inputs, told):
    with pytest.raises(UsageError, match=told):
        Samples(inputs=inputs, labels=None, batch=2)


def test_labels_of_pairs_are_read_over_and_not_trained_on():
    samples = Samples(inputs={"x": np.arange(8.0)[:, None]}, labels=np.arange(4), batch=4)
    assert [labels for _, labels in samples.in_order()] == [None, None]
    with pytest.raises(UsageError, match="4 labels for 8 samples"):
        next(samples.shuffled(np.random.default_rng(0)))
    with pytest.raises(UsageError, match="4 labels for 8 samples"):
        samples.split(0.5, 0)
