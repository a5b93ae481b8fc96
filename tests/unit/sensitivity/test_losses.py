import itertools

import numpy as np
import pytest
from residual_graphs import residual_net
from stitched_nets import bench, mixed_net, small_samples
from structure_graphs import Net

torch = pytest.importorskip("torch", reason="patches are put into the torch view")

from hwbench.errors import UsageError  # noqa: E402
from hwbench.plan.designs import design_of  # noqa: E402
from hwbench.records.planning import Design, Loss, PairLoss, Sensitivity  # noqa: E402
from hwbench.records.sensitivity import SensitivitySettings, StitchAnswer  # noqa: E402
from hwbench.sensitivity.curve import filled, typical_factor  # noqa: E402
from hwbench.sensitivity.ledger import Ledger  # noqa: E402
from hwbench.sensitivity.near import near_pairs  # noqa: E402
from hwbench.sensitivity.patches import Patch  # noqa: E402
from hwbench.sensitivity.score import BROKEN, judged, measure_losses  # noqa: E402
from hwbench.sensitivity.screen import screened  # noqa: E402
from hwbench.sensitivity.spread import spread_pairs  # noqa: E402
from hwbench.sensitivity.stitch import Stitch  # noqa: E402


class TestCurve:
    SCREENS = (0.001, 0.004, 0.02, 0.5)

    def test_without_a_run_it_is_the_screen_times_a_factor(self):
        assert filled(self.SCREENS, {}, 3.0) == pytest.approx([3 * each for each in self.SCREENS])

    def test_of_one_run_the_others_are_proportional(self):
        assert filled(self.SCREENS, {1: 0.008}) == pytest.approx([0.002, 0.008, 0.04, 1.0])

    def test_between_two_runs_it_is_a_power_of_the_screen(self):
        found = filled(self.SCREENS, {0: 0.002, 3: 0.3})
        power = np.log(0.3 / 0.002) / np.log(0.5 / 0.001)
        assert found == pytest.approx([0.002 * (screen / 0.001) ** power for screen in self.SCREENS])

    def test_it_never_falls_between_runs_that_fall_and_keeps_them(self):
        found = filled(self.SCREENS, {0: 0.03, 3: 0.02})
        assert found[0] == 0.03
        assert found[3] == 0.02
        assert found[1] == found[2] == pytest.approx(0.03)

    def test_nothing_stays_nothing(self):
        assert filled((0.0, 0.0), {0: 0.0}) == [0.0, 0.0]
        assert typical_factor([0.0, 1.0, 2.0, 1.0], [0.0, 3.0, 4.0, 1.0]) == 2.0


class TestScreen:
    def test_is_the_divergence_to_second_order(self):
        """Over all classes, exactly: 0.5 sum_c p_c ((e_c - p) . dz)^2 for a linear layer of scores."""
        net = Net(32, 3, 4, seed=3)
        model = net.model(net.gemm(net.node("Flatten", "x"), 12, 5, "head"))
        network, _, _ = bench(model, samples=small_samples(model, 2048))
        stitch = Stitch(network)
        layer = network.layers["head"]
        off = 0.002 * np.random.default_rng(0).normal(size=layer.weight.shape)
        patch = Patch(weights={("head", 1): (layer.weight + off).astype(np.float32)})
        found, starts, count = screened(stitch, {"it": lambda: patch}, 2048)
        assert count == 2048
        x = network.samples.inputs["x"].reshape(2048, 12).astype(float)
        z, dz = x @ layer.weight.T + layer.bias(), x @ off.T
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        second = 0.5 * np.mean((p * dz**2).sum(1) - (p * dz).sum(1) ** 2)
        assert found["it"] == pytest.approx(second, rel=0.15)  # one draw a sample
        assert stitch.judge(patch, what="it").divergence == pytest.approx(second, rel=0.1)
        assert starts["it"] == stitch.flow.at_layer["head"]

    def test_orders_the_options_of_a_site_as_runs_do(self):
        network, space, composer = bench(mixed_net(8, blocks=1), samples=small_samples(mixed_net(8), 16))
        stitch = Stitch(network)
        site = next(site for site in space.sites if site.name == "width:b0.wide")
        designs = {str(at): design_of(space, {site.name: at}) for at in range(1, len(site.options))}
        found, _, _ = screened(
            stitch, {name: lambda d=design: composer.compose(d) for name, design in designs.items()}, 32
        )
        run = {name: stitch.judge(composer.compose(design), what=name).divergence for name, design in designs.items()}
        assert sorted(found, key=found.get) == sorted(run, key=run.get)

    def test_a_layer_that_stands_for_a_block_counts_by_what_the_block_puts_out(self):
        """Its output, that of the layer behind and the Add are all far from what they were, and belong together."""
        network, _, composer = bench(residual_net(), samples=small_samples(residual_net(), 64))
        stitch = Stitch(network)
        designs = {name: Design(replaced=(name,)) for name in network.blocks}
        told, starts, _ = screened(
            stitch, {name: lambda d=one: composer.compose(d) for name, one in designs.items()}, 64
        )
        run = {name: stitch.judge(composer.compose(one), what=name).divergence for name, one in designs.items()}
        ratios = [run[name] / told[name] for name in designs]
        assert max(ratios) < 4 * min(ratios)
        assert sorted(told, key=told.get) == sorted(run, key=run.get)
        assert starts["block.1"] == stitch.flow.at_layer["block.1.one"]


