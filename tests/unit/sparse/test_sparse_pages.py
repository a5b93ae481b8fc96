"""The numbers on the kernels' pages are the model's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kernel_predictions import GPUS, filled, machine, pages

ROOT = Path(__file__).parents[3]
_NAMES = "|".join(sorted(GPUS, key=len, reverse=True))
_SAID = re.compile(
    rf"({_NAMES}) \((\d+(?:\.\d+)?)\)|({_NAMES}) (?:by its data sheet )?has (\d+(?:\.\d+)?) (?:lane|for)"
)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.parent.name)
def test_what_is_predicted_is_what_the_model_says(page):
    text = page.read_text("utf-8")
    assert "made by tests/kernel_predictions.py" in text
    assert text == filled(page), "python tests/kernel_predictions.py writes it anew"


@pytest.mark.parametrize("page", [*pages(), ROOT / "docs/sparse.md"], ids=lambda page: page.parent.name)
def test_lane_instructions_for_a_byte_are_the_same_everywhere(page):
    for found in _SAID.finditer(" ".join(page.read_text("utf-8").split())):
        gpu, said = found[1] or found[3], found[2] or found[4]
        digits = len(said.partition(".")[2])
        assert f"{machine(gpu).lane_instructions_per_byte:.{digits}f}" == said, found[0]
