"""The trainer: what a step is, what an epoch leaves, how it stops, and that it goes on to the bit."""

import math

import numpy as np
import pytest
from train_nets import conv_net, images, linear_net, quiet, rows

torch = pytest.importorskip("torch", reason="training is done by torch")

from hwbench.errors import ModelError, StorageError, UsageError  # noqa: E402
from hwbench.testing import FakeClock  # noqa: E402
from hwbench.torch_view.build import to_torch  # noqa: E402
from hwbench.train.distillation import Distillation  # noqa: E402
from hwbench.train.hooks import Hook  # noqa: E402
from hwbench.train.losses import Loss, TaskLoss  # noqa: E402
from hwbench.train.progress import EPOCHS  # noqa: E402
from hwbench.train.settings import TrainSettings, train_settings  # noqa: E402
from hwbench.train.trainer import Trainer  # noqa: E402


def trainer(view, samples, folder, *, loss=None, **given):
    settings = {name: given.pop(name) for name in list(given) if name in TrainSettings.__struct_fields__}
    return Trainer(view, samples, loss or TaskLoss(), TrainSettings(**settings), folder=folder, report=quiet, **given)


def state(view):
    return {name: tensor.clone() for name, tensor in view.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Steps


def test_a_step_of_sgd_by_hand(tmp_path):
    """y = w x, loss mean (y - t)^2 over 2 samples: the gradient at w = 1 is mean 2 (x - t) x = -12.5."""
    view = to_torch(linear_net(np.ones((1, 1)), batch=2))
    samples = rows(np.array([[1.0], [3.0]]), np.array([2.0, 7.0], np.float32), batch=2)
    made = trainer(view, samples, tmp_path, epochs=1, clip_norm=0, learning_rate=0.1, momentum=0, weight_decay=0.5,
                   schedule="constant").run()  # fmt: skip
    gradient = np.mean([2 * (1 - 2) * 1, 2 * (3 - 7) * 3])
    assert view.fc.B.item() == pytest.approx(1 - 0.1 * (gradient + 0.5 * 1))
    assert (made.steps, made.stopped, made.best_epoch) == (1, "all epochs are done", 1)
    assert made.history[0].loss == pytest.approx((1 + 16) / 2)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_gradients_are_those_of_the_big_batch(tmp_path, optimizer):
    """Without norms, four batches of two make the step of one batch of eight. The short rest of an epoch too."""
    samples = images(12)
    views = []
    for batch, accumulate in ((2, 4), (8, 1)):
        view = to_torch(conv_net(batch=batch, norm=False))
        part = type(samples)(inputs=samples.inputs, labels=samples.labels, batch=batch).first(8)
        trainer(view, part, tmp_path / str(batch), epochs=3, accumulate=accumulate, optimizer=optimizer,
                clip_norm=0.5, warmup=0.3).run()  # fmt: skip
        views.append(state(view))
    for name, tensor in views[0].items():
        torch.testing.assert_close(tensor, views[1][name], rtol=1e-4, atol=1e-6)


def test_the_rest_of_an_epoch_is_averaged_over_what_there_is(tmp_path):
    samples = rows(np.ones((3, 1)), np.zeros(3, np.float32), batch=1)
    view = to_torch(linear_net(np.ones((1, 1)), batch=1))
    trainer(view, samples, tmp_path, epochs=1, learning_rate=0.1, momentum=0, weight_decay=0, clip_norm=0,
            schedule="constant", accumulate=2).run()  # fmt: skip
    assert view.fc.B.item() == pytest.approx(0.8 * 0.8), "two steps, each w -= 0.1 * 2 w"


def test_rates_of_warmup_and_cosine():
    settings = TrainSettings(learning_rate=0.4, warmup=0.2)
    got = [settings.rate(step / 10, 0.1) for step in range(10)]
    expected = [0.2, 0.4, *(0.2 * (1 + math.cos(math.pi * k / 8)) for k in range(8))]
    assert got == pytest.approx(expected)
    assert TrainSettings(schedule="constant", learning_rate=0.4).rate(0.9, 0.1) == 0.4
    assert TrainSettings(learning_rate=0.4).rate(1.0, 0.1) == pytest.approx(0)


def test_the_rate_falls_along_the_training(tmp_path):
    view = to_torch(conv_net())
    made = trainer(view, images(8), tmp_path, epochs=4, learning_rate=0.1).run()
    expected = [0.05 * (1 + math.cos(math.pi * step / 8)) for step in (1, 3, 5, 7)]
    assert [epoch.rate for epoch in made.history] == pytest.approx(expected)


def test_decay_spares_biases_and_norms(tmp_path):
    class Nothing(Loss):
        def forward(self, outputs, labels, taught):
            return 0 * outputs[0].sum()

    view = to_torch(conv_net())
    before = state(view)
    trainer(view, images(8), tmp_path, loss=Nothing(), epochs=1, weight_decay=0.1, momentum=0).run()
    after = state(view)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"conv1.W", "conv2.W", "fc.B", "bn1.input_mean", "bn1.input_var"}


