import numpy as np
import onnx_ir as ir
import pytest
from compress_subjects import imported, run_ort, subject_of
from residual_graphs import residual_net
from stitched_nets import bench, mixed_net, small_samples
from structure_graphs import BATCH, TOKENS, WIDTH, Net, attended, heads_of, joined

torch = pytest.importorskip("torch", reason="patches are put into the torch view")

from hwbench.compress.repair.least_squares import reconstruct  # noqa: E402
from hwbench.compress.repair.match import match  # noqa: E402
from hwbench.compress.simulated import folded, simulated  # noqa: E402
from hwbench.compress.statistics.pairs import paired  # noqa: E402
from hwbench.errors import Unsupported, UsageError  # noqa: E402
from hwbench.graph.onnx_file import infer_shapes  # noqa: E402
from hwbench.plan.designs import design_of  # noqa: E402
from hwbench.quantize.weights import weight_scales  # noqa: E402
from hwbench.records.planning import Design, Zeros  # noqa: E402
from hwbench.sensitivity.masks import masked_exactly, refused_widths  # noqa: E402
from hwbench.sensitivity.stitch import Stitch  # noqa: E402
from hwbench.structure.blocks import residual_blocks  # noqa: E402
from hwbench.structure.cut import cut_groups  # noqa: E402
from hwbench.structure.drop import drop_block  # noqa: E402
from hwbench.structure.groups import Group, Member, channel_groups  # noqa: E402
from hwbench.structure.replace import replace_block, replaceable  # noqa: E402


def outputs_of(stitch, patch):
    """The first output on the first batch, the patch put in."""
    with torch.no_grad(), stitch.flow.patched(patch):
        return stitch.flow.outputs(stitch.flow.run(stitch.batches[0].values, 0, patch))[0].numpy()


def first_batch(network):
    return next(network.samples.in_order())[0]


def close(found, wanted, off=1e-5):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= off * np.abs(wanted).max()


