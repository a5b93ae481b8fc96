"""A design that is trained after it was cut: on data of its own, taught by the network as it came in."""

import numpy as np
import onnx_ir as ir
import pytest

from hwbench.errors import Interrupted, UsageError
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

TRAINING = Step(method="finetune", settings={"epochs": 3, "optimizer": "adamw", "learning_rate": 1e-3, "labels": False})


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


def maker(digits, where, stop_at=None, **changes):
    """A maker, the space of the network, and what is said; Ctrl-C comes when it says ``stop_at``."""
    folder, _ = digits
    wanted = OptimizeRequest(
        model=str(folder / "digits.onnx"), device="cpu", data=str(folder / "few.npz"),
        verify_data=str(folder / "test.npz"), preprocess=None, samples=None, task="auto", metric=None, max_drop=0.01,
        objective="latency", engines=("onnxruntime",), precisions=("fp32",), calibration=CalibrationSettings(),
        time_budget_s=100.0, batch_size=1, training_batch_size=32, shapes={}, memory_limit_bytes=1 << 30, threads=1,
        seed=0, resume=False, replace=False, timeout_s=120.0, **changes,
    )  # fmt: skip
    said = []

    def watch(what, fraction):
        said.append(what)
        if stop_at is not None and what.startswith(stop_at):
            raise KeyboardInterrupt

    kept = Kept(where, wanted, ("model",), MonotonicClock(), watch)
    intake = Intake(folder=where, watch=watch, threads=1, timeout_s=120.0, seed=0)
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
def test_training_after_a_cut_takes_accuracy_back_and_goes_on_where_it_was_stopped(digits, tmp_path):
    folder, test = digits
    plain, space, _ = maker(digits, tmp_path / "plain")
    cut = Design(widths={site.about: site.options[-1].units for site in space.sites if site.kind == "width"})
    before = plain.designed("onnxruntime", space, cut, "cut")
    asked = {"recover": TRAINING, "recover_data": str(folder / "many.npz")}
    stopped, space, _ = maker(digits, tmp_path / "trained", stop_at="epoch 2 of 3", **asked)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        stopped.designed("onnxruntime", space, cut, "cut")
    made, space, said = maker(digits, tmp_path / "trained", **asked)
    after = made.designed("onnxruntime", space, cut, "cut")
    assert "goes on after epoch 1" in said
    assert not any(text.startswith("cut ") for text in said), "it was cut again"
    assert [step.method for step in after.steps] == [*(step.method for step in before.steps), "finetune"]
    assert after.steps[-1] == TRAINING  # where the teacher lay while it ran is nobody's affair
    assert after.network.parameters == before.network.parameters
    assert right(after, made.folder, test) > right(before, plain.folder, test) + 0.05
    assert made.recover_on.facts.samples > made.learn.facts.samples == 64


FUNCTION = """
def train(view, samples, teacher, context):
    import torch

    taught = sum(parameter.numel() for parameter in teacher.parameters())
    learns = sum(parameter.numel() for parameter in view.parameters())
    context.report(f"{learns} parameters learn of {taught}", None)
    return view
"""


def test_a_function_of_the_users_is_given_the_network_as_it_came_in(digits, tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTION)
    recover = Step(method="finetune", settings={"function": f"{tmp_path / 'mine.py'}:train"})
    made, space, said = maker(digits, tmp_path / "work", recover=recover)
    cut = Design(widths={site.about: site.options[-1].units for site in space.sites if site.kind == "width"})
    made.designed("onnxruntime", space, cut, "cut")
    learns, taught = next((int(text.split()[0]), int(text.split()[-1])) for text in said if " learn of " in text)
    assert learns < 0.2 * taught


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"teacher": False, "labels": False}, "nothing to learn from"),
        ({"alpha": 0.5, "labels": False}, "leaves a part of the loss to labels"),
        ({"teacher": False, "taught_by": "other.onnx"}, "teacher=false wants none"),
        ({"function": "nothing.py:train"}, r"nothing\.py"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_anything_is_made(digits, tmp_path, settings, said):
    with pytest.raises(UsageError, match=said):
        maker(digits, tmp_path, recover=Step(method="finetune", settings=settings))


def test_labels_of_pairs_are_not_trained_on(digits, tmp_path):
    folder, _ = digits
    with np.load(folder / "few.npz") as few:
        np.savez(tmp_path / "pairs.npz", x=few["x"], labels=few["labels"][::2])
    pairs = {"recover_data": str(tmp_path / "pairs.npz")}
    with pytest.raises(UsageError, match="32 labels for 64 samples"):
        maker(digits, tmp_path / "a", recover=Step(method="finetune"), **pairs)
    maker(digits, tmp_path / "b", recover=TRAINING, **pairs)  # which has labels=false


def test_what_is_not_cut_is_not_trained(digits, tmp_path):
    made, space, said = maker(digits, tmp_path, recover=TRAINING)
    kept = made.designed("onnxruntime", space, Design(), "whole")
    assert kept.steps == ()
    assert not any("epoch" in text for text in said)


def test_data_to_train_on_are_read_before_anything_is_made(digits, tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.npz"):
        maker(digits, tmp_path, recover=TRAINING, recover_data=str(tmp_path / "nothing.npz"))
