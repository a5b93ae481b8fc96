"""Methods that train: what they change, keep, hold and tell; on the built-in digits and on small networks."""

import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import run_ort, subject_of
from train_nets import conv_net, digits_subject, images, weight_of

torch = pytest.importorskip("torch", reason="training is done by torch")

from hwbench.compress.methods.finetune import Finetune, FinetuneSettings  # noqa: E402
from hwbench.compress.methods.gradual import Gradual, GradualSettings  # noqa: E402
from hwbench.compress.methods.soft_prune import SoftPrune, SoftPruneSettings  # noqa: E402
from hwbench.compress.methods.sparsify import Sparsify, SparsifySettings  # noqa: E402
from hwbench.compress.methods.width import Width, WidthSettings  # noqa: E402
from hwbench.errors import ModelError, UsageError  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(folder, *, labels=True, count=40, **net):
    return subject_of(conv_net(**net), folder, samples=images(count, classes=3 if labels else None))


def applied(method, settings, subject, layers=None):
    legal = method.legal(subject, settings)
    chosen = [name for name, reason in legal.items() if reason is None and (layers is None or name in layers)]
    return method.apply(subject, chosen, settings)


def named(outcome):
    return {change.layer: change for change in outcome.changes}


# finetune


def test_recovery_pays_after_magnitude_pruning_and_keeps_the_zeros(tmp_path):
    """60 % of all weights gone, by magnitude: label-free distillation brings most of what is lost back."""
    subject, right = digits_subject(tmp_path, labels=False)
    first, zeros = right(subject.model), {}
    for name, layer in subject.layers().items():
        blocks = layer.blocks()
        blocks[np.abs(blocks) <= np.quantile(np.abs(blocks), 0.6)] = 0
        layer.set_blocks(blocks)
        zeros[name] = layer.blocks() == 0
        subject.held_zeros.add(layer.node.inputs[1].name)
    pruned = right(subject.model)
    outcome = applied(Finetune(), FinetuneSettings(epochs=2, learning_rate=0.02), subject)
    assert pruned < 0.7
    assert right(subject.model) > first - 0.01
    for name, layer in subject.layers().items():
        assert (layer.blocks()[zeros[name]] == 0).all()
    assert outcome.figures["loss"] < outcome.figures["loss_first"]
    assert named(outcome)["features.3"].zeros == pytest.approx(0.6, abs=0.01)
    assert "all epochs are done" in outcome.notes[0]


def test_only_the_chosen_layers_are_trained(tmp_path):
    subject = small(tmp_path)
    before = {name: weight_of(subject.model, name) for name in subject.model.graph.initializers}
    outcome = applied(Finetune(), FinetuneSettings(epochs=1, held_out=0), subject, {"conv2"})
    changed = {name for name, array in before.items() if not np.array_equal(array, weight_of(subject.model, name))}
    assert changed == {"w2", "b2"}
    assert list(named(outcome)) == ["conv2"]
    assert named(outcome)["conv2"].kind == "trained"


def test_what_is_trained_runs_and_teaches_from_the_original(tmp_path):
    subject = small(tmp_path, labels=False)
    rng = np.random.default_rng(0)
    for name in ("w2", "w3"):
        value = subject.model.graph.initializers[name]
        value.const_value = ir.tensor(value.const_value.numpy() + rng.normal(0, 0.2, value.shape).astype(np.float32))
    inputs, _ = next(subject.samples.in_order())
    wanted = run_ort(subject.original, inputs)[0]
    before = np.abs(run_ort(subject.model, inputs)[0] - wanted).max()
    settings = FinetuneSettings(epochs=30, learning_rate=0.03, freeze_norms=True, features="conv2", held_out=0.2)
    applied(Finetune(), settings, subject)
    assert np.abs(run_ort(subject.model, inputs)[0] - wanted).max() < 0.5 * before