class TestWidth:
    @pytest.mark.parametrize("name", ["mixed", "resnet8"])
    def test_without_refit_is_the_network_really_cut(self, name, tmp_path):
        model = mixed_net() if name == "mixed" else imported(name, tmp_path, batch=2)
        network, space, composer = bench(model, refit=False)
        stitch = Stitch(network)
        sites = [site for site in space.sites if site.kind == "width"]
        assert len(sites) > 2
        designs = [design_of(space, {site.name: len(site.options) - 1}) for site in sites]
        designs.append(design_of(space, {site.name: 1 for site in sites}))
        whole = outputs_of(stitch, composer.compose(Design()))
        for design in designs:
            copy = ir.from_proto(ir.to_proto(model))
            groups = {group.name: group for group in channel_groups(copy).groups}
            cut_groups(copy, [(groups[each], network.kept(each, units)) for each, units in design.widths.items()])
            (wanted, *_) = run_ort(copy, first_batch(network))
            found = outputs_of(stitch, composer.compose(design))
            close(found, wanted)
            assert np.abs(found - whole).max() > 1e-4 * np.abs(whole).max()

    def test_refit_is_what_compress_solves_for(self, tmp_path):
        model = mixed_net()
        network, _, composer = bench(model)
        for name, reader in (("stem", "b0.wide"), ("b0.wide", "b0.back"), ("hidden", "head")):
            keep = network.kept(name, network.groups[name].size // 2)
            subject = subject_of(folded(model), tmp_path, samples=network.samples)
            groups = {group.name: group for group in channel_groups(subject.model).groups}
            made = cut_groups(subject.model, [(groups[name], keep)])
            for (tensor, axis), indices in made.kept.items():
                subject.keep(tensor, axis, indices)
            ((one, pair),) = paired(subject, [match(subject, subject.layers()[reader])], own=False)
            assert reconstruct(subject, one, pair, network.damping) is not None
            wanted = subject.layers()[reader]
            patch = composer.compose(Design(widths={name: len(keep)}))
            layer = network.layers[reader]
            blocks = layer.to_blocks(patch.weights[reader, 1].astype(np.float64))
            left = np.sort(network.groups[name].consumers[reader][keep].reshape(-1))
            close(blocks[:, :, left], wanted.blocks(), 2e-5)
            assert not np.delete(blocks, left, axis=2).any()
            close(patch.weights[reader, 2].reshape(-1), wanted.bias(), 2e-5)

    def test_two_groups_that_one_layer_reads_are_refitted_once_and_in_any_order(self):
        net = Net(2, 3, 4, 4)
        one, two = (net.node("Relu", net.conv("x", 3, 16, 3, name=name)) for name in ("one", "two"))
        both = net.conv(net.node("Concat", one, two, axis=1), 32, 8, name="both")
        model = net.model(net.pooled(net.node("Relu", both), 8))
        network, _, composer = bench(model)
        patch = composer.compose(Design(widths={"one": 8, "two": 8}))
        again = bench(model)[2].compose(Design(widths={"two": 8, "one": 8}))
        assert patch.weights.keys() == again.weights.keys() == {("both", 1), ("both", 2)}
        assert all(np.array_equal(array, again.weights[place]) for place, array in patch.weights.items())
        gram = network.gram("both")
        moments = gram.matrix[0] - np.outer(gram.mean[0], gram.mean[0])
        keep = np.concatenate([network.kept("one", 8), 16 + network.kept("two", 8)])
        old = network.layers["both"].blocks()[0, :, :, 0]
        size = network.damping * moments[np.ix_(keep, keep)].diagonal().mean()
        damped = moments[np.ix_(keep, keep)] + size * np.eye(16)
        wanted = (old @ moments[:, keep] + size * old[:, keep]) @ np.linalg.inv(damped)
        close(patch.weights["both", 1][:, keep, 0, 0], wanted)

    @pytest.mark.parametrize(("norm", "code"), [("LayerNormalization", "normalised"), ("ReduceMax", "mixed")])
    def test_channels_that_are_taken_together_are_refused(self, norm, code):
        """What groups are found today has no such channels: the rule is told a group that has."""
        net = Net(2, 5, 8)
        x = net.linear("x", 8, 16, "embed")
        if norm == "LayerNormalization":
            y = net.node(norm, x, net.random(16), net.random(16), axis=-1)
        else:
            y = net.node("Sub", x, net.node(norm, x, net.constant(np.array([-1], np.int64)), keepdims=1))
        hidden = net.node("Relu", net.linear(net.node("Add", y, x), 16, 24, "up"))
        network = bench(net.model(net.linear(hidden, 24, 3, "head")), refit=False)[0]
        assert not refused_widths(network.hub)
        stream = next(node.outputs[0] for node in network.model.graph if node.name == "embed/Add")
        member = Member(value=stream, axis=2, indices=np.arange(16)[:, None], reader=None)
        every = np.arange(16)[:, None]
        group = Group(name="embed", kind="channels", size=16, members=(member,), producers={"embed": every},
                      consumers={"up": every})  # fmt: skip
        assert masked_exactly(group, network.layers).code == code
        assert masked_exactly(network.groups["up"], network.layers) is None

    def test_attention_heads_and_hidden_units(self):
        net = Net(BATCH, TOKENS, WIDTH)
        q, k, v = (heads_of(net, net.linear("x", WIDTH, 8, name), 2) for name in ("q", "k", "v"))
        hidden = net.node("Relu", net.linear(joined(net, attended(net, q, k, v), 2), WIDTH, 16, "up"))
        model = net.model(net.linear(hidden, 16, WIDTH, "down"))
        network, space, composer = bench(model, refit=False)
        stitch = Stitch(network)
        for site in (site for site in space.sites if site.kind == "width"):
            design = design_of(space, {site.name: 1})
            copy = ir.from_proto(ir.to_proto(model))
            group = next(each for each in channel_groups(copy).groups if each.name == site.about)
            cut_groups(copy, [(group, network.kept(site.about, design.widths[site.about]))])
            close(outputs_of(stitch, composer.compose(design)), run_ort(copy, first_batch(network))[0])
        assert {network.groups[site.about].kind for site in space.sites if site.kind == "width"} == {"heads", "columns"}


def test_a_dropped_block_is_the_network_without_it():
    model = mixed_net()
    network, space, composer = bench(model)
    for name in ("b0", "b1"):
        copy = ir.from_proto(ir.to_proto(model))
        drop_block(copy, next(block for block in residual_blocks(copy) if block.name == name))
        patch = composer.compose(Design(dropped=(name,)))
        close(outputs_of(Stitch(network), patch), run_ort(copy, first_batch(network))[0])
    assert {site.about for site in space.sites if site.kind == "depth"} == {"b0", "b1"}


class TestReplace:
    """A block that one layer stands for, beside the network that is really made so."""

    def made(self, network, names):
        copy = network.model.clone()
        ways = {block.name: replaceable(block) for block in residual_blocks(copy)}
        for name in names:
            found = network.stand_in(name)
            replace_block(copy, ways[name], found.blocks, found.bias)
        return infer_shapes(copy)

    @pytest.mark.parametrize("names", [("block.0",), ("block.2",), ("block.0", "block.1")])
    def test_is_the_network_with_one_layer(self, names):
        network, space, composer = bench(residual_net())
        assert {site.about for site in space.sites if site.kind == "replace"} == {"block.0", "block.1", "block.2"}
        patch = composer.compose(
            Design(replaced=names, widths={f"{names[0]}.one": 2})
        )  # of channels that are not there
        close(outputs_of(Stitch(network), patch), run_ort(self.made(network, names), first_batch(network))[0])

    def test_comes_nearer_than_dropping_it(self):
        network, _, composer = bench(residual_net(), samples=small_samples(residual_net(), 64))
        stitch = Stitch(network)
        lost = [stitch.judge(composer.compose(design), what="it").divergence
                for design in (Design(replaced=("block.0",)), Design(dropped=("block.0",)))]  # fmt: skip
        assert lost[0] < 0.75 * lost[1]

    @pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
    def test_in_integers_it_is_rounded_as_the_network_with_one_layer_is(self, monkeypatch, runtime):
        network, space, composer = bench(residual_net(), ranges=True, runtime=runtime)
        monkeypatch.setattr(network, "mean", lambda layer: None)  # the simulation has no correction of biases
        every = [site.about for site in space.sites if site.kind == "precision"]
        design = Design(replaced=("block.1",), schemes=dict.fromkeys(every, "int8"))
        found = outputs_of(Stitch(network), composer.compose(design))
        made = self.made(network, ["block.1"])
        layers = [name for name in every if name != "block.1.two"]
        view = simulated(made, network.ranges_with(["block.1"]), layers, runtime=runtime, bits=8)
        inputs = [torch.from_numpy(array) for array in first_batch(network).values()]
        with torch.no_grad():
            wanted = view(*inputs)[0].numpy()
        noise = np.linalg.norm(wanted - run_ort(made, first_batch(network))[0])
        assert noise > 0
        assert np.linalg.norm(found - wanted) <= 0.4 * noise

    def test_zeros_cannot_be_in_it(self):
        _, _, composer = bench(residual_net())
        zeros = {"block.0.one": Zeros(format="2:4", sparsity=0.5)}
        with pytest.raises(Unsupported, match=r"cannot stand for block .* and have zeros"):
            composer.compose(Design(replaced=("block.0",), zeros=zeros))


def test_low_rank_is_the_best_there_is_on_the_data():
    network, _, composer = bench(mixed_net(), samples=small_samples(mixed_net(), 64))
    blocks = composer.compose(Design(ranks={"hidden": 6})).weights["hidden", 1].astype(np.float64)
    gram, weight = network.gram("hidden").matrix[0], network.layers["hidden"].weight
    assert np.linalg.matrix_rank(blocks, tol=1e-4 * np.linalg.norm(blocks, 2)) == 6
    values = np.linalg.svd(
        weight @ np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(gram))), compute_uv=False
    )
    least = float((values[6:] ** 2).sum())
    off = weight - blocks
    assert np.trace(off @ gram @ off.T) == pytest.approx(least, rel=0.02)


