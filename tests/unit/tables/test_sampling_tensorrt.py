"""Designs sampled with TensorRT's engine on a GPU whose times are made: from the typed graph to ratios of zeros."""

from __future__ import annotations

import msgspec
import pytest
import sampled_nets
from pretended_gpu import CARD, MadeGpu, pretend_gpu

from hwbench.engines.tensorrt import TensorRt
from hwbench.graph.linear import linear_layers
from hwbench.plan.designs import uniform
from hwbench.plan.sites import INT8, space_of
from hwbench.records.base import Missing
from hwbench.records.planning import TWO_FOUR, CostSample, Design, Option, Zeros
from hwbench.records.sampling import SampleJob
from hwbench.tables.sample import work
from hwbench.tables.zeros import measured, where_faster, zeros_designs

HALF = Zeros(format=TWO_FOUR, sparsity=0.5)
WAYS = (INT8, *(Option(name=f"{one} 2:4", scheme=one, zeros=HALF) for one in ("float", "int8")))
FASTER, SLOWER = "block.one", "block.two"


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Dense, int8, a mixture, and 2:4 in both; on a GPU where 2:4 makes one layer faster and another slower."""
    folder = tmp_path_factory.mktemp("sampled")
    subject = sampled_nets.subject(folder / "subject")
    names = [layer.name for layer in linear_layers(subject.hub) if layer.name != "stem"]  # of 3 channels in
    ways = dict.fromkeys(names, WAYS) | {"stem": (INT8,)}
    space = space_of(subject.hub, subject.imported.model.hub_sha256, kinds=("precision",), ways=ways)
    mixed = Design(schemes={"block.one": "int8"})
    designs = [Design(), uniform(space, "int8"), mixed, *zeros_designs(space)]
    made, told = MadeGpu({FASTER: 0.5, SLOWER: 1.3}), []
    lower, asked = TensorRt.lower, []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(TensorRt, "lower", lambda self, request: (asked.append(request), lower(self, request))[1])
        pretend_gpu(monkeypatch, folder / "home", made)
        job = SampleJob(
            imported=subject.imported, space=space, calibration=subject.calibration, designs=tuple(designs),
            engine="tensorrt", device=CARD, threads=4, cpus=(),
        )  # fmt: skip
        done = work(job, folder / "work", told.append)
    assert done.not_sampled == ()
    samples = [msgspec.convert(each["sample"], CostSample) for each in told if "sample" in each]
    return space, designs, samples, asked


def test_each_design_is_timed_as_the_gpu_takes_it(sampled):
    _, designs, samples, _ = sampled
    assert [each.design for each in samples] == designs
    plain, int8, mixed, *_ = (each.median_s for each in samples)
    assert int8 > plain > mixed, "int8 everywhere is slower than fp16, and in one layer it is faster"
    for each in samples:
        assert not isinstance(each.reference_s, Missing)
        assert each.reference_s == pytest.approx(plain, rel=1e-6)
        assert sum(time.time_s for time in each.clusters) + each.border.time_s == pytest.approx(each.median_s, rel=1e-5)


def test_the_platform_is_the_gpus(sampled):
    platform = sampled[2][0].platform
    assert (platform.engine, platform.version, platform.threads) == ("tensorrt", "10.3.0", 1)
    assert (platform.isa, platform.power_mode) == (("sm_87", "driver 580.1"), "power limit 60 W")


def test_schemes_are_those_of_the_graph(sampled):
    space, _, samples, _ = sampled
    int8 = {time.cluster: time.scheme for time in samples[1].clusters}
    assert int8["block.one"] == int8["block.two"] == int8["wide"] == "int8"
    assert int8["head"] == "float", "five outputs are too few for int8 kernels"
    assert {time.scheme for time in samples[0].clusters} == {"float"}
    assert {each.cluster for each in samples[0].clusters} == {each.name for each in space.clusters}


def test_floats_are_built_with_ranges_too(sampled):
    """What overflows a half is to stay in fp32, in the network that others are held against as well."""
    _, designs, _, asked = sampled
    assert len(asked) == 1 + len(designs)
    assert all(each.calibration is not None for each in asked)
    assert not asked[0].plan.needs_ranges


def test_two_of_four_stays_where_it_was_timed_faster(sampled):
    space, _, samples, _ = sampled
    costs = {(each.cluster, each.scheme): each for each in measured(samples, space)}
    assert {name for (name, _), each in costs.items() if each.gains} == {FASTER}
    assert costs[SLOWER, "float"].ratio > 1.1
    assert costs["wide", "float"].ratio == pytest.approx(1.0)
    left = where_faster(space, tuple(costs.values()))
    offered = {site.about for site in left.sites for option in site.options if option.zeros is not None}
    assert offered == {FASTER}