def test_layers_that_cannot_be_trained_say_why(tmp_path):
    subject = small(tmp_path)
    half = subject.model.graph.initializers["w2"]
    half.const_value = ir.tensor(half.const_value.numpy().astype(np.float16), name="w2")
    broken = subject.model.graph.initializers["w3"]
    broken.const_value = ir.tensor(broken.const_value.numpy() * np.float32("nan"), name="w3")
    legal = Finetune().legal(subject, FinetuneSettings())
    assert {name: reason and reason.code for name, reason in legal.items()} == {
        "conv1": None, "bn1": None, "conv2": "half_precision", "fc": "not_finite",
    }  # fmt: skip


def test_losses_that_cannot_be(tmp_path):
    with pytest.raises(UsageError, match="needs samples"):
        applied(Finetune(), FinetuneSettings(), subject_of(conv_net(), tmp_path))
    with pytest.raises(UsageError, match="nothing to learn from"):
        applied(Finetune(), FinetuneSettings(teacher=False), small(tmp_path, labels=False))
    with pytest.raises(UsageError, match=r"alpha=0\.5 leaves a part"):
        applied(Finetune(), FinetuneSettings(alpha=0.5), small(tmp_path, labels=False))
    with pytest.raises(UsageError, match="held out"):
        applied(Finetune(), FinetuneSettings(), small(tmp_path, count=1))
    with pytest.raises(UsageError, match="about a teacher"):
        FinetuneSettings(teacher=False, features="conv1")
    with pytest.raises(UsageError, match="alpha"):
        FinetuneSettings(alpha=1.5)
    with pytest.raises(UsageError, match="learn from its own outputs"):
        applied(Finetune(), FinetuneSettings(epochs=1, labels=False), small(tmp_path))


def test_a_network_can_be_taught_by_another_file(tmp_path):
    losses = []
    for sign in (1, -1):
        subject = small(tmp_path, labels=False)
        teacher = subject.original.clone()
        for value in teacher.graph.initializers.values():
            if len(value.shape) == 2:
                value.const_value = ir.tensor(sign * value.const_value.numpy())
        ir.save(teacher, tmp_path / "teacher.onnx")
        taught = FinetuneSettings(epochs=1, taught_by=str(tmp_path / "teacher.onnx"))
        losses.append(applied(Finetune(), taught, subject).figures["loss_first"])
    assert losses[0] < 0.1 * losses[1]
    with pytest.raises(UsageError, match="teacher=false wants none"):
        applied(Finetune(), FinetuneSettings(taught_by="teacher.onnx", teacher=False), small(tmp_path))


def test_a_broken_training_leaves_the_network_as_it_was(tmp_path):
    subject = small(tmp_path)
    before = ir.to_proto(subject.model).SerializeToString()
    with pytest.raises(ModelError, match="the loss is"):
        applied(Finetune(), FinetuneSettings(epochs=9, learning_rate=1e20, momentum=0.0), subject)
    assert ir.to_proto(subject.model).SerializeToString() == before


# A training function of the user's


USERS = """
import torch

def train(view, samples, teacher, context):
    weights = [tensor for tensor in view.parameters() if tensor.requires_grad]
    assert len(weights) == len(context.weights)
    optimizer = torch.optim.SGD(weights, lr=0.05)
    view.train()
    for inputs, labels in samples.in_order():
        optimizer.zero_grad()
        outputs = view(torch.from_numpy(inputs["x"]))[0]
        taught = teacher(torch.from_numpy(inputs["x"]))[0].detach()
        torch.nn.functional.mse_loss(outputs, taught + 1).backward()
        optimizer.step()
        context.hold_zeros()
    context.report("done", 1.0)
    return view

def forgets_zeros(view, samples, teacher, context):
    with torch.no_grad():
        for tensor in view.parameters():
            tensor += 0.5
    return view

def nothing(view, samples, teacher, context):
    pass

def other(view, samples, teacher, context):
    return torch.nn.Linear(2, 2)

def broken(view, samples, teacher, context):
    with torch.no_grad():
        view.conv1.W.fill_(float("nan"))
    return view

def raises(view, samples, teacher, context):
    raise RuntimeError("out of luck")
"""


