"""Joules of devices that are not attached: the prior of their profile, spread over the parts of a network."""

from __future__ import annotations

import random

import msgspec
import pytest
from compress_hubs import hub

from hwbench.inventory import find_or_describe
from hwbench.plan.designs import sizes_of
from hwbench.plan.sites import space_of
from hwbench.prediction.costs import PredictedCosts
from hwbench.prediction.joules import predicted_joules
from hwbench.prediction.predict import predict_design, predictor_of
from hwbench.records.base import Missing
from hwbench.records.planning import Design
from hwbench.tables.borders import crossings
from hwbench.tables.draw import at_random


@pytest.fixture(scope="module")
def space():
    return space_of(hub("resnet20", 1), "it", kinds=("precision", "width"))


def joules_on(device, space):
    costs = PredictedCosts(space, predictor_of(find_or_describe(device).profile, engine="onnxruntime", threads=4))
    return costs, predicted_joules(costs, "auto")


def test_parts_add_up_to_what_is_predicted_of_the_whole(space):
    costs, joules = joules_on("amd-ryzen-9-7950x", space)
    source = at_random(space, random.Random(2))
    for design in [Design(), *(next(source) for _ in range(4))]:
        parts = sum(
            joules.cluster(each, [sizes_of(each, space, design)], design.of(each.name))[0] for each in space.clusters
        )
        between = sum(joules.border(one.scheme_from, one.scheme_to, one.elements) for one in crossings(space, design))
        told = predict_design(space, design, costs.predictor).energy
        found = joules.predict(space, design)
        assert (found.value, found.low, found.high) == pytest.approx((told.value_j, told.low_j, told.high_j))
        assert joules.start_j + parts + between == pytest.approx(found.value, rel=0.15)
        assert (found.tier, found.method) == ("C", joules.basis)
        assert "not measured" in joules.basis


def test_a_profile_without_power_gives_a_reason_and_no_joule(space):
    _, none = joules_on("apple-m1", space)
    assert isinstance(none, Missing)
    assert none.code == "no_power_figure"
    assert msgspec.json.encode(none)