@pytest.fixture(scope="module")
def scene():
    """A network with small weights in its head, its space and what it takes to run it."""
    model = mixed_net(4, blocks=1)
    network, space, composer = bench(model, samples=small_samples(model, 8, classes=5), ranges=True)
    return network, space, composer, Stitch(network)


def measured(scene, folder, *, resume=False, clock=None, **settings):
    _, space, composer, stitch = scene
    ledger = Ledger(folder, "it", resume=resume)
    kwargs = {"screen_samples": 4, "budget_s": 1e6, "pairs": 12} | settings
    try:
        return measure_losses(
            space, stitch, composer, ledger, SensitivitySettings(**kwargs), clock=clock or (lambda: 0.0)
        )
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """The folder of a run that had all the time."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def whole(scene, state):
    """What it found."""
    return measured(scene, state)


class TestLosses:
    def test_every_option_has_a_loss_that_was_run(self, scene, whole):
        _, space, composer, stitch = scene
        found = whole
        options = [(site, place) for site in space.sites for place in range(1, len(site.options))]
        assert [(one.site, one.option) for one in found.losses] == [(s.name, s.options[at].name) for s, at in options]
        assert {one.how for one in found.losses} <= {"forward", "prefix"}
        for one, (site, place) in list(zip(found.losses, options, strict=True))[::5]:
            patch = composer.compose(design_of(space, {site.name: place}))
            assert one.divergence == stitch.judge(patch, what="it", samples=one.n, prefix=False).divergence
        assert {one.n for one in found.losses if one.divergence < 1} == {8}

    def test_pairs_are_what_two_lose_beyond_the_sum(self, scene, whole):
        _, space, composer, stitch = scene
        found = whole
        place = {(site.name, option.name): at for site in space.sites for at, option in enumerate(site.options)}
        near = near_pairs(space)
        assert len(found.pairs) == 12
        for pair in found.pairs[::4]:
            choices = [
                {pair.site: place[pair.site, pair.option]},
                {pair.other_site: place[pair.other_site, pair.other_option]},
            ]
            losses = [
                stitch.judge(composer.compose(design_of(space, choice)), what="it", samples=4).divergence
                for choice in (choices[0] | choices[1], *choices)
            ]
            assert pair.extra == pytest.approx(losses[0] - losses[1] - losses[2], abs=1e-12)
            assert frozenset({pair.site, pair.other_site}) in near

    def test_without_time_nothing_is_run_and_that_is_told(self, scene, tmp_path):
        found = measured(scene, tmp_path, budget_s=0.0, clock=itertools.count().__next__)
        assert {one.how for one in found.losses} == {"screened"}
        assert not found.pairs
        assert any("options were not run for want of time" in note for note in found.notes)
        assert all(np.isfinite(one.divergence) for one in found.losses)

    def test_with_some_time_each_site_is_run_before_any_is_run_twice(self, scene, whole, tmp_path):
        _, space, _, _ = scene
        found = measured(scene, tmp_path, budget_s=70.0, pairs=0, clock=itertools.count().__next__)
        run = [one for one in found.losses if one.how != "screened"]
        assert len(space.sites) <= len(run) < len(found.losses)
        assert {one.site for one in run} == {site.name for site in space.sites}
        full = {(one.site, one.option): one.divergence for one in whole.losses}
        told = [(one.divergence, full[one.site, one.option]) for one in found.losses if one.how == "screened"]
        assert np.corrcoef(*np.log(np.maximum(np.array(told).T, 1e-9)))[0, 1] > 0.7

    def test_a_killed_run_goes_on(self, scene, whole, state, tmp_path, monkeypatch):
        lines = (state / "evaluated.jsonl").read_bytes().splitlines()
        (tmp_path / "evaluated.jsonl").write_bytes(b"\n".join(lines[:-3])[:-7])
        again = []
        judge = Stitch.judge
        monkeypatch.setattr(
            Stitch, "judge", lambda self, *args, **kw: again.append(kw["what"]) or judge(self, *args, **kw)
        )
        assert measured(scene, tmp_path, resume=True) == whole
        assert len(again) == 4
        assert (tmp_path / "evaluated.jsonl").read_bytes().splitlines()[:-4] == lines[:-4]


def test_pairs_of_other_options_go_with_the_lengths_of_both_changes():
    """Of a quadratic loss, whose options are lengths along one direction a site, that is exact."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(8, 8))
    hessian, directions = root @ root.T, rng.normal(size=(2, 8))

    def loss(*lengths):
        change = np.asarray(lengths) @ directions
        return 0.5 * change @ hessian @ change

    lengths = {"a": 0.1, "b": 0.3, "c": 1.0}
    losses = [
        Loss(site=site, option=name, divergence=loss(*length), n=1, how="forward")
        for name, size in lengths.items()
        for site, length in (("x", (size, 0)), ("y", (0, size)))
    ]

    def extra(one, other):
        return loss(lengths[one], lengths[other]) - loss(lengths[one], 0) - loss(0, lengths[other])

    run = PairLoss(site="x", option="b", other_site="y", other_option="a", extra=extra("b", "a"))
    found = spread_pairs(Sensitivity(hub_sha256="0", measure="kl", n=1, losses=tuple(losses), pairs=(run,), took_s=0.0))
    assert len(found.pairs) == 9
    assert all(pair.extra == pytest.approx(extra(pair.option, pair.other_option)) for pair in found.pairs)