# What is trained


def test_norms_measure_or_keep_their_statistics(tmp_path):
    for freeze in (False, True):
        view = to_torch(conv_net())
        before = state(view)
        trainer(view, images(8), tmp_path / str(freeze), epochs=1, freeze_norms=freeze).run()
        after = state(view)
        assert torch.equal(before["bn1.input_mean"], after["bn1.input_mean"]) is freeze
        assert not torch.equal(before["bn1.scale"], after["bn1.scale"])
        assert not view.training


def test_frozen_weights_stay_and_a_frozen_norm_measures_nothing(tmp_path):
    view = to_torch(conv_net())
    for name, tensor in view.named_parameters():
        tensor.requires_grad_(name.startswith("fc"))
    before = state(view)
    trainer(view, images(8), tmp_path, epochs=1).run()
    changed = {name for name, tensor in state(view).items() if not torch.equal(before[name], tensor)}
    assert changed == {"fc.B", "fc.C"}
    assert [name for name, tensor in view.named_parameters() if tensor.requires_grad] == ["fc.B", "fc.C"]
    for tensor in view.parameters():
        tensor.requires_grad_(False)
    with pytest.raises(UsageError, match="no weight to train"):
        trainer(view, images(8), tmp_path, epochs=1).run()


def test_half_precision_weights_are_refused(tmp_path):
    view = to_torch(conv_net(norm=False))
    for module in view.modules():
        for name, tensor in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(tensor.detach().half()))
    samples = images(8)
    half = type(samples)(inputs={"x": samples.inputs["x"].astype(np.float16)}, labels=samples.labels, batch=4)
    with pytest.raises(UsageError, match=r"weights are torch\.float16"):
        trainer(view, half, tmp_path, epochs=1).run()


def test_bf16_on_the_cpu(tmp_path):
    view = to_torch(conv_net(norm=True))
    made = trainer(view, images(60), tmp_path, epochs=6, precision="bf16", learning_rate=0.1,
                   validation=images(20, seed=1)).run()  # fmt: skip
    assert view.conv1.W.dtype == torch.float32
    assert made.history[-1].score > 0.8, "the labels follow from the images"
    with pytest.raises(UsageError, match="fp16 needs CUDA"):
        trainer(view, images(8), tmp_path, epochs=1, precision="fp16").run()


