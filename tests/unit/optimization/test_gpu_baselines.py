"""The baselines of a GPU, the arithmetic that plans for it are in, and the ranges its halves are told."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest
from test_optimize_parts import candidate, request, scored

from hwbench.build.plan import plan_for, wants_ranges
from hwbench.engines.tensorrt import TensorRt, TensorRtRtx
from hwbench.optimization_pipeline import arithmetic, making
from hwbench.optimization_pipeline.arithmetic import floating_for
from hwbench.optimization_pipeline.candidates import UNIFORM, Workshop
from hwbench.optimization_pipeline.making import Maker
from hwbench.protocols import ReadsRanges
from hwbench.records.quantization import CalibrationSettings, PrecisionPlan

CPU_ENGINE = SimpleNamespace(schemes=("fp32", "bf16", "fp16", "auto", "int8", "int8-dynamic", "int8-weights"))
ONLY_AUTO = SimpleNamespace(schemes=("fp32", "auto"))


def workshop(kind, model="fp32"):
    original = SimpleNamespace(model=SimpleNamespace(arithmetic=model))
    judge = SimpleNamespace(target=SimpleNamespace(device=SimpleNamespace(kind=kind)), original=original)
    return Workshop(request(), None, judge, None)


def tried(kind, engine, model="fp32"):
    return [each for each in workshop(kind, model)._all(engine) if each in engine.schemes]


class TestUniform:
    def test_a_gpu_is_held_against_all_that_tensorrt_has(self):
        everything = ["fp32", "tf32", "bf16", "fp16", "int8", "fp8", "int4-weights"]
        assert tried("nvidia", TensorRt()) == tried("jetson", TensorRt()) == everything
        assert tried("nvidia", TensorRtRtx()) == [*everything[:-1], "int8-weights", "int4-weights"]

    def test_auto_is_left_out_where_another_word_builds_the_same(self):
        assert tried("nvidia", ONLY_AUTO) == ["fp32", "auto"]
        assert "auto" in tried("nvidia", TensorRt(), model="fp64"), "fp16 of it is refused, and auto is not"

    def test_a_cpu_has_what_it_had(self):
        assert workshop("cpu")._all(CPU_ENGINE) == UNIFORM
        assert UNIFORM == ("fp32", "bf16", "fp16", "auto", "int8", "int8-dynamic")


def baseline(precision, *, counts, engine="tensorrt"):
    one = candidate(precision, scored(), uniform=True, counts=counts)
    return msgspec.structs.replace(one, engine=engine, precision=precision)


def known(kind, *baselines, model="fp32"):
    return SimpleNamespace(
        target=SimpleNamespace(device=SimpleNamespace(kind=kind)), baselines=baselines,
        imported=SimpleNamespace(model=SimpleNamespace(arithmetic=model)),
    )  # fmt: skip


class TestFloating:
    @pytest.mark.parametrize(
        ("counting", "floating"),
        [({"fp32", "tf32", "bf16", "fp16"}, "auto"), ({"fp32", "tf32", "bf16"}, "bf16"), ({"fp32", "tf32"}, "tf32"),
         ({"fp32"}, "fp32"), (set(), "auto")],
    )  # fmt: skip
    def test_halves_are_planned_for_as_long_as_they_are_good_enough(self, counting, floating):
        all_ = [baseline(each, counts=each in counting) for each in ("fp32", "tf32", "bf16", "fp16", "int8")]
        assert floating_for(known("nvidia", *all_)) == floating

    def test_another_engines_half_says_nothing(self, monkeypatch):
        engines = {"tensorrt": TensorRt(), "torch-aoti": SimpleNamespace(schemes=("fp16",), lower=None)}
        monkeypatch.setattr(arithmetic.plugins, "load", lambda group, name: engines[name])
        mine = [baseline("fp16", counts=False), baseline("bf16", counts=True)]
        assert floating_for(known("nvidia", *mine, baseline("fp16", counts=True, engine="torch-aoti"))) == "bf16"

    def test_a_network_in_bf16_stays_in_it(self):
        assert floating_for(known("nvidia", baseline("bf16", counts=True), model="bf16")) == "auto"

    def test_a_cpu_decides_for_itself(self):
        assert floating_for(known("cpu", baseline("fp16", counts=False), baseline("bf16", counts=True))) == "auto"


class TestRanges:
    def test_tensorrt_wants_them_for_halves_and_cpus_for_integers_alone(self):
        assert isinstance(TensorRt(), ReadsRanges)
        for word, wanted in {"auto": True, "fp16": True, "bf16": False, "tf32": False, "int8": True}.items():
            assert wants_ranges(TensorRt(), plan_for(word)) == wanted, word
        assert wants_ranges(TensorRt(), PrecisionPlan(default="int4-weights"))
        assert not wants_ranges(CPU_ENGINE, plan_for("fp16"))
        assert wants_ranges(CPU_ENGINE, plan_for("int8"))

    @pytest.mark.parametrize(
        ("arithmetic", "batch", "precision", "calibrated"),
        [("fp32", 4, "fp16", True), ("fp32", 4, "fp32", False), ("fp16", 4, "fp16", False),
         ("fp32", None, "fp16", False)],
    )  # fmt: skip
    def test_a_half_is_built_with_ranges_and_nothing_is_repaired(
        self, tmp_path, monkeypatch, arithmetic, batch, precision, calibrated
    ):
        asked = []
        monkeypatch.setattr(making.plugins, "load", lambda group, name: TensorRt())
        monkeypatch.setattr(making, "CalibrateJob", SimpleNamespace)
        (tmp_path / "model").mkdir()

        class Files(msgspec.Struct, frozen=True):
            folder: str

        class Imported(msgspec.Struct, frozen=True):
            model: object
            files: Files

        def run(module, job, *_):
            asked.append(job.settings)
            return SimpleNamespace(calibration="ranges", files=job.files)

        intake = SimpleNamespace(run=run)
        maker = Maker(
            request(calibration=CalibrationSettings(equalize=True, smooth_quant=0.5)), None, intake,
            SimpleNamespace(folder=tmp_path),
        )  # fmt: skip
        maker.learn = SimpleNamespace(facts=None, folder="")
        model = SimpleNamespace(arithmetic=arithmetic, batch_size=batch)
        imported = Imported(model=model, files=Files(folder=str(tmp_path / "model")))
        found, network = maker._calibrated("tensorrt", imported, plan_for(precision), "it")
        if not calibrated:
            assert (found, network, asked) == (None, imported, [])
            return
        assert found == "ranges"
        (settings,) = asked
        assert (settings.equalize, settings.smooth_quant, settings.bias_correction) == (False, None, False)
        assert settings.estimator == "mse"