class TestLedger:
    ANSWER = StitchAnswer(divergence=0.5, agreement=1.0, accuracy=0.5, n=8)

    def test_keeps_answers_by_design_and_samples(self, tmp_path):
        ledger = Ledger(tmp_path, "a", resume=False)
        ledger.enter(Design(dropped=("x", "y"), widths={"a": 1, "b": 2}), 8, self.ANSWER)
        ledger.close()
        again = Ledger(tmp_path, "a", resume=True)
        assert again.find(Design(dropped=("y", "x"), widths={"b": 2, "a": 1}, floating="bf16"), 8) == self.ANSWER
        assert again.find(Design(dropped=("x",), widths={"a": 1, "b": 2}), 8) is None
        assert again.find(Design(dropped=("x", "y"), widths={"a": 1, "b": 2}), 16) is None
        again.close()

    def test_of_something_else_is_refused_and_begun_anew_without_resume(self, tmp_path):
        ledger = Ledger(tmp_path, "a", resume=False)
        ledger.enter(Design(), 8, self.ANSWER)
        ledger.close()
        with pytest.raises(UsageError, match="losses of another network"):
            Ledger(tmp_path, "b", resume=True)
        anew = Ledger(tmp_path, "b", resume=False)
        assert anew.find(Design(), 8) is None
        anew.close()


def test_what_puts_out_nan_loses_more_than_any_plan_takes_and_ends_nothing(tmp_path):
    network, space, composer = bench(mixed_net(), ranges=True)
    stitch = Stitch(network)
    bad = Patch(weights={("b1.wide", 1): np.full((32, 16, 1, 1), np.nan, np.float32)})
    whole, compose = design_of(space, {"width:b1.wide": 1}), composer.compose
    composer.compose = lambda design, **more: bad if design == whole else compose(design, **more)
    ledger = Ledger(tmp_path, "it", resume=False)
    found = measure_losses(space, stitch, composer, ledger, SensitivitySettings(screen_samples=8, budget_s=60.0))
    ledger.close()
    site = next(each for each in space.sites if each.name == "width:b1.wide")
    losses = {each.option: each.divergence for each in found.losses if each.site == site.name}
    assert losses[site.options[1].name] == BROKEN > 1
    assert all(each.divergence < BROKEN for each in found.losses if each.site != site.name)
    assert sum("b1.wide' puts out NaN" in note for note in found.notes) == 1
    assert judged(stitch, composer, whole, "the design", None).broken.code == "not_finite"
    assert judged(stitch, composer, Design(), "the design", None).broken is None