@pytest.mark.gpu
def test_fp16_on_cuda(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA")
    view = to_torch(conv_net())
    made = trainer(view, images(60), tmp_path, epochs=6, precision="fp16", learning_rate=0.1, device="cuda",
                   validation=images(20, seed=1)).run()  # fmt: skip
    assert made.history[-1].score > 0.8


def test_labels_that_are_no_classes_of_the_network(tmp_path):
    samples = images(8)
    wrong = type(samples)(inputs=samples.inputs, labels=samples.labels + 5, batch=4)
    with pytest.raises(UsageError, match=r"a label \d, and the network has 3 classes"):
        trainer(to_torch(conv_net()), wrong, tmp_path, epochs=1).run()


# Going on


class Recorder(Hook):
    """Counts steps, as part of the state; may press Ctrl-C."""

    def __init__(self, interrupt_at=None):
        self.count, self.interrupt_at = 0, interrupt_at

    def after_step(self, fraction):
        self.count += 1
        if self.count == self.interrupt_at:
            raise KeyboardInterrupt

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


def resumable(folder, hook, *, optimizer):
    teacher = to_torch(conv_net(channels=8, seed=1))
    view = to_torch(conv_net())
    loss = Distillation(2.0, 0.5, features="relu1")
    made = trainer(view, images(40), folder, loss=loss, epochs=4, optimizer=optimizer, warmup=0.1, accumulate=3,
                   validation=images(12, seed=1), teacher=teacher, hooks=[hook], flip=True, shift=1)  # fmt: skip
    return view, made, loss


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_that_was_cut_off_goes_on_to_the_bit(tmp_path, optimizer):
    whole_view, whole, whole_loss = resumable(tmp_path / "whole", Recorder(), optimizer=optimizer)
    expected = whole.run()
    first, cut, _ = resumable(tmp_path / "cut", Recorder(interrupt_at=11), optimizer=optimizer)  # in epoch 3
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert cut.checkpoint.file.exists()
    assert not same(state(first), state(whole_view))
    hook = Recorder()
    view, again, loss = resumable(tmp_path / "cut", hook, optimizer=optimizer)
    told = []
    again.report = lambda what, fraction: told.append(what)
    trained = again.run()
    assert told[0] == "goes on after epoch 2"
    assert trained == expected
    assert same(state(view), state(whole_view))
    assert same(loss.state_dict(), whole_loss.state_dict())
    assert hook.count == 4 * expected.best_epoch, "hooks too are as after the best epoch"


def test_a_checkpoint_of_another_training_is_not_taken_up(tmp_path):
    resumable(tmp_path, Recorder(), optimizer="sgd")[1].run()
    told = []
    for change in ({"epochs": 2}, {"seed": 1}, {"learning_rate": 0.02}):
        made = trainer(to_torch(conv_net()), images(8), tmp_path, **{"epochs": 1, **change})
        made.report = lambda what, fraction: told.append(what)
        made.run()
    assert not [what for what in told if "goes on" in what]
    assert len([path for path in tmp_path.iterdir() if path.name != EPOCHS]) == 4


def test_a_finished_training_is_not_done_again(tmp_path):
    view = to_torch(conv_net())
    first = trainer(view, images(8), tmp_path, epochs=2).run()
    again = to_torch(conv_net())
    assert trainer(again, images(8), tmp_path, epochs=2).run() == first
    assert same(state(view), state(again))


def test_a_broken_checkpoint_is_told(tmp_path):
    made = trainer(to_torch(conv_net()), images(8), tmp_path, epochs=1)
    made.run()
    made.checkpoint.file.write_bytes(b"nothing")
    with pytest.raises(StorageError, match="cannot be read"):
        trainer(to_torch(conv_net()), images(8), tmp_path, epochs=1).run()


# Stopping


class Scripted(Loss):
    """A loss that is trained on as usual and judged by a script."""

    def __init__(self, script):
        super().__init__()
        self.script, self.views = iter(script), []

    def start(self, view, teacher, inputs):
        self.views.append(view)  # in a list, so that it is no part of the loss

    def forward(self, outputs, labels, taught):
        loss = torch.nn.functional.cross_entropy(outputs[0], labels)
        return loss if self.views[0].training else loss * 0 + next(self.script)


def test_early_stop_keeps_the_best_epoch(tmp_path):
    view = to_torch(conv_net())
    seen = []

    class Watch(Hook):
        def after_epoch(self, epoch, epochs):
            seen.append(state(view))

    made = trainer(view, images(8), tmp_path, loss=Scripted([9.0, 3.0, 1.0, 2.0, 1.5, 0.5]), epochs=9, patience=2,
                   validation=images(4), hooks=[Watch()]).run()  # fmt: skip
    assert [epoch.held_out for epoch in made.history] == [3.0, 1.0, 2.0, 1.5]
    assert made.best_epoch == 2
    assert made.stopped == "nothing became better in 2 epochs"
    assert same(state(view), seen[1])


def test_training_that_makes_things_worse_is_undone(tmp_path):
    view = to_torch(conv_net())
    before = state(view)
    made = trainer(view, images(8), tmp_path, loss=Scripted([1.0, 3.0, 2.0]), epochs=2, validation=images(4)).run()
    assert made.best_epoch == 0
    assert same(state(view), before)


def test_the_last_epoch_is_kept_if_wanted_or_if_none_is_judged(tmp_path):
    for given in ({"keep_best": False, "validation": images(4)}, {}):
        view, seen = to_torch(conv_net()), []

        class Watch(Hook):
            def after_epoch(self, epoch, epochs, seen=seen, view=view):
                seen.append(state(view))

        loss = Scripted([1.0, 2.0])
        made = trainer(view, images(8), tmp_path / str(len(given)), loss=loss, epochs=2, hooks=[Watch()], **given).run()
        assert made.best_epoch == 2
        assert same(state(view), seen[-1])


def test_only_epochs_that_could_be_the_end_are_kept(tmp_path):
    class Late(Hook):
        fraction = 0.0
        ready = property(lambda self: self.fraction >= 0.7)

        def after_step(self, fraction):
            self.fraction = fraction

    made = trainer(to_torch(conv_net()), images(8), tmp_path, loss=Scripted([0.0, 1.0, 2.0, 5.0, 4.0]), epochs=4,
                   patience=1, validation=images(4), hooks=[Late()]).run()  # fmt: skip
    assert made.best_epoch == 4


def test_judged_by_the_score(tmp_path):
    made = trainer(to_torch(conv_net()), images(40), tmp_path, epochs=3, judge="score", learning_rate=0.05,
                   validation=images(20, seed=1)).run()  # fmt: skip
    scores = [epoch.score for epoch in made.history]
    assert made.best_epoch == 1 + scores.index(max(scores))
    teacher = to_torch(linear_net(np.eye(2)))
    with pytest.raises(UsageError, match="no classes to be right about"):
        trainer(to_torch(linear_net(np.eye(2))), rows(np.ones((8, 2)), None), tmp_path, loss=Distillation(), epochs=1,
                judge="score", teacher=teacher, validation=rows(np.ones((4, 2)), None)).run()  # fmt: skip


def test_samples_that_are_not_judged_count_nowhere(tmp_path):
    weight, x = np.diag([1.0, 2.0]), np.array([[3.0, 1.0], [1.0, 0.0], [0.5, 2.0]])
    labels = np.array([-100, 0, 1])
    settings = {"learning_rate": 0.1, "epochs": 2}
    made = trainer(to_torch(linear_net(weight, batch=1)), rows(x, labels, batch=1), tmp_path / "some", **settings)
    made.validation = rows(x, labels, batch=1)
    trained = made.run()
    scores = torch.from_numpy(x[1:]).float() @ made.view.fc.get_parameter("B").detach().T
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1]))
    assert trained.best_epoch == 2
    assert trained.history[-1].held_out == pytest.approx(float(expected), rel=1e-5)
    none = trainer(to_torch(linear_net(weight, batch=1)), rows(x, labels, batch=1), tmp_path / "none", **settings)
    none.validation = rows(x[:1], labels[:1], batch=1)
    trained = none.run()
    assert (trained.best_epoch, trained.history[-1].held_out) == (2, None)


