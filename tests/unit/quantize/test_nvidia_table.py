"""What each NVIDIA architecture can have, by the table of which engine and predictions read."""

import itertools
import re
from pathlib import Path

import pytest

from hwbench.quantize.nvidia import (
    REFUSALS,
    RTX_TARGETS,
    SOURCES,
    capability_of,
    legal,
    named,
    refused_operators,
)
from hwbench.records.quantization import PRECISIONS

EVERY = [(5, 3), (6, 1), (7, 2), (7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (11, 0), (12, 0), (12, 1)]


def allowed(capability, flavour="tensorrt"):
    return {word for word, missing in legal(capability, flavour).items() if missing is None}


@pytest.mark.parametrize(
    ("capability", "flavour", "words"),
    [
        ((5, 3), "tensorrt", {"fp32", "fp16"}),
        ((7, 5), "tensorrt", {"fp32", "fp16", "int8"}),
        ((8, 7), "tensorrt", {"fp32", "tf32", "fp16", "bf16", "int8", "int4-weights", "2:4"}),
        ((9, 0), "tensorrt", {"fp32", "tf32", "fp16", "bf16", "int8", "int4-weights", "fp8", "2:4"}),
        ((7, 5), "tensorrt-rtx", {"fp32", "fp16", "int8"}),
        ((8, 6), "tensorrt-rtx", {"fp32", "tf32", "fp16", "bf16", "int8", "int8-weights", "int4-weights", "2:4"}),
        ((9, 0), "tensorrt-rtx", set()),
        ((8, 7), "tensorrt-rtx", set()),
    ],
)
def test_rows(capability, flavour, words):
    assert allowed(capability, flavour) == words


def test_a_newer_architecture_has_what_an_older_one_had():
    newer = [each for each in EVERY if each >= (7, 5)]
    for older, other in itertools.pairwise(newer):
        assert allowed(older) <= allowed(other)
    for older, other in itertools.pairwise(RTX_TARGETS):
        assert allowed(older, "tensorrt-rtx") <= allowed(other, "tensorrt-rtx")


def test_every_precision_of_a_build_is_in_it():
    assert {*PRECISIONS, "2:4"} - {"auto"} == set(legal((8, 9), "tensorrt"))


def test_refusals_have_sources_and_agree_with_the_table():
    assert {each.source for each in REFUSALS} <= set(SOURCES)
    for each in REFUSALS:
        for capability in each.capabilities:
            missing = legal(capability, each.flavour)[each.word]
            assert (missing is None) == bool(each.operators)


def test_operators_that_a_builder_refuses():
    assert set(refused_operators("fp32", (7, 5), "tensorrt-rtx")) == {"Einsum", "Gemm", "MatMul"}
    assert not refused_operators("fp32", (8, 0), "tensorrt-rtx")
    assert not refused_operators("fp32", (7, 5), "tensorrt")


def test_names():
    assert capability_of("12.0") == (12, 0)
    assert named((8, 9)) == "8.9"
    with pytest.raises(ValueError, match="no flavour"):
        legal((8, 9), "trtexec")


def test_profiles_agree_about_fp8():
    """A profile with an fp8 peak is of an architecture that the table gives fp8."""
    seen = 0
    for path in sorted((Path(__file__).parents[3] / "profiles").glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        found = re.search(r'^compute_capability = "([\d.]+)"', text, re.MULTILINE)
        if found is None:
            continue
        has = re.search(r"^fp8 = \{", text, re.MULTILINE) is not None
        seen += has
        assert not has or "fp8" in allowed(capability_of(found[1])), path.name
    assert seen > 3
