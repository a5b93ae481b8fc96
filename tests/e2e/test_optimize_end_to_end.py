"""``optimize`` from a network and data to a certified bundle, with a planner that proposes what it is told to."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from hwbench.errors import Interrupted, UsageError
from hwbench.files import encode, read_record
from hwbench.optimization_pipeline import BUNDLE, OPTIMIZATION, PLAN, WORK, optimize
from hwbench.optimization_pipeline.saving import predictions
from hwbench.records.base import Missing
from hwbench.records.optimization import (
    OPTIMIZATION_SCHEMA,
    OptimizationResult,
    OptimizeRequest,
    Proposal,
)
from hwbench.records.planning import Design, Interval
from hwbench.records.quantization import CalibrationSettings

pytest.importorskip("torch", reason="compression goes through torch")

ENGINES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The trained digits network with an open batch axis, and all of the digits that it was not trained on."""
    from compress_hubs import hub

    from hwbench.graph.batch import batch_dependence, open_batch
    from hwbench.models.digits import load_digits_split

    folder = tmp_path_factory.mktemp("optimize")
    one, two = hub("digits_cnn", 1), hub("digits_cnn", 2)
    ir.save(open_batch(one, batch_dependence(one, two)), folder / "digits.onnx")
    parts = load_digits_split()
    np.savez(folder / "train.npz", x=parts["train"][0], labels=parts["train"][1])
    held = [np.concatenate([parts[name][at] for name in ("validation", "test")]) for at in (0, 1)]
    np.savez(folder / "test.npz", x=held[0], labels=held[1])
    return folder


class Planner:
    """Proposes one network with fewer channels, in int8; stops the run when it is first asked."""

    stop, closed = True, 0

    def __init__(self, known):
        from hwbench.graph.onnx_file import infer_shapes
        from hwbench.plan.sites import space_of

        files = known.imported.files
        model = infer_shapes(ir.load(Path(files.folder) / files.hub))
        self.space = space_of(model, known.imported.model.hub_sha256)
        self.told = []

    def propose(self, feedback):
        if Planner.stop:
            Planner.stop = False
            raise KeyboardInterrupt
        self.told.append(feedback)
        if len(self.told) > 1:
            return []
        widths = {site.about: site.options[-1].units for site in self.space.sites if site.kind == "width"}
        schemes = {site.about: "int8" for site in self.space.sites if site.kind == "precision"}
        design = Design(widths=widths, schemes=schemes)
        expected = Interval(value=1e-5, low=1e-9, high=1.0, coverage=0.9, tier="A", n=10, method="a guess")
        return [Proposal(engine="openvino", design=design, predicted=expected)]

    def swaps(self, feedback):
        return []

    def close(self):
        Planner.closed += 1


def request(network, **changes):
    fields = {
        "model": str(network / "digits.onnx"), "device": "cpu", "data": str(network / "train.npz"),
        "verify_data": str(network / "test.npz"), "preprocess": None, "samples": None, "task": "auto",
        "metric": None, "max_drop": 0.05, "objective": "latency", "engines": ENGINES, "precisions": ("int8",),
        "calibration": CalibrationSettings(), "time_budget_s": 1000.0, "batch_size": 1,
        "training_batch_size": 32, "shapes": {}, "memory_limit_bytes": 4 << 30, "threads": 1, "seed": 0,
        "resume": False, "replace": False, "timeout_s": 120.0,
    }  # fmt: skip
    return OptimizeRequest(**{**fields, **changes})