def test_no_sample_of_a_short_held_out_part_counts_twice(tmp_path):
    x, labels = np.array([[3.0, 1.0], [1.0, 0.0], [0.5, 2.0]]), np.array([0, 0, 1])
    made = trainer(to_torch(linear_net(np.eye(2))), rows(x, labels), tmp_path, learning_rate=0.1, epochs=1)
    made.validation = rows(x, labels)
    trained = made.run()
    scores = torch.from_numpy(x).float() @ made.view.fc.get_parameter("B").detach().T
    assert trained.best_epoch == 1
    assert trained.history[-1].held_out == pytest.approx(
        float(torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels))), rel=1e-5
    )


def test_max_steps_and_max_seconds(tmp_path):
    made = trainer(to_torch(conv_net()), images(8), tmp_path, epochs=9, max_steps=3).run()
    assert (made.steps, made.stopped, len(made.history)) == (3, "max_steps, 3, is reached", 2)
    assert made.history[-1].rate == pytest.approx(0.005 * (1 + math.cos(math.pi * 2 / 3)))
    clock = FakeClock()

    class Slow(Hook):
        def before_step(self):
            clock.sleep(1)

    made = trainer(to_torch(conv_net()), images(8), tmp_path, epochs=9, max_seconds=4.0, hooks=[Slow()],
                   clock=clock).run()  # fmt: skip
    assert (made.steps, made.stopped) == (4, "max_seconds, 4, is reached")
    assert made.history[-1].rate == pytest.approx(0.005 * (1 + math.cos(math.pi * 0.75))), "the rate had fallen"


