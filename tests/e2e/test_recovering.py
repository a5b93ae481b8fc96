"""A design that is trained after it was cut: on data of its own, taught by the network as it came in."""

import numpy as np
import onnx_ir as ir
import pytest

from hwbench.errors import UsageError
from hwbench.intake import Intake
from hwbench.inventory import find_target
from hwbench.optimization_pipeline.kept import Kept
from hwbench.optimization_pipeline.making import Maker
from hwbench.optimization_pipeline.parts import divide
from hwbench.plan.sites import space_of
from hwbench.records.compression import Step
from hwbench.records.optimization import OptimizeRequest
from hwbench.records.planning import Design
from hwbench.records.quantization import CalibrationSettings
from hwbench.units import MonotonicClock

pytest.importorskip("torch", reason="training is done by torch")
pytest.importorskip("onnxruntime", reason="the engine that is built")

TRAINING = Step(method="finetune", settings={"epochs": 2, "optimizer": "adamw", "learning_rate": 1e-3, "labels": False})


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    from compress_hubs import hub

    from hwbench.graph.batch import batch_dependence, open_batch
    from hwbench.models.digits import load_digits_split

    folder = tmp_path_factory.mktemp("recovering")
    one, two = hub("digits_cnn", 1), hub("digits_cnn", 2)
    ir.save(open_batch(one, batch_dependence(one, two)), folder / "digits.onnx")
    parts = load_digits_split()
    x, y = parts["train"]
    np.savez(folder / "few.npz", x=x[:64], labels=y[:64])
    np.savez(folder / "many.npz", x=x, labels=y)
    np.savez(folder / "test.npz", x=parts["test"][0], labels=parts["test"][1])
    return folder, parts["test"]


def maker(digits, where, **changes):
    folder, _ = digits
    wanted = OptimizeRequest(
        model=str(folder / "digits.onnx"), device="cpu", data=str(folder / "few.npz"),
        verify_data=str(folder / "test.npz"), preprocess=None, samples=None, task="auto", metric=None, max_drop=0.01,
        objective="latency", engines=("onnxruntime",), precisions=("fp32",), calibration=CalibrationSettings(),
        time_budget_s=100.0, batch_size=1, training_batch_size=32, shapes={}, memory_limit_bytes=1 << 30, threads=1,
        seed=0, resume=False, replace=False, timeout_s=120.0, **changes,
    )  # fmt: skip
    said = []
    kept = Kept(where, wanted, ("model",), MonotonicClock(), lambda what, _: said.append(what))
    intake = Intake(folder=where, watch=lambda what, _: said.append(what), threads=1, timeout_s=120.0, seed=0)
    made = Maker(wanted, find_target("cpu"), intake, kept)
    imported = made.bring_in()
    made.prepare(imported, divide(wanted, imported.model, intake, where / "parts"))
    hub = ir.load(f"{imported.files.folder}/{imported.files.hub}")
    from hwbench.graph.onnx_file import infer_shapes

    return made, space_of(infer_shapes(hub), imported.model.hub_sha256), said


def right(made, folder, test):
    import onnxruntime

    path = next((folder / made.bundle).glob("**/*.onnx"))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: image[None]})[0].argmax() for image in test[0]]
    return float(np.mean(np.array(found) == test[1]))


@pytest.mark.slow
def test_training_after_a_cut_takes_accuracy_back_and_goes_on_where_it_was_stopped(digits, tmp_path, monkeypatch):
    folder, test = digits
    plain, space, _ = maker(digits, tmp_path / "plain")
    cut = Design(widths={site.about: site.options[-1].units for site in space.sites if site.kind == "width"})
    before = plain.designed("onnxruntime", space, cut, "cut")
    made, space, said = maker(digits, tmp_path / "trained", recover=TRAINING, recover_data=str(folder / "many.npz"))
    after = made.designed("onnxruntime", space, cut, "cut")
    assert [step.method for step in after.steps] == [*(step.method for step in before.steps), "finetune"]
    assert after.steps[-1] == TRAINING  # where the teacher lay while it ran is nobody's affair
    assert after.network.parameters == before.network.parameters
    assert right(after, made.folder, test) > right(before, plain.folder, test) + 0.05
    assert made.recover_on.facts.samples > made.learn.facts.samples == 64
    monkeypatch.setattr(made, "_compressed", None)  # nothing is trained again
    assert made._network(tuple(after.steps)).facts == after.network
    assert any(text.startswith("epoch 2") for text in said)


def test_what_is_not_cut_is_not_trained(digits, tmp_path):
    made, space, said = maker(digits, tmp_path, recover=TRAINING)
    kept = made.designed("onnxruntime", space, Design(), "whole")
    assert kept.steps == ()
    assert not any("epoch" in text for text in said)


def test_data_to_train_on_are_read_before_anything_is_made(digits, tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.npz"):
        maker(digits, tmp_path, recover=TRAINING, recover_data=str(tmp_path / "nothing.npz"))
