"""Losses against closed forms, numbers worked out by hand, and torch.nn.functional."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_nets import conv_net, linear_net, sequence_net

torch = pytest.importorskip("torch", reason="training is done by torch")
F = torch.nn.functional

from hwbench.errors import ModelError, UsageError  # noqa: E402
from hwbench.torch_view.build import to_torch  # noqa: E402
from hwbench.train.distillation import Distillation, soft_divergence  # noqa: E402
from hwbench.train.features import attention_error, normalised_error  # noqa: E402
from hwbench.train.losses import TaskLoss, label_free_loss, right, task_loss  # noqa: E402
from hwbench.train.outputs import class_axes, output_kinds  # noqa: E402


def test_cross_entropy_by_hand():
    scores = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    loss = task_loss(scores, torch.tensor([0, 2]))
    assert float(loss) == pytest.approx(-(math.log(0.7) + math.log(0.8)) / 2)


def test_probabilities_are_not_softened_again():
    chance = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.1, 0.9]], requires_grad=True)
    loss = task_loss((chance,), torch.tensor([0, 2]), kind="probabilities")
    assert loss.item() == pytest.approx(-(math.log(0.7) + math.log(0.9)) / 2, rel=1e-6)
    loss.backward()
    assert torch.isfinite(chance.grad).all()


def test_tokens_and_maps_and_what_is_not_judged():
    torch.manual_seed(0)
    tokens, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[0, 3] = -100
    expected = F.cross_entropy(tokens.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(task_loss(tokens, labels), expected)
    maps, pixels = torch.randn(2, 7, 3, 4), torch.randint(0, 7, (2, 3, 4))
    torch.testing.assert_close(task_loss(maps, pixels), F.cross_entropy(maps, pixels))
    assert right(tokens, labels)[1] == 9


@pytest.mark.parametrize("shape", [(4, 1), (4,)])
def test_labels_in_a_column_and_scores_with_empty_space(shape):
    scores, labels = torch.randn(4, 6), torch.randint(0, 6, (4,))
    torch.testing.assert_close(task_loss(scores, labels.reshape(shape)), F.cross_entropy(scores, labels))
    torch.testing.assert_close(task_loss(scores[..., None, None], labels), F.cross_entropy(scores, labels))


def test_values_are_compared_by_their_square():
    output, target = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])
    assert float(task_loss(output, target)) == pytest.approx((1 + 4) / 2)


def test_labels_that_fit_nothing_are_refused():
    with pytest.raises(UsageError, match=r"labels of shape \(3,\) do not fit an output of shape \(2, 5\)"):
        task_loss(torch.zeros(2, 5), torch.zeros(3, dtype=torch.long))
    with pytest.raises(UsageError, match="do not fit"):
        task_loss(torch.zeros(2, 5), torch.zeros(3))


@settings(deadline=None, max_examples=30)
@given(st.floats(0.5, 20), st.integers(2, 6))
def test_soft_divergence_is_the_definition(temperature, classes):
    rng = np.random.default_rng(classes)
    mine, theirs = rng.normal(size=(2, 3, classes)) * 3
    p, q = (np.exp(v / temperature) / np.exp(v / temperature).sum(-1, keepdims=True) for v in (theirs, mine))
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1).mean()
    got = soft_divergence(torch.from_numpy(mine), torch.from_numpy(theirs), temperature)
    assert float(got) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_high_temperature_matches_logits():
    """Hinton et al.: for T -> infinity the gradient is (z - v) / N^2 for zero-mean logits, a squared distance."""
    torch.manual_seed(0)
    mine, theirs = torch.randn(1, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    mine, theirs = (mine - mine.mean()).requires_grad_(), theirs - theirs.mean()
    soft_divergence(mine, theirs, 1e4).backward()
    torch.testing.assert_close(mine.grad, (mine - theirs).detach() / 4, rtol=1e-3, atol=1e-5)


def test_normalised_error_and_attention_by_hand():
    mine, theirs = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])
    assert float(normalised_error(mine, theirs)) == pytest.approx(4 / 17)
    one, other = torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)
    one[0, :, 0, 0] = torch.tensor([3.0, 4.0])  # map (25, 0), scaled (1, 0)
    other[0, 0, 0] = torch.tensor([2.0, 2.0])  # map (4, 4), scaled (1, 1) / sqrt 2
    assert float(attention_error(one, other)) == pytest.approx((1 - 0.5**0.5) ** 2 + 0.5)
    assert float(attention_error(5 * one, one)) == pytest.approx(0, abs=1e-12)


def test_label_free_loss_gives_the_true_fisher():
    """For logits z, E[g g^T] is diag(p) - p p^T, the Fisher information of a softmax."""
    chance, draws = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 100_000
    scores = torch.log(chance).repeat(draws, 1).requires_grad_()
    loss = label_free_loss(scores, np.random.default_rng(0), kinds=["logits"])
    (gradient,) = torch.autograd.grad(draws * loss, scores)
    fisher = gradient.T @ gradient / draws
    torch.testing.assert_close(fisher, torch.diag(chance) - chance[:, None] * chance, atol=0.005, rtol=0)


def test_label_free_loss_of_values_gives_the_squared_jacobian():
    torch.manual_seed(0)
    weight, draws = torch.randn(5, 3, dtype=torch.float64), 100_000
    x = torch.zeros(draws, 3, dtype=torch.float64, requires_grad=True)
    loss = label_free_loss((x @ weight.T,), np.random.default_rng(0), kinds=["values"])
    (gradient,) = torch.autograd.grad(draws * loss, x)
    torch.testing.assert_close((gradient**2).mean(0), (weight**2).sum(0), rtol=0.03, atol=0)


def test_label_free_loss_needs_an_output_in_floating_point():
    with pytest.raises(UsageError, match="no output is in floating point"):
        label_free_loss(torch.zeros(2, 3, dtype=torch.long), np.random.default_rng(0))


def test_kinds_of_outputs():
    view = to_torch(linear_net(np.eye(3), softmax=True))
    x = torch.randn(4, 3)
    assert output_kinds(view, view(x), [x]) == ["probabilities"]
    view = to_torch(linear_net(np.ones((5, 3))))
    assert output_kinds(view, view(x), [x]) == ["logits"]
    view = to_torch(linear_net(np.eye(3)))  # the shape of its input: an autoencoder
    assert output_kinds(view, view(x), [x]) == ["values"]


@pytest.mark.parametrize(
    ("softmax", "transposed", "kind", "axis"),
    [
        (None, False, "logits", 1),
        (None, True, "logits", 2),
        (1, False, "probabilities", 1),
        (2, False, "probabilities", 2),
    ],
)
def test_classes_of_sequences_lie_where_the_last_layer_puts_them(softmax, transposed, kind, axis):
    torch.manual_seed(0)
    x = torch.randn(4, 2, 7)
    student, teacher = (to_torch(sequence_net(softmax, seed=seed, transposed=transposed)) for seed in (0, 1))
    (mine,), (theirs,) = student(x), teacher(x)
    assert output_kinds(student, [mine], [x]) == [kind]
    assert class_axes(student, [mine]) == [axis]
    loss = Distillation(2.0)
    loss.start(student, teacher, [x])
    scores = [value.log() if softmax else value for value in (mine, theirs)]
    expected = soft_divergence(*(value.movedim(axis, -1) for value in scores), 2.0)
    torch.testing.assert_close(loss([mine], None, [theirs]), expected)
    assert loss.score([mine], None, [theirs]) == (
        int((mine.argmax(axis) == theirs.argmax(axis)).sum()),
        4 * mine[0].numel() // mine.shape[axis],
    )


def test_a_softmax_at_the_end_is_seen_by_the_losses():
    x, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    weight = np.diag([1.0, 2, 3])
    plain, softened = to_torch(linear_net(weight)), to_torch(linear_net(weight, softmax=True))
    loss = TaskLoss()
    loss.start(softened, None, [x])
    torch.testing.assert_close(loss(softened(x), labels, None), F.cross_entropy(plain(x)[0], labels))
    taught = Distillation(3.0)
    other = to_torch(linear_net(np.eye(3), softmax=True))
    taught.start(softened, other, [x])
    expected = soft_divergence(plain(x)[0], x, 3.0)
    torch.testing.assert_close(taught(softened(x), None, other(x)), expected)


def test_distillation_mixes_labels_features_and_attention():
    torch.manual_seed(0)
    x, labels = torch.randn(4, 2, 5, 5), torch.tensor([0, 1, 2, 0])
    student, teacher = to_torch(conv_net(channels=4)), to_torch(conv_net(channels=6, seed=1))
    loss = Distillation(2.0, 0.7, features="relu1|conv2", attention="conv2", feature_weight=3.0, attention_weight=5.0)
    loss.start(student, teacher, [x])
    assert list(loss.adapters) == ["adapter0"], "only relu1 has other channels"
    got = loss(student(x), labels, teacher(x))
    seen = [_of(view, x) for view in (student, teacher)]
    adapter = loss.adapters["adapter0"]
    mapped = adapter(seen[0]["relu1"].movedim(1, -1)).movedim(-1, 1)
    expected = (
        0.7 * soft_divergence(seen[0]["y"], seen[1]["y"], 2.0)
        + 0.3 * F.cross_entropy(seen[0]["y"], labels)
        + 3 * (normalised_error(mapped, seen[1]["relu1"]) + normalised_error(seen[0]["conv2"], seen[1]["conv2"])) / 2
        + 5 * attention_error(seen[0]["conv2"], seen[1]["conv2"])
    )
    torch.testing.assert_close(got, expected)
    got.backward()
    assert adapter.weight.grad.abs().sum() > 0
    loss.finish()
    assert not any(module._forward_hooks for module in student.modules())


def _of(view, x):
    seen, handles = {}, []
    for name in ("relu1", "conv2"):
        module = view.get_submodule(name)
        handles.append(module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out})))
    seen["y"] = view(x)[0]
    for handle in handles:
        handle.remove()
    return seen


def test_what_cannot_be_taught_is_refused():
    x = torch.randn(4, 2, 5, 5)
    student, teacher = to_torch(conv_net()), to_torch(conv_net(classes=5))
    with pytest.raises(UsageError, match="nothing to compare"):
        Distillation().start(student, teacher, [x])
    with pytest.raises(UsageError, match="no layer that both"):
        Distillation(features="nowhere").start(student, student, [x])
    with pytest.raises(UsageError, match="no regular expression"):
        Distillation(features="(").start(student, student, [x])
    with pytest.raises(UsageError, match="no attention map"):
        Distillation(attention="fc").start(student, student, [x])
    with pytest.raises(ModelError, match="NaN"):
        Distillation().start(student, student, [x * float("nan")])
    half = Distillation(alpha=0.5)
    half.start(student, student, [x])
    with pytest.raises(UsageError, match="needs labels"):
        half(student(x), None, student(x))


def test_values_are_taught_by_their_normalised_square():
    x = torch.randn(4, 3)
    student, teacher = to_torch(linear_net(np.eye(3))), to_torch(linear_net(2 * np.eye(3)))
    loss = Distillation()
    loss.start(student, teacher, [x])
    assert loss(student(x), None, teacher(x)).item() == pytest.approx(0.25, rel=1e-5)
    assert loss.score(student(x), None, teacher(x)) is None