class TestPrecision:
    def test_one_layer_and_all_as_the_runtime_computes_them(self, monkeypatch):
        model = mixed_net()
        network, space, composer = bench(model, ranges=True)
        monkeypatch.setattr(network, "mean", lambda layer: None)  # the simulation has no correction of biases
        stitch = Stitch(network)
        every = [site.about for site in space.sites if site.kind == "precision"]
        whole = outputs_of(stitch, composer.compose(Design()))
        for layers in (["grouped"], ["b0.deep", "head"], every):
            patch = composer.compose(Design(schemes=dict.fromkeys(layers, "int8")))
            view = simulated(network.model, network.ranges, layers, runtime="onnxruntime", bits=8)
            inputs = [torch.from_numpy(array) for array in first_batch(network).values()]
            with torch.no_grad():
                wanted = view(*inputs)[0].numpy()
            found = outputs_of(stitch, patch)
            noise = np.linalg.norm(wanted - whole)
            assert noise > 0
            assert np.linalg.norm(found - wanted) <= 0.4 * noise  # a float that is rounded to the next step

    def test_a_narrowed_layer_is_rounded_after_its_refit(self):
        _, _, composer = bench(mixed_net(), ranges=True)
        narrow = composer.compose(Design(widths={"stem": 4})).weights["b0.wide", 1]
        both = composer.compose(Design(widths={"stem": 4}, schemes={"b0.wide": "int8"}))
        weight, scales = both.weights["b0.wide", 1], weight_scales(narrow, 0).reshape(-1, 1, 1, 1)
        steps = weight / scales
        assert np.abs(steps - np.rint(steps)).max() < 1e-3
        assert np.abs(weight - narrow).max() <= 0.51 * scales.max()
        assert "stem" not in {place[0] for place in both.weights}

    def test_a_layer_in_a_dropped_block_is_left_alone(self):
        _, _, composer = bench(mixed_net(), ranges=True)
        patch = composer.compose(Design(dropped=("b0",), schemes={"b0.wide": "int8"}, widths={"b0.wide": 16}))
        assert not patch.weights
        assert not patch.rounded
        assert patch.cut == {("b0.add", 1)}

    def test_what_is_wrong_is_said(self):
        _, _, composer = bench(mixed_net())
        with pytest.raises(UsageError, match="int8 needs ranges"):
            composer.compose(Design(schemes={"stem": "int8"}))
        with pytest.raises(UsageError, match="not of int4-weights"):
            composer.compose(Design(schemes={"stem": "int4-weights"}))
        with pytest.raises(UsageError, match="no group of channels 'nowhere'"):
            composer.compose(Design(widths={"nowhere": 3}))
        with pytest.raises(UsageError, match="no block 'b7'"):
            composer.compose(Design(dropped=("b7",)))