def by_user(folder, name, **given):
    file = folder / "mine.py"
    file.write_text(USERS)
    subject = small(folder)
    weight = subject.model.graph.initializers["w2"]
    array = weight.const_value.numpy().copy()
    array[:, ::2] = 0
    weight.const_value = ir.tensor(array, name="w2")
    subject.held_zeros.add("w2")
    return subject, applied(Finetune(), FinetuneSettings(function=f"{file}:{name}", **given), subject)


def test_a_training_function_of_the_users(tmp_path):
    subject, outcome = by_user(tmp_path, "train")
    assert {"conv1", "bn1", "conv2", "fc"} == set(named(outcome))
    assert (weight_of(subject.model, "w2")[:, ::2] == 0).all()
    assert len(outcome.notes) == 1


def test_zeros_that_a_function_forgot_are_put_back_and_told(tmp_path):
    subject, outcome = by_user(tmp_path, "forgets_zeros")
    weights = weight_of(subject.model, "w2")
    assert (weights[:, ::2] == 0).all()
    assert (weights[:, 1::2] != 0).all()
    assert (
        outcome.notes[1] == f"{weights[:, ::2].size} weights that must stay zero were not, and were set to zero again"
    )


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing", UsageError, "returned a NoneType, not the trained network"),
        ("other", UsageError, "is not there, not"),
        ("broken", ModelError, "NaN or infinity in 'conv1.W'"),
        ("raises", UsageError, "raised RuntimeError: out of luck"),
        ("absent", UsageError, "cannot be imported"),
    ],
)
def test_functions_that_do_not_keep_to_the_contract(tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        by_user(tmp_path, name)


# gradual


def test_gradual_zeros_the_chosen_and_trains_all(tmp_path):
    subject = small(tmp_path)
    outcome = applied(Gradual(), GradualSettings(amount=0.5, epochs=2), subject, {"conv2"})
    change = named(outcome)["conv2"]
    assert (change.kind, change.zeros) == ("zeroed", pytest.approx(0.5, abs=0.01))
    assert change.bits_per_weight == pytest.approx(0.5 * 32 + 1, abs=0.2)
    assert subject.held_zeros == {"w2"}
    assert named(outcome)["conv1"].kind == "trained"
    zeros = weight_of(subject.model, "w2") == 0
    applied(Finetune(), FinetuneSettings(epochs=1), subject)
    assert np.array_equal(weight_of(subject.model, "w2") == 0, zeros)


def test_gradual_n_of_m_pads_what_does_not_fill_a_group(tmp_path):
    subject = small(tmp_path, channels=6)
    settings = GradualSettings(pattern="1:4", epochs=2)
    legal = Gradual().legal(subject, settings)
    assert legal["conv1"].code == "too_few_inputs"
    applied(Gradual(), settings, subject)
    left = weight_of(subject.model, "w2") != 0
    assert (left[:, :4].sum(1) == 1).all()
    assert (left[:, 4:].sum(1) == 1).all()


def test_gradual_settings():
    for given, message in (
        ({}, "amount, or a pattern"),
        ({"amount": 0.5, "pattern": "2:4"}, "not both"),
        ({"amount": 1.0}, "amount is 1.0"),
        ({"amount": 0.5, "begin": 0.8}, "begin is 0.8, end is 0.7"),
        ({"pattern": "16x1"}, "no pattern '16x1'"),
        ({"pattern": "2:4", "scope": "global"}, "has no scope"),
    ):
        with pytest.raises(UsageError, match=message):
            GradualSettings(**given)


# soft-prune


def test_soft_pruned_channels_are_cut_and_the_rest_still_knows(tmp_path):
    subject, right = digits_subject(tmp_path)
    outcome = applied(SoftPrune(), SoftPruneSettings(amount=0.5, epochs=3), subject)
    found = named(outcome)
    assert found["features.3"].kind == "cut"
    assert found["features.3"].shape_after == (16, 8, 3, 3)
    assert len(found["features.0"].removed["features.0.weight/0"]) == 8
    assert outcome.figures["units_removed"] == 8 + 16 + 16
    assert len(subject.kept["features.0.weight"][0]) == 8
    assert right(subject.model) > 0.95


def test_a_cut_network_equals_its_masked_self(tmp_path):
    masked, cut = (small(tmp_path) for _ in range(2))
    given = {"amount": 0.4, "epochs": 3, "settle": 0.4}
    zeroed = applied(SoftPrune(), SoftPruneSettings(**given, cut=False), masked, {"conv1"})
    applied(SoftPrune(), SoftPruneSettings(**given), cut, {"conv1"})
    change = named(zeroed)["conv1"]
    assert change.kind == "zeroed"
    assert change.removed["w1/0"] == tuple(np.setdiff1d(np.arange(6), cut.kept["w1"][0]))
    assert masked.held_zeros >= {"w1", "g", "b"}
    assert weight_of(cut.model, "w1").shape == (4, 2, 3, 3)
    inputs, _ = next(masked.samples.in_order())
    np.testing.assert_allclose(run_ort(cut.model, inputs)[0], run_ort(masked.model, inputs)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "settings"),
    [(SoftPrune(), SoftPruneSettings(amount=0.4, epochs=1)), (Width(), WidthSettings(amount=0.4))],
    ids=["soft-prune", "width"],
)
def test_a_cut_takes_a_pattern_of_zeros_out_of_the_books_and_says_so(tmp_path, method, settings):
    subject = small(tmp_path)
    applied(Gradual(), GradualSettings(pattern="2:4", epochs=1), subject, {"conv2"})
    assert set(subject.bits) == {"w2"}
    outcome = applied(method, settings, subject, {"conv1"})
    assert weight_of(subject.model, "w2").shape == (4, 4, 3, 3)
    assert (subject.bits, subject.held_zeros) == ({}, {"w2"})
    assert [note for note in outcome.notes if note.startswith("zeros of w2") and "2:4, is lost" in note]


