"""Variants have the sizes that designs say, and samples of them come from the real runtime."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sampled_nets
from synthetic_traces import channel

from hwbench.energy.choose import Chosen
from hwbench.errors import EngineError, Unsupported, UsageError
from hwbench.intake import Intake
from hwbench.plan.designs import design_of, sizes_of, uniform
from hwbench.records.base import Missing
from hwbench.records.planning import CostSample, Design
from hwbench.records.sampling import NotSampled, SampleJob, SamplingDone
from hwbench.tables import collect as collecting
from hwbench.tables import sample as sampling
from hwbench.tables.collect import collect
from hwbench.tables.sample import work
from hwbench.tables.variant import variant
from hwbench.testing import example_cpu


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return sampled_nets.subject(tmp_path_factory.mktemp("subject"))


def every(subject):
    """The last option of every site, but no block is dropped: one layer stands for it."""
    choice = {site.name: len(site.options) - 1 for site in subject.space.sites if site.kind != "depth"}
    return design_of(subject.space, choice)


def intake(folder):
    return Intake(folder=folder, watch=lambda what, fraction: None, threads=1, timeout_s=120, seed=0)


def job(subject, designs, engine="onnxruntime"):
    return SampleJob(
        imported=subject.imported,
        space=subject.space,
        calibration=subject.calibration,
        designs=tuple(designs),
        engine=engine,
        device=example_cpu(),
        threads=1,
        cpus=(),
    )


class TestVariant:
    @pytest.mark.parametrize("which", ["whole", "every", "dropped"])
    def test_has_the_work_that_its_design_says(self, subject, tmp_path, which):
        design = {"whole": Design(), "every": every(subject), "dropped": Design(dropped=("block",))}[which]
        made = variant(subject.hub, subject.imported, subject.space, design, subject.calibration, tmp_path / "v")
        counted = {layer.name: layer.macs for layer in made.model.layers}
        for cluster in subject.space.clusters:
            sizes = sizes_of(cluster, subject.space, design)
            pieces = made.pieces.get(cluster.name, (cluster.name,))
            if sizes is None:
                assert cluster.name not in counted
            else:
                assert sum(counted[piece] for piece in pieces) == pytest.approx(sizes.macs, abs=1), cluster.name

    def test_every_tensor_has_a_range(self, subject, tmp_path):
        design = every(subject)
        made = variant(subject.hub, subject.imported, subject.space, design, subject.calibration, tmp_path / "v")
        assert made.pieces == {"wide": ("wide.down", "wide.up")}
        assert set(made.plan.layers) == set()
        assert {name for layer in made.model.layers for name in layer.outputs} <= set(made.calibration.tensors)

    def test_inputs_lie_beside_the_graph_for_engines_that_run_them(self, subject, tmp_path):
        made = variant(subject.hub, subject.imported, subject.space, Design(), None, tmp_path / "v")
        with np.load(Path(made.files.folder) / made.files.inputs) as inputs:
            assert set(inputs.files) == {value.name for value in subject.hub.graph.inputs}

    def test_leaves_the_network_as_it_was(self, subject, tmp_path):
        before = [(node.name, node.op_type) for node in subject.hub.graph]
        variant(subject.hub, subject.imported, subject.space, every(subject), None, tmp_path / "v")
        assert [(node.name, node.op_type) for node in subject.hub.graph] == before

    def test_what_is_not_there_is_named(self, subject, tmp_path):
        with pytest.raises(UsageError, match="no block 'gone'"):
            variant(subject.hub, subject.imported, subject.space, Design(dropped=("gone",)), None, tmp_path / "v")


@pytest.fixture(scope="module")
def collected(subject, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    designs = [Design(), uniform(subject.space, "int8"), Design(widths={"no such group": 8}), every(subject)]
    heard = []
    found = collect(job(subject, designs), intake(tmp_path_factory.mktemp("work")), "samples", heard.append)
    assert heard == found.samples
    return designs, found


class TestSamples:
    def test_each_design_is_timed_or_has_a_reason(self, collected):
        designs, found = collected
        assert [sample.design for sample in found.samples] == [designs[0], designs[1], designs[3]]
        (failed,) = found.not_sampled
        assert failed.design == designs[2]
        assert "no group of channels 'no such group'" in failed.reason.why

    def test_clusters_are_what_was_built(self, collected, subject):
        _, found = collected
        whole, int8, cut = found.samples
        assert {time.scheme for time in whole.clusters} == {"float"}
        assert {time.scheme for time in int8.clusters} == {"int8"}
        there = [each.name for each in subject.space.clusters if each.name != "block.two"]  # block.one stands for both
        assert [time.cluster for time in cut.clusters] == there
        assert next(time.sizes.rank for time in cut.clusters if time.cluster == "wide") > 0
        assert whole.border.elements == {}
        assert int8.border.elements == {"float>int8": 3 * 144, "int8>float": 5}

    def test_times_are_those_of_one_inference(self, collected):
        _, found = collected
        for sample in found.samples:
            assert 0 < sum(time.time_s for time in sample.clusters) + sample.border.time_s < sample.profiled_s
            assert sample.samples_ns
            assert sample.units >= len(sample.clusters)
            assert not isinstance(sample.reference_s, Missing)

    def test_no_path_of_this_machine_is_in_them(self, collected, tmp_path):
        _, found = collected
        for sample in found.samples:
            assert str(tmp_path.parents[1]).encode() not in msgspec.json.encode(sample)

    def test_designs_of_two_arithmetics_are_refused(self, subject, tmp_path):
        with pytest.raises(UsageError, match="one floating-point arithmetic"):
            work(job(subject, [Design(), Design(floating="fp32")]), tmp_path, lambda event: None)

    def test_an_engine_that_saves_nothing_is_refused(self, subject, tmp_path):
        with pytest.raises(Unsupported, match="cannot save what it runs"):
            work(job(subject, [Design()], "torch-eager"), tmp_path, lambda event: None)


def test_a_file_that_is_not_there_is_a_reason_for_its_design(subject, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    real = sampling.variant

    def lacking(hub, imported, space, design, *rest):
        if design.schemes:
            raise FileNotFoundError(2, "No such file or directory", str(tmp_path / "ranges.npz"))
        return real(hub, imported, space, design, *rest)

    monkeypatch.setattr(sampling, "variant", lacking)
    done = work(job(subject, [uniform(subject.space, "int8"), Design()]), tmp_path, lambda event: None)
    assert done.timed == 1
    assert done.not_sampled[0].reason.why == "ranges.npz: No such file or directory"


class TestCrash:
    """The child is played: it dies at one design, whichever child it is."""

    def test_the_design_that_kills_a_child_is_named_and_the_rest_goes_on(self, subject, tmp_path, monkeypatch):
        designs = [Design(), Design(dropped=("block",)), uniform(subject.space, "int8"), every(subject)]
        children = []

        def run_child(module, asked, result, *, on_event, **_):
            children.append(asked.designs)
            for number, design in enumerate(asked.designs):
                event = {"event": "progress", "what": "building", "fraction": 0.0, "number": number}
                on_event(event)
                if design == designs[1]:
                    raise EngineError("the process crashed with SIGSEGV")
                on_event({**event, "sample": msgspec.to_builtins(sample_of(design))})
            failed = NotSampled(design=designs[3], reason=Missing(code="no", why="it was not to be"))
            return SamplingDone(timed=len(asked.designs), not_sampled=(failed,))

        monkeypatch.setattr(collecting, "run_child", run_child)
        found = collect(job(subject, designs), intake(tmp_path), "samples")
        assert children == [tuple(designs), (designs[2], designs[3])]
        assert [sample.design for sample in found.samples] == [designs[0], designs[2], designs[3]]
        assert [each.design for each in found.not_sampled] == [designs[1], designs[3]]
        assert "SIGSEGV" in found.not_sampled[0].reason.why

    def test_a_child_that_cannot_build_the_unchanged_network_is_the_end(self, subject, tmp_path, monkeypatch):
        def run_child(*_, **__):
            raise EngineError("the runtime refuses it")

        monkeypatch.setattr(collecting, "run_child", run_child)
        with pytest.raises(EngineError, match="the runtime refuses it"):
            collect(job(subject, [Design()]), intake(tmp_path), "samples")


def sample_of(design):
    import made_costs

    space = made_costs.space(blocks=1)
    return msgspec.structs.replace(made_costs.Machine().sample(space, Design()), design=design)


class Metered:
    """An instrument that counts ten joules a second."""

    meter, boundary, provenance = "made up", "everything", "measured_onboard"
    every_s = None

    def __init__(self):
        self.channels = (channel("all", "energy", period_s=0.001, lsb=1e-9),)
        self.sources, self.settings, self.closed = (self,), {}, False

    def read(self):
        return (1000.0 + 10.0 * time.perf_counter(),)

    def close(self):
        self.closed = True


def test_energy_is_read_of_every_network_where_it_is_asked_for(subject, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    instrument, heard = Metered(), []
    monkeypatch.setattr("hwbench.tables.metering.choose", lambda name, device: Chosen(instrument=instrument))
    monkeypatch.setattr("hwbench.tables.metering._FIRST_S", 0.05)
    asked = msgspec.structs.replace(job(subject, [Design(), uniform(subject.space, "int8")]), meter="auto")
    done = work(asked, tmp_path, heard.append)
    samples = [msgspec.convert(each["sample"], type=CostSample) for each in heard if "sample" in each]
    assert (done.timed, len(samples)) == (2, 2)
    for sample in samples:
        drawn = sample.energy
        assert drawn.energy_j * drawn.inferences / drawn.window_s == pytest.approx(10.0, rel=0.05)
        assert (drawn.meter, drawn.provenance) == ("made up", "measured_onboard")
    assert instrument.closed
