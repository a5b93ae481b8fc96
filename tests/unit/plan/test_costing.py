"""Which runtimes are sampled, how far, and from what is kept; the machines are made up, the store is real."""

from __future__ import annotations

from types import SimpleNamespace

import made_costs
import msgspec
import pytest
from made_costs import Machine, some_designs

from hwbench.errors import EngineError
from hwbench.inventory import find_or_describe
from hwbench.plan.designs import key_of, sizes_of, uniform
from hwbench.planning_pipeline import costs as costing
from hwbench.planning_pipeline.costs import Costing
from hwbench.planning_pipeline.known import Runtime
from hwbench.planning_pipeline.ways import Ways
from hwbench.records.planning import TWO_FOUR, Design, Option, SparseCost, Zeros, name_of
from hwbench.records.quantization import CalibrationSettings
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
        request = SimpleNamespace(threads=1, seed=0, costs_s=costs_s, needs_energy=False)
        imported = SimpleNamespace(model=SimpleNamespace(hub_sha256=SPACE.hub_sha256))
        target = SimpleNamespace(device=None)
        self.costing = Costing(request, target, None, imported, None)
        self.costing.choose_in(SPACE)
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


def test_zeros_are_offered_where_they_were_timed_faster_in_the_network(monkeypatch, tmp_path):
    """2:4 takes 0.6 of one layer's time and 1.3 of another's; a kernel that a table praised is slower here."""
    bench = Bench(monkeypatch, tmp_path, {"one": 1.0})
    two_four, vw16 = Zeros(format=TWO_FOUR, sparsity=0.5), Zeros(format="vw16", sparsity=0.7)
    takes = {("0.a", two_four): 0.6, ("0.b", two_four): 1.3, ("0.b", vw16): 1.2, ("last", vw16): 0.5}
    options = {}
    for name, zeros in takes:
        options.setdefault(name, []).append(Option(name=name_of(zeros), scheme="float", zeros=zeros))
    sites = tuple(
        msgspec.structs.replace(site, options=(*site.options, *options.get(site.about, ())))
        if site.kind == "precision"
        else site
        for site in SPACE.sites
    )
    plain = bench.sample

    def sample(engine, design, space=SPACE):
        made = plain(engine, design)
        clusters = tuple(
            msgspec.structs.replace(
                each,
                time_s=each.time_s * takes.get((each.cluster, design.zeros.get(each.cluster)), 1.0),
                spread_s=0.001 * each.time_s,
            )
            for each in made.clusters
        )
        return msgspec.structs.replace(made, clusters=clusters)

    bench.sample, bench.machine.noise = sample, 0.0
    space = msgspec.structs.replace(SPACE, sites=sites)
    runtime = bench.runtimes[0]
    ways = Ways(
        options={site.about: site.options[1:] for site in sites if site.kind == "precision"},
        sparse=(SparseCost(cluster="0.b", zeros=vw16, ratio=0.4, basis="table", why="praised"),),
    )
    bench.costing.choose_in(space, {runtime: ways})
    (found,) = bench.know()
    kept = {(site.about, option.zeros) for site in found.space.sites for option in site.options if option.zeros}
    assert kept == {("0.a", two_four), ("last", vw16)}
    assert {(each.cluster, each.zeros): (round(each.ratio, 2), each.basis) for each in found.ways.sparse} == {
        key: (ratio, "network") for key, ratio in takes.items()
    }
    assert any("faster at 1 of 2" in note for note in found.ways.notes)
    assert not any(each.design.zeros for each in found.samples), "curves are of dense networks"
    design = Design(zeros={"0.a": two_four})
    cluster = next(each for each in SPACE.clusters if each.name == "0.a")
    alone = found.costs.dense.cluster(cluster, [sizes_of(cluster, space, design)], "float")[0]
    saved = found.costs.predict(space, Design()).value - found.costs.predict(space, design).value
    assert saved == pytest.approx(0.4 * alone, rel=0.02)
    asked = len(bench.asked["one"])
    bench.costing.know([runtime], None)
    assert len(bench.asked["one"]) == asked, "what was timed is kept"


def test_samples_with_zeros_do_not_stand_for_dense_ones(monkeypatch, tmp_path):
    """They are neither enough for a fit, nor do they take from what may be timed."""
    bench = Bench(monkeypatch, tmp_path, {"one": 1.0})
    sparse = [Zeros(format="vw16", sparsity=number / 20) for number in range(1, 13)]
    for zeros in sparse:
        bench.costing.store.add(bench.sample("one", Design(zeros={"last": zeros})))
    assert bench.costing._known(bench.runtimes[0], None, 0.0).code == "no_time"
    (found,) = bench.know()
    assert len(found.samples) == 40
    assert not any(each.design.zeros for each in found.samples)


@pytest.mark.parametrize(
    ("engine", "floating", "here", "wanted"),
    [
        ("tensorrt", "auto", True, True),
        ("tensorrt", "fp16", True, True),
        ("tensorrt", "fp32", True, False),
        ("tensorrt", "auto", False, False),
        ("onnxruntime", "auto", True, False),
    ],
)
def test_what_reads_ranges_gets_them_where_nothing_can_be_quantised(engine, floating, here, wanted):
    """Narrower networks in fp16 are built as wide ones are: what overflows a half stays in fp32."""
    asked = []

    def run(child, job, *_):
        asked.append(job)
        return SimpleNamespace(calibration="ranges")

    imported = SimpleNamespace(model=SimpleNamespace(arithmetic="fp32", batch_size=1), files=None)
    target = find_or_describe("cpu" if here else "nvidia-h200")
    request = SimpleNamespace(calibration=CalibrationSettings(equalize=True), threads=1)
    found = Costing(request, target, SimpleNamespace(run=run), imported, SimpleNamespace(facts=None, folder=None))
    widths = tuple(site for site in SPACE.sites if site.kind == "width")
    found.choose_in(msgspec.structs.replace(SPACE, sites=widths))
    assert found.calibrate([Runtime(engine=engine, floating=floating)]) == ("ranges" if wanted else None)
    assert [job.settings for job in asked] == [request.calibration.without_repairs()] * wanted
    found.choose_in(SPACE)
    assert found.calibrate([Runtime(engine=engine, floating=floating)]) == "ranges"
    assert asked[-1].settings == request.calibration


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