def test_layers_that_decide_the_output_keep_their_channels(tmp_path):
    legal = SoftPrune().legal(small(tmp_path), SoftPruneSettings(amount=0.5))
    assert {name: reason and reason.code for name, reason in legal.items()} == {
        "conv1": None, "conv2": None, "fc": "output",
    }  # fmt: skip
    one = SoftPrune().legal(small(tmp_path, channels=1), SoftPruneSettings(amount=0.5))
    assert one["conv1"].code == "one_channel"


# sparsify


@pytest.mark.parametrize(("target", "strength"), [("weights", 0.5), ("channels", 0.5), ("norms", 2.0)])
def test_penalties_make_zeros_that_are_exact_and_told(tmp_path, target, strength):
    subject = small(tmp_path)
    settings = SparsifySettings(target=target, strength=strength, epochs=3, freeze_norms=True)
    outcome = applied(Sparsify(), settings, subject, {"conv1"})
    if target == "weights":
        assert named(outcome)["conv1"].zeros == np.mean(weight_of(subject.model, "w1") == 0) > 0.05
        assert subject.held_zeros == {"w1"}
    elif target == "channels":
        gone = int((np.abs(weight_of(subject.model, "w1")).sum((1, 2, 3)) == 0).sum())
        assert gone > 0
        assert named(outcome)["conv1"].what == f"{gone} of 6 output channels became zero"
    else:
        gone = int((weight_of(subject.model, "g") == 0).sum())
        assert gone > 0
        assert named(outcome)["conv1"].what == f"{gone} of 6 scales behind it became zero"
    assert outcome.figures["penalty_reach"] > 0


def test_norms_need_a_norm(tmp_path):
    legal = Sparsify().legal(small(tmp_path), SparsifySettings(target="norms"))
    assert {name: reason and reason.code for name, reason in legal.items()} == {
        "conv1": None, "conv2": "no_norm", "fc": "no_norm",
    }  # fmt: skip