def test_nan_stops_and_keeps_the_best_weights(tmp_path):
    view, seen = to_torch(conv_net()), []

    class Breaking(Hook):
        def after_epoch(self, epoch, epochs):
            seen.append(state(view))

        def after_step(self, fraction):
            if len(seen) == 2:
                view.conv1.W.fill_(float("inf"))

    with pytest.raises(ModelError, match="the loss is nan in step 6, epoch 3; kept are the weights after epoch 2"):
        trainer(view, images(8), tmp_path, epochs=5, hooks=[Breaking()]).run()
    assert same(state(view), seen[1])
    first = to_torch(conv_net())
    before = state(first)
    with pytest.raises(ModelError, match="after epoch 0"):
        trainer(first, images(8), tmp_path, loss=Scripted([]), epochs=5, learning_rate=1e30, momentum=0).run()
    assert same(state(first), before)


def test_nothing_to_learn_is_told(tmp_path):
    class Constant(Loss):
        def forward(self, outputs, labels, taught):
            return torch.zeros(())

    with pytest.raises(UsageError, match="depends on no weight"):
        trainer(to_torch(conv_net()), images(8), tmp_path, loss=Constant(), epochs=1).run()
    with pytest.raises(UsageError, match="needs labels"):
        trainer(to_torch(conv_net()), images(8, classes=None), tmp_path, epochs=1).run()
    with pytest.raises(UsageError, match="patience needs held-out samples"):
        trainer(to_torch(conv_net()), images(8), tmp_path, epochs=1, patience=1)
    with pytest.raises(UsageError, match="needs a teacher"):
        trainer(to_torch(conv_net()), images(8), tmp_path, loss=Distillation(), epochs=1).run()
    assert trainer(to_torch(conv_net()), images(8), tmp_path, epochs=0).run().steps == 0


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("epochs", -1, ">= 0"),
        ("learning_rate", 0.0, "> 0"),
        ("learning_rate", math.nan, "> 0"),
        ("momentum", 1.0, "< 1"),
        ("warmup", 1.0, "< 1"),
        ("accumulate", 0, ">= 1"),
        ("clip_norm", -1.0, ">= 0"),
        ("max_seconds", 0.0, "> 0"),
        ("shift", -1, ">= 0"),
    ],
)
def test_settings_out_of_bounds_say_what_is_allowed(field, value, allowed):
    with pytest.raises(UsageError, match=field) as refused:
        TrainSettings(**{field: value})
    assert allowed in str(refused.value)


def test_settings_of_a_method_become_the_trainers():
    assert train_settings(TrainSettings(epochs=3), learning_rate=0.5) == TrainSettings(epochs=3, learning_rate=0.5)