@pytest.fixture(scope="module")
def found(network):
    """A run that is stopped when it begins to plan, and one that goes on from there."""
    from hwbench.optimization_pipeline import timing

    Timer, hold = timing.Timer, timing.Timer.contest  # noqa: N806 - a class
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(timing, "_WARMUP_S", 0.02)
    monkeypatch.setattr(
        Timer, "contest", lambda self, who, budget_s, where, restarts=2: hold(self, who, 1.0, where, 2)
    )  # as short as a contest can be, on however slow a machine
    Planner.stop = True
    out, said = network / "out", []
    with pytest.raises(Interrupted) as stopped:
        optimize(request(network), out, watch=lambda what, _: None, planner=Planner)
    assert "--resume" in stopped.value.hint
    with pytest.raises(UsageError, match="holds what an earlier run has begun"):
        optimize(request(network), out, watch=lambda what, _: None, planner=Planner)
    before = {path: path.stat().st_mtime_ns for path in (out / WORK / "bundles").iterdir()}
    result = optimize(request(network, resume=True), out, watch=lambda what, _: said.append(what), planner=Planner)
    monkeypatch.undo()
    return result, out, said, before


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_a_certified_bundle(found):
    result, _, said, before = found
    assert len(before) == 2
    assert not any(text.startswith("building onnxruntime") for text in said), "a baseline was built again"
    names = {each.name: each for each in result.candidates}
    assert set(names) == {"onnxruntime int8", "openvino int8", "openvino plan 1.1"}
    assert result.verdicts.choice.word in {"FASTER", "UNIFORM", "ALONE"}
    assert result.word in {"MET", "UNSETTLED"}
    assert (result.parts.select.facts.samples, result.parts.certify.facts.samples) == (239, 479)
    planned = names["openvino plan 1.1"]
    assert planned.made.network.parameters < 0.2 * result.model.parameters
    assert [stage.state for stage in result.stages].count("skipped") == 4
    chosen = result.contest.standing(result.winner.name)
    assert result.winner.uniform or chosen.joint.high < 1
    (row,) = predictions(result)
    assert row.inside is True
    assert Planner.closed == 2  # also where the run was stopped


@pytest.mark.slow
def test_what_is_saved_is_a_bundle_that_runs_and_says_how_it_was_made(found, network):
    from hwbench.bundles.reader import check

    result, out, _, _ = found
    manifest = check(out / BUNDLE)
    plan = json.loads((out / PLAN).read_text())
    assert plan["artefact_sha256"] == manifest.model.artefact.sha256 == result.winner.made.engine.artefact.sha256
    assert plan["engine"] == result.winner.engine
    assert plan["data"] == {part.name: part.facts.sha256 for part in (
        result.parts.learn, result.parts.select, result.parts.certify)}  # fmt: skip
    path = out / OPTIMIZATION
    assert encode(read_record(path, OptimizationResult, schema=OPTIMIZATION_SCHEMA)) + b"\n" == path.read_bytes()
    assert not (out / WORK).exists()
    seen = json.loads((out / "contests" / "final-contest-seen.json").read_text())["seats"]
    assert {seat["entrant"] for seat in seen} == {each.entrant for each in result.contest.standings}


@pytest.mark.slow
def test_the_certificate_is_that_of_other_samples(found, network):
    """Counted again from the outputs of the original: samples of the certification part, told by their numbers."""
    result, _, _, _ = found
    certified = result.verdicts.certified[-1]
    assert certified.entrant == result.winner.name
    assert certified.found.certificate.n == 479
    order = np.random.default_rng(0).permutation(718)
    assert len(set(order[:239]) & set(order[239:])) == 0
    assert not isinstance(certified.found.drop, Missing)


@pytest.mark.slow
def test_the_table_and_the_page_say_how_it_is_known(found):
    from rich.console import Console

    from hwbench.report.optimization import render_optimization, render_optimization_page

    result, out, _, _ = found
    console = Console(width=200, record=True)
    console.print(render_optimization(result, out))
    text, page = console.export_text(), render_optimization_page(result, predictions(result))
    for told in (*(each.name for each in result.candidates), "A/A", "learned from 1079 samples", "479"):
        assert told in text
        assert told in page
    assert "<script" not in page
    assert page.count("<circle") == 3
    assert "Predicted and measured" in page
