"""Masks, schedules and penalties, each alone; against schedules written down and proximal maps in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from train_nets import conv_net, images, linear_net, quiet, rows

torch = pytest.importorskip("torch", reason="training is done by torch")

from hwbench.torch_view.build import to_torch  # noqa: E402
from hwbench.train.gradual_pruning import GradualPruning, largest, largest_of_neighbours  # noqa: E402
from hwbench.train.hooks import HoldZeros  # noqa: E402
from hwbench.train.losses import TaskLoss  # noqa: E402
from hwbench.train.proximal import L1, GroupLasso  # noqa: E402
from hwbench.train.settings import TrainSettings  # noqa: E402
from hwbench.train.soft_pruning import SoftPruning  # noqa: E402
from hwbench.train.trainer import Trainer  # noqa: E402
from hwbench.train.unit_groups import Slice, UnitGroup  # noqa: E402
from hwbench.train.units import Units  # noqa: E402

FILTERS = UnitGroup(
    name="conv1",
    size=6,
    weights=[Slice(tensor="w1", axis=0, units=np.arange(6))],
    rest=[Slice(tensor=name, axis=-1, units=np.arange(6)) for name in ("g", "b", "m", "v")],  # m and v are no weights
)


def train(view, folder, hooks, *, samples=None, **given):
    given = {"epochs": 2, **given}
    Trainer(view, samples or images(24), TaskLoss(), TrainSettings(**given), hooks=hooks, folder=folder,
            report=quiet).run()  # fmt: skip


def rate(hook, value, momentum=0.0):
    hook.rate = value / (1 - momentum)
    return hook


# Zeros that are held


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_held_zeros_stay_and_do_not_disturb_the_rest(tmp_path, optimizer):
    views = [to_torch(conv_net()), to_torch(conv_net())]
    for view in views:
        with torch.no_grad():
            view.conv2.W[:, ::2] = 0
    mask = views[0].conv2.W == 0
    train(views[0], tmp_path / "held", [HoldZeros(views[0], {"w2", "not there"})], optimizer=optimizer, clip_norm=0.1)
    assert torch.equal(views[0].conv2.W == 0, mask)
    train(views[1], tmp_path / "free", [], optimizer=optimizer, clip_norm=0.1)
    assert not (views[1].conv2.W[:, ::2] == 0).any()
    assert not torch.equal(views[0].conv1.W, views[1].conv1.W), "the held zeros' gradients are not in the norm"


# Soft pruning


def test_the_smallest_go_and_may_come_back():
    view = to_torch(conv_net())
    hook = SoftPruning(view, [FILTERS], 0.5, settle=0.0)
    with torch.no_grad():
        view.conv1.W.copy_(torch.arange(1, 7, dtype=torch.float32)[:, None, None, None].expand_as(view.conv1.W))
        hook.after_epoch(1, 4)
        assert hook.removed() == {"conv1": [0, 1, 2]}
        assert [float(row.abs().max()) for row in view.conv1.W] == [0, 0, 0, 4, 5, 6]
        assert (view.bn1.scale == 1).all(), "norms are left to train while the choice is soft"
        view.conv1.W[1] = 9.0  # it was trained, and is worth more now
        hook.after_epoch(2, 4)
        assert hook.removed() == {"conv1": [0, 2, 3]}
        assert not hook.ready
        hook.after_step(1.0)
        assert hook.ready
        assert (view.conv1.W[[0, 2, 3]] == 0).all()
        assert (view.conv1.W[1] == 9).all()
        assert view.bn1.scale.tolist() == [0, 1, 0, 0, 1, 1]
        assert (view.bn1.input_var == 1).all(), "statistics are no weights"


def test_the_final_choice_is_held_while_the_rest_settles():
    view = to_torch(conv_net())
    hook = SoftPruning(view, [FILTERS], 0.5, settle=0.25)
    with torch.no_grad():
        hook.after_step(0.5)
        assert hook.removed() == {"conv1": []}
        hook.after_step(0.75)
        gone = hook.removed()["conv1"]
        view.conv1.W += 1
        hook.after_epoch(3, 4)
        hook.after_step(0.8)
        assert hook.removed()["conv1"] == gone
        assert (view.conv1.W[gone] == 0).all()


def test_soft_pruned_filters_do_come_back_in_training(tmp_path):
    view = to_torch(conv_net(channels=6))
    seen = []

    class Watched(SoftPruning):
        def after_epoch(self, epoch, epochs):
            before = (view.conv1.W.detach().abs().sum((1, 2, 3)) > 0).tolist()
            super().after_epoch(epoch, epochs)
            seen.append((before, self.removed()["conv1"]))

    train(view, tmp_path, [Watched(view, [FILTERS], 0.5, settle=0.2)], epochs=5, learning_rate=0.1)
    assert all(before == [True] * 6 for before, _ in seen[:3]), "zeroed filters go on being trained"
    assert len(seen[-1][1]) == 3
    assert (view.conv1.W[seen[-1][1]] == 0).all()
    assert (view.bn1.B[seen[-1][1]] == 0).all()


def test_one_unit_always_stays():
    view = to_torch(conv_net(channels=1))
    group = UnitGroup(name="conv1", size=1, weights=[Slice(tensor="w1", axis=0, units=np.arange(1))])
    hook = SoftPruning(view, [group], 0.99)
    with torch.no_grad():
        hook.after_step(1.0)
    assert hook.removed() == {"conv1": []}


def test_units_across_tensors_and_axes():
    """Unit 0 is row 1 of w1 and column 0 of w3; index 3 of w3's axis 1 is no unit's."""
    view = to_torch(conv_net(channels=2))
    slices = [
        Slice(tensor="w1", axis=0, units=np.array([1, 0])),
        Slice(tensor="w3", axis=1, units=np.array([0, 1, 1, -1])),
    ]
    units = Units(view, UnitGroup(name="u", size=2, weights=slices))
    w1, w3 = (tensor.detach().numpy().astype(float).copy() for tensor in (view.conv1.W, view.fc.B))
    expected = [(w1[1] ** 2).sum() + (w3[:, 0] ** 2).sum(), (w1[0] ** 2).sum() + (w3[:, 1:3] ** 2).sum()]
    np.testing.assert_allclose(units.norms().numpy() ** 2, expected)
    expected = [abs(w1[1]).sum() + abs(w3[:, 0]).sum(), abs(w1[0]).sum() + abs(w3[:, 1:3]).sum()]
    np.testing.assert_allclose(units.norms(1).numpy(), expected)
    units.scale(torch.tensor([0.0, 2.0]), rest=False)
    np.testing.assert_allclose(view.conv1.W.detach(), w1 * np.array([2, 0]).reshape(2, 1, 1, 1))
    np.testing.assert_allclose(view.fc.B.detach(), w3 * np.array([0, 2, 2, 1]), rtol=1e-6)


# Gradual pruning


def test_the_cubic_schedule():
    hook = GradualPruning(to_torch(conv_net()), {"w2": 1}, 0.8, begin=0.2, end=0.7)
    expected = {0.0: 0, 0.2: 0, 0.3: 1 - 0.8**3, 0.45: 1 - 0.5**3, 0.7: 1, 1.0: 1}
    assert {at: hook.share(at) for at in expected} == pytest.approx(expected)


def test_zeros_grow_as_the_schedule_says():
    view = to_torch(conv_net())
    hook = GradualPruning(view, {"w2": 1}, 0.75, begin=0.0, end=1.0, updates=4)
    size, counts = view.conv2.W.numel(), []
    hook.start(view)
    with torch.no_grad():
        for fraction in (0.1, 0.25, 0.4, 0.5, 0.75, 1.0):
            hook.after_step(fraction)
            view.conv2.W += (view.conv2.W == 0) * 0.01  # gradients move what was zero, and it is set back
            hook.after_step(fraction)
            counts.append(int((view.conv2.W == 0).sum()))
    shares = [
        1 - (1 - t) ** 3 for t in (0.1, 0.25, 0.25, 0.5, 0.75, 1.0)
    ]  # made anew four times, and at the first step
    assert counts == [round(0.75 * share * size) for share in shares]
    assert hook.ready


def test_weights_that_went_are_the_smallest_and_stay_gone(tmp_path):
    view = to_torch(conv_net())
    hook = GradualPruning(view, {"w1": 1, "w2": 1}, 0.5, end=0.5, scope="global")
    train(view, tmp_path, [hook], epochs=4, learning_rate=0.05)
    both = torch.cat([view.conv1.W.flatten(), view.conv2.W.flatten()])
    assert int((both == 0).sum()) == round(0.5 * both.numel())
    shares = [float((tensor == 0).float().mean()) for tensor in (view.conv1.W, view.conv2.W)]
    assert shares[0] != pytest.approx(shares[1]), "one threshold for all, not one each"


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.data())
@settings(deadline=None, max_examples=30)
def test_n_of_m_against_numpy(outer, blocks, kernel, axis, data):
    kept = data.draw(st.integers(1, 3))
    shape = [outer, kernel]
    shape.insert(axis, 4 * blocks)
    values = data.draw(arrays.arrays(np.float32, shape, elements=st.integers(0, 50).map(float), unique=False))
    mask = largest_of_neighbours(torch.from_numpy(values), axis, kept, 4).numpy()
    groups = np.moveaxis(mask, axis, -1).reshape(-1, 4)
    sizes = np.moveaxis(values, axis, -1).reshape(-1, 4)
    assert (groups.sum(1) == kept).all()
    for row, size in zip(groups, sizes, strict=True):
        assert size[row].sum() == np.sort(size)[-kept:].sum()


def test_n_of_m_in_training(tmp_path):
    view = to_torch(linear_net(np.random.default_rng(0).normal(size=(3, 8))))
    samples = rows(np.random.default_rng(1).normal(size=(40, 8)), np.zeros((40, 3), np.float32))
    train(view, tmp_path, [GradualPruning(view, {"w": 1}, 0, block=(2, 4))], samples=samples, epochs=3)
    assert ((view.fc.B.reshape(3, 2, 4) != 0).sum(-1) == 2).all()


def test_largest_is_exact_where_values_are_equal():
    mask = largest([torch.ones(7), torch.ones(3)], 0.5)
    assert sum(int((~part).sum()) for part in mask) == 5


# Penalties


@given(arrays.arrays(np.float32, 5, elements=st.floats(-2, 2, width=32)), st.floats(0.001, 1))
@settings(deadline=None, max_examples=30)
def test_l1_is_soft_thresholding(values, threshold):
    view = to_torch(linear_net(values.reshape(1, 5)))
    with torch.no_grad():
        rate(L1(view, ["w"], threshold), 1.0).after_step(0.5)
    expected = np.sign(values) * np.maximum(np.abs(values) - np.float32(threshold), 0)
    np.testing.assert_allclose(view.fc.B.detach().numpy()[0], expected, atol=1e-6)


def test_group_lasso_shrinks_whole_rows():
    weight = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    group = UnitGroup(name="fc", size=3, weights=[Slice(tensor="w", axis=0, units=np.arange(3))])
    view = to_torch(linear_net(weight))
    with torch.no_grad():
        rate(GroupLasso(view, [group], 0.5), 1.0).after_step(0.5)
    distance = 0.5 * 2**0.5
    expected = [np.array([3, 4]) * (1 - distance / 5), [0, 0], [0, 0]]
    np.testing.assert_allclose(view.fc.B.detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_point_of_rest_is_that_of_the_penalised_loss(tmp_path, momentum):
    """mean over 2 outputs of (w - a)^2 has gradient (w - a): with strength x |w| it rests at soft(a, strength)."""
    target = np.array([[0.8, -0.15]], np.float32)
    view = to_torch(linear_net(np.ones((2, 1)), batch=1))
    samples = rows(np.ones((300, 1)), np.repeat(target, 300, 0), batch=1)
    train(view, tmp_path, [L1(view, ["w"], 0.3)], samples=samples, epochs=1, learning_rate=0.1, momentum=momentum,
          weight_decay=0.0, schedule="constant")  # fmt: skip
    np.testing.assert_allclose(view.fc.B.detach().numpy()[:, 0], [0.5, 0.0], atol=1e-3)
    assert view.fc.B[1].item() == 0.0, "exactly"


def test_a_penalty_is_judged_at_the_end_only():
    hook = L1(to_torch(conv_net()), ["g"], 0.1)
    with torch.no_grad():
        rate(hook, 0.5).after_step(0.5)
        assert not hook.ready
        hook.after_step(1.0)
    assert hook.ready
    assert hook.reach == pytest.approx(2 * 0.1 * 0.5)
