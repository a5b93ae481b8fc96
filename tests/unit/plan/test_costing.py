"""Which runtimes are sampled, how far, and from what is kept; the machines are made up, the store is real."""

from __future__ import annotations

from types import SimpleNamespace

import made_costs
import msgspec
import pytest
from made_costs import Machine, some_designs

from hwbench.errors import EngineError
from hwbench.plan.designs import key_of, uniform
from hwbench.planning_pipeline import costs as costing
from hwbench.planning_pipeline.costs import Costing, Runtime
from hwbench.records.planning import Design
from hwbench.records.sampling import NotSampled
from hwbench.tables.collect import Collected

pytest.importorskip("sqlalchemy", reason="costs are kept in a database")

SPACE = made_costs.space(blocks=1)


class Bench:
    """Runtimes by name, each so many times slower than the first; every network takes ``each_s`` to be timed."""

    def __init__(self, monkeypatch, folder, slower, costs_s=1e9, each_s=1.0):
        self.slower, self.each_s, self.now_s, self.machine = slower, each_s, 0.0, Machine(noise=0.01)
        self.asked: dict[str, list[Design]] = {name: [] for name in slower}
        self.runtimes = [Runtime(engine=name, floating="auto") for name in slower]
        monkeypatch.setattr(costing, "platform_of", lambda device, engine, *_, **__: self.platform(engine))
        monkeypatch.setattr(costing, "collect", self.collect)
        monkeypatch.setenv("HWBENCH_STORE", f"sqlite:///{folder / 'costs.sqlite'}")
        request = SimpleNamespace(threads=1, seed=0, costs_s=costs_s)
        imported = SimpleNamespace(model=SimpleNamespace(hub_sha256=SPACE.hub_sha256))
        target = SimpleNamespace(device=None)
        self.costing = Costing(request, target, None, imported, None, SPACE)
        self.costing._job = lambda runtime, designs, _: (runtime.engine, designs)
        self.costing.clock = SimpleNamespace(now_ns=lambda: round(self.now_s * 1e9))

    def platform(self, engine):
        return msgspec.structs.replace(made_costs.PLATFORM, engine=engine)

    def sample(self, engine, design, space=SPACE):
        made, slower = self.machine.sample(space, design), self.slower[engine]
        return msgspec.structs.replace(made, platform=self.platform(engine), median_s=slower * made.median_s)

    def collect(self, job, intake, where, keep):
        engine, designs = job
        found = Collected()
        for design in designs:
            self.asked[engine].append(design)
            self.now_s += self.each_s
            found.samples.append(self.sample(engine, design))
            keep(found.samples[-1])
        return found

    def know(self):
        return self.costing.know(self.runtimes, None)


def test_a_runtime_is_far_behind_by_uniform_designs_only(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, {"one": 1.0, "other": 1.3, "slow": 3.0})
    tiny = bench.sample("one", Design(schemes=uniform(SPACE, "int8").schemes, widths={"0.a": 16}))
    bench.costing.store.add(msgspec.structs.replace(tiny, median_s=tiny.median_s / 50))
    found = bench.know()
    assert [each.runtime.engine for each in found] == ["one", "other"]
    assert bench.costing.failed["slow"].code == "far_behind"
    assert "3.0" in bench.costing.failed["slow"].why
    assert len(bench.asked["slow"]) == 2


def test_what_is_kept_is_not_timed_again(monkeypatch, tmp_path):
    Bench(monkeypatch, tmp_path, {"one": 1.0, "slow": 3.0}).know()
    again = Bench(monkeypatch, tmp_path, {"one": 1.0, "slow": 3.0})
    assert len(again.know()[0].samples) == 40
    assert again.asked == {"one": [], "slow": []}


def test_there_is_one_deadline_for_all(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, {"one": 1.2, "best": 1.0, "third": 1.4}, costs_s=30.0)
    found = bench.know()
    assert bench.now_s <= 30 + 8, "no round begins after it"
    assert [each.runtime.engine for each in found] == ["one", "best", "third"]
    assert all(len(each.samples) >= 10 for each in found)


def test_the_fastest_runtime_gets_a_round_in_any_case_and_the_others_a_reason(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, {"one": 1.2, "best": 1.0, "third": 1.4}, costs_s=3.5)
    assert [(each.runtime.engine, len(each.samples)) for each in bench.know()] == [("best", 10)]
    assert {name: reason.code for name, reason in bench.costing.failed.items()} == {
        "one": "no_time",
        "third": "no_time",
    }
    assert bench.asked["third"] == []


def test_where_nothing_uniform_can_be_built_there_is_a_reason(monkeypatch, tmp_path):
    bench = Bench(monkeypatch, tmp_path, {"one": 1.0, "broken": 1.0, "refuses": 1.0})
    plain = bench.collect

    def collect(job, *rest):
        if job[0] == "broken":
            raise EngineError("it cannot build this", hint="another one can")
        if job[0] == "refuses":
            reason = costing.Missing(code="unsupported", why="it refuses this")
            return Collected(not_sampled=[NotSampled(design=each, reason=reason) for each in job[1]])
        return plain(job, *rest)

    monkeypatch.setattr(costing, "collect", collect)
    assert [each.runtime.engine for each in bench.know()] == ["one"]
    assert bench.costing.failed["broken"].why == "it cannot build this"
    assert bench.costing.failed["refuses"].why == "it refuses this"


def test_samples_of_other_networks_help_where_this_one_has_few(monkeypatch, tmp_path):
    """Int8 cannot be measured here but as a whole, once: what others took tells of it."""
    bench = Bench(monkeypatch, tmp_path, {"one": 1.0})
    others = made_costs.space()
    for design in some_designs(others, 20):
        sample = bench.sample("one", design, others)
        bench.costing.store.add(msgspec.structs.replace(sample, hub_sha256="c" * 64))
    for design in [each for each in some_designs(SPACE, 400) if not each.schemes][:11]:
        bench.costing.store.add(bench.sample("one", design))
    bench.costing.store.add(bench.sample("one", uniform(SPACE, "int8")))
    heard = {}
    monkeypatch.setattr(costing, "_MOST", 0)
    fitted = costing.fit
    monkeypatch.setattr(
        costing,
        "fit",
        lambda samples, space, *, known: heard.update(known=known) or fitted(samples, space, known=known),
    )
    (found,) = bench.know()
    assert len(heard["known"]) == 20
    assert {each.hub_sha256 for each in heard["known"]} == {"c" * 64}
    assert len({key_of(each.design) for each in found.samples}) <= 13
