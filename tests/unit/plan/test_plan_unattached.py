"""A device that is not here is planned for by its profile: nothing is sampled, nothing is passed off as measured."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from compress_hubs import hub
from test_assemble import losses

from hwbench.cli.main import main
from hwbench.errors import DeviceError
from hwbench.inventory import Away, find_or_describe
from hwbench.plan.sites import KINDS, space_of
from hwbench.planning_pipeline.planner import narrowed
from hwbench.planning_pipeline.solving import Solving
from hwbench.planning_pipeline.unattached import claims, costing_of
from hwbench.planning_pipeline.ways import union
from hwbench.planning_pipeline.with_zeros import WithZeros
from hwbench.prediction.costs import PredictedCosts
from hwbench.records.base import Missing
from hwbench.records.plan import EnginePlan, Joint, PlanRequest
from hwbench.records.quantization import CalibrationSettings
from hwbench.report.plan import _engine
from hwbench.tables.edges import worthwhile

PI = "raspberry-pi-5"


@pytest.fixture(scope="module")
def space():
    return space_of(hub("resnet20", 1), "it", kinds=("precision", "width"))


@pytest.fixture
def costing(space, tmp_path, monkeypatch):
    monkeypatch.setenv("HWBENCH_STORE", f"sqlite:///{tmp_path}/costs.sqlite")

    def make(device=PI, **changed):
        asked = PlanRequest(
            model="resnet20", device=device, engines=(), kinds=KINDS, floating=("auto",), objective="latency",
            max_drop=0.1, data="d.npz", preprocess=None, samples=2, criterion="l2", calibration=CalibrationSettings(),
            batch_size=None, shapes={}, threads=1, costs_s=1.0, losses_s=1.0, budgets=3, seed=0, timeout_s=1.0,
        )  # fmt: skip
        imported = SimpleNamespace(model=SimpleNamespace(batch_size=1))
        request = msgspec.structs.replace(asked, **changed)
        found = costing_of(request, find_or_describe(device), None, imported, None)
        found.choose_in(space)
        return found

    return make


def test_only_a_profile_is_known_of_it():
    target = find_or_describe(PI)
    assert isinstance(target, Away)
    assert (target.device.fingerprint, target.device.cpu) == (PI, None)
    assert isinstance(target.device.memory_bytes, Missing)
    assert not isinstance(find_or_describe("cpu"), Away)
    with pytest.raises(DeviceError):
        find_or_describe("no-such-board")


def test_a_plan_says_what_it_rests_on(costing, space):
    there = costing()
    (known,) = there.know(there.runtimes(), None)
    assert known.platform.device == PI
    assert known.platform.version == "not known"
    assert known.samples == ()
    slim = narrowed(there.space, [known])
    baselines = known.baselines()
    assert {interval.tier for interval in baselines.values()} == {"C"}
    found = Solving(
        space=slim, costs=known.costs, sensitivity=losses(slim), max_drop=1.0, budgets=3,
        ask=lambda _, rough: Joint(divergence=0.1, agreement=0.95, accuracy=0.9, before=0.95, n=64),
    ).run()  # fmt: skip
    told, order = claims(known, found)
    assert told.startswith("nothing was measured on Raspberry Pi 5: latencies are predicted, tier C")
    assert order.endswith("that is not enough to call it faster")  # as it never is in tier C
    probed = replace(known.costs.dense.predictor, errors=(0.01,) * 10)
    of_probe = replace(known, costs=WithZeros(dense=PredictedCosts(slim, probed)))
    told, order = claims(of_probe, found)
    assert "tier B" in told
    assert order.endswith(": that is enough to call it faster")
    told, order = claims(known, found)
    value = found.predict(found.row[found.chosen()][1]).value / min(each.value for each in baselines.values())
    assert f"takes {value:.2f} (" in order
    shown = EnginePlan(
        platform=known.platform, samples=0, sampled_now=0, baselines=baselines, front=found.planned(),
        chosen=found.chosen(), notes=(told, order),
    )  # fmt: skip
    text = "\n".join(str(part) for part in _engine(shown))
    assert "version not known" in text
    assert "predicted, not measured" in text
    assert "tier C: 90% interval" in text


def test_int8_is_no_choice_where_the_device_has_none(costing, space):
    there, net = costing(), hub("resnet20", 1)
    (predictor,), (runtime,) = there.predictors.values(), there.runtimes()
    every = there.offers(net, [runtime])
    assert space_of(net, "it", kinds=("precision", "width"), ways=union(every.values())) == space
    there.choose_in(space, every)
    assert there.space_for(runtime) == space
    none = {kind: peak for kind, peak in predictor.machine.peaks.items() if kind != "int8"}
    without = replace(predictor, machine=replace(predictor.machine, peaks=none))
    there.predictors = dict.fromkeys(there.predictors, without)
    there.choose_in(space, there.offers(net, [runtime]))
    less = there.space_for(runtime)
    assert not any(option.scheme == "int8" for site in less.sites for option in site.options)
    assert "no int8 arithmetic" in next(each.reason.why for each in less.left_alone if each.kind == "precision")
    costs = PredictedCosts(less, without)
    assert [costs.knows(less.clusters[0], scheme) for scheme in ("float", "int8")] == [True, False]
    whole = next(site for site in less.sites if site.kind == "width")
    assert worthwhile(costs, less, whole)[0] == 0  # asked for int8, too, which this cannot tell of


def test_what_cannot_be_predicted_is_refused_with_its_reason(costing):
    there = costing("jetson-orin-nano-super", engines=("litert", "tensorrt"))
    assert [runtime.engine for runtime in there.runtimes()] == ["tensorrt"]
    assert "runs on the CPU" in there.failed["litert"].why


def test_a_device_that_is_here_takes_no_probe(capsys, tmp_path):
    asked = ("plan", "digits_cnn", "--data", "d.npz", "-o", str(tmp_path), "--probe", "probe.json")
    assert main([*asked]) == 2
    assert "'cpu' is here" in capsys.readouterr().err


def test_a_name_that_nobody_knows_is_refused(capsys):
    assert main(["plan", "digits_cnn", "--data", "d.npz", "-o", "out", "--device", "no-such-board"]) != 0
    assert "no-such-board" in capsys.readouterr().err
