"""``optimize`` on a GPU whose times are made: the baselines of a GPU, plans from sampled costs, the guard."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import sampled_nets
from in_process import children_in_process
from pretended_gpu import CARD, TARGET, MadeGpu, pretend_contests, pretend_gpu

from hwbench.engines.tensorrt_lower import lower_graph
from hwbench.optimization_pipeline import BUNDLE, optimize, planned
from hwbench.optimization_pipeline.planned import FromCosts
from hwbench.planning_pipeline import costs
from hwbench.protocols import LowerRequest
from hwbench.records.optimization import OptimizeRequest
from hwbench.records.planning import TWO_FOUR, Design, Zeros
from hwbench.records.quantization import CalibrationSettings
from hwbench.tables import sample, turns
from hwbench.tables.variant import variant

pytest.importorskip("torch", reason="losses go through torch")

SAMPLES = 96
SPARSE = {"block.one": 0.4, "wide": 1.2}  # what 2:4 weights make of a layer's time
HALF = Zeros(format=TWO_FOUR, sparsity=0.5)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    ir.save(sampled_nets.graph(), folder / "net.onnx")
    model = onnx.load(folder / "net.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    onnx.save(model, folder / "net.onnx")
    inputs = np.random.default_rng(0).standard_normal((SAMPLES, 3, 12, 12)).astype(np.float32)
    np.savez(folder / "data.npz", x=inputs)
    made = MadeGpu(SPARSE)
    request = OptimizeRequest(
        model=str(folder / "net.onnx"), device="cuda:0", data=str(folder / "data.npz"), verify_data=None,
        preprocess=None, samples=None, task="auto", metric=None, max_drop=0.3, objective="latency",
        engines=("tensorrt",), precisions=(), calibration=CalibrationSettings(), time_budget_s=1000.0,
        batch_size=1, training_batch_size=8, shapes={}, memory_limit_bytes=4 << 30, threads=1, seed=0, resume=False,
        replace=False, timeout_s=120.0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        pretend_gpu(monkeypatch, folder / "home", made)
        machine = pretend_contests(monkeypatch, made)
        children_in_process(monkeypatch)
        monkeypatch.setattr(costs, "_MOST", 13)
        for name in ("_BLOCK_S", "_SETTLE_S"):
            monkeypatch.setattr(turns, name, 0.0)
        monkeypatch.setattr(turns, "undisturbed", contextlib.nullcontext)  # it collects what the whole session left
        monkeypatch.setattr(sample, "_FEWEST_PROFILED", 4)
        monkeypatch.setattr(sample, "_PROFILE_S", 0.0)
        monkeypatch.setattr(planned, "get_args", lambda kinds: ("precision",))
        result = optimize(request, folder / "out", target=TARGET, watch=lambda what, _: None, planner=FromCosts)
    return result, folder / "out", machine.latency_s


@pytest.fixture(scope="module")
def fastest(tmp_path_factory):
    """What the fastest choice of int8 and of 2:4 takes, of all there are, by the machine's own formula."""
    folder = tmp_path_factory.mktemp("every")
    subject, made, found = sampled_nets.subject(folder), MadeGpu(SPARSE), []
    able = ("stem", "block.one", "block.two")  # matrix products are slower in int8, and in 2:4 too
    for *chosen, sparse in itertools.product((False, True), repeat=len(able) + 1):
        design = Design(
            schemes={name: "int8" for name, wanted in zip(able, chosen, strict=True) if wanted},
            zeros={"block.one": HALF} if sparse else {},
        )
        place = folder / str(len(found))
        place.mkdir()
        one = variant(subject.hub, subject.imported, subject.space, design, subject.calibration, place / "graph")
        request = LowerRequest(
            model=one.model, files=one.files, calibration=one.calibration, device=CARD, plan=one.plan, folder=place
        )
        lower_graph(request, capability=(8, 7), flavour="tensorrt")
        found.append(made.total(place / "model.onnx"))
    return min(found)


def test_every_precision_of_a_gpu_is_a_baseline_or_has_a_reason(found):
    result, _, _ = found
    refused = {each.precision: each.reason for each in result.not_built}
    uniform = {each.precision for each in result.candidates if each.uniform}
    assert uniform == {"fp32", "tf32", "fp16", "int8", "int4-weights"}
    assert set(refused) == {"bf16", "fp8"}
    assert "fp8 is there from compute capability 8.9" in refused["fp8"].why
    assert "bfloat16" in refused["bf16"].why  # of ONNX Runtime, which plays TensorRT


def test_the_plan_is_the_fastest_there_is_and_beats_the_best_uniform(found, fastest):
    result, _, took = found
    uniform = {each.precision: took[each.name] for each in result.candidates if each.uniform}
    assert min(uniform, key=uniform.__getitem__) == "fp16"
    assert uniform["int8"] > uniform["fp16"], "int8 everywhere is slower here"
    choice = result.verdicts.choice
    near = {f"tensorrt {name}" for name, seconds in uniform.items() if seconds == uniform["fp16"]}
    assert choice.word == "FASTER"
    assert choice.best_uniform in near
    assert took[choice.entrant] < min(uniform.values())
    assert took[choice.entrant] == pytest.approx(fastest, rel=1e-6)
    chosen = next(each for each in result.candidates if each.name == choice.entrant)
    assert chosen.design.floating == "auto", "which is fp16 on a GPU"
    assert chosen.design.zeros == {"block.one": HALF}, "2:4 where it was timed faster, and nowhere else"


def test_the_guard_is_shown_and_certified(found):
    result, out, _ = found
    choice = result.verdicts.choice
    standing = result.contest.standing(choice.entrant)
    assert standing.joint.high < 1
    assert f"of {choice.best_uniform}" in choice.why
    assert result.contest.standing("tensorrt fp16") is not None
    assert result.word in {"MET", "UNSETTLED"}
    assert (out / BUNDLE).is_dir()
    assert result.verdicts.certified[-1].entrant == choice.entrant
