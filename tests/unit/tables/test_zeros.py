"""Networks with zeros: real ones in the weights, their ratio to the dense network, and what stays offered."""

from __future__ import annotations

import made_costs
import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import sampled_nets
from made_costs import Machine, some_designs

from hwbench.errors import UsageError
from hwbench.graph.onnx_file import infer_shapes
from hwbench.plan.designs import uniform
from hwbench.plan.sites import FLOAT, INT8, space_of
from hwbench.records.base import Missing
from hwbench.records.planning import TWO_FOUR, Design, Option, SparseCost, Zeros
from hwbench.sparse.formats import FORMATS
from hwbench.tables.draw import Budget, drawn, first_designs, measure
from hwbench.tables.model import fit
from hwbench.tables.variant import variant
from hwbench.tables.zeros import measured, where_faster, zeros_designs

HALF = Zeros(format=TWO_FOUR, sparsity=0.5)
VW16 = Zeros(format="vw16", sparsity=0.7)


def option(scheme, zeros):
    return Option(name=f"{scheme} {zeros.format}", scheme=scheme, zeros=zeros)


def offering(space, *options, to=None):
    """The space with more options at the precision sites of some clusters."""
    sites = [
        msgspec.structs.replace(site, options=(*site.options, *options))
        if site.kind == "precision" and (to is None or site.about in to)
        else site
        for site in space.sites
    ]
    return msgspec.structs.replace(space, sites=tuple(sites))


@pytest.fixture(scope="module")
def space():
    return offering(made_costs.space(), option("float", HALF), option("int8", HALF), to=("0.a", "0.b", "1.a"))


class Skips(Machine):
    """Takes a factor of the time for a cluster with zeros; ``spread`` of each time, as a fraction."""

    def __init__(self, factors, spread=0.01, **more):
        super().__init__(**more)
        self.factors, self.spread = factors, spread

    def sample(self, space, design, number=0):
        plain = super().sample(space, design, number)
        times = [
            msgspec.structs.replace(
                time,
                time_s=time.time_s * (self.factors[time.cluster] if time.cluster in design.zeros else 1.0),
                spread_s=self.spread * time.time_s,
            )
            for time in plain.clusters
        ]
        return msgspec.structs.replace(plain, clusters=tuple(times))


FACTORS = {"0.a": 0.6, "0.b": 1.2, "1.a": 0.96}


def timed(machine, space):
    designs = [*first_designs(space), *zeros_designs(space)]
    return [machine.sample(space, design, number) for number, design in enumerate(designs)]


class TestDesigns:
    def test_one_for_each_way_in_all_layers_that_offer_it(self, space):
        names = ("0.a", "0.b", "1.a")
        whole = offering(space, option("float", VW16), to=("last",))
        assert zeros_designs(whole, floating="fp16") == [
            Design(floating="fp16", zeros=dict.fromkeys(names, HALF)),
            Design(floating="fp16", zeros=dict.fromkeys(names, HALF), schemes=dict.fromkeys(names, "int8")),
            Design(floating="fp16", zeros={"last": VW16}),
        ]

    def test_none_where_none_is_offered(self):
        assert zeros_designs(made_costs.space()) == []

    def test_uniform_and_drawn_designs_are_dense(self, space):
        assert first_designs(space) == first_designs(made_costs.space())
        assert not any(design.zeros for design in drawn(space, 20, measured=[]))

    def test_a_scheme_is_given_to_those_that_offer_it(self):
        space = offering(made_costs.space(), Option(name="fp8", scheme="fp8"), to=("0.a", "last"))
        assert [design.schemes for design in first_designs(space)][1:] == [
            uniform(space, "int8").schemes, {"0.a": "fp8", "last": "fp8"},
        ]  # fmt: skip


class TestMeasured:
    @pytest.mark.parametrize("slower", [(), (1.0, 1.0, 1.8, 1.3)])
    def test_the_ratio_is_that_of_the_cluster_at_one_pace(self, space, slower):
        found = {
            (each.cluster, each.scheme): each for each in measured(timed(Skips(FACTORS, slower=slower), space), space)
        }
        assert set(found) == {(name, scheme) for name in FACTORS for scheme in ("float", "int8")}
        for (name, _), cost in found.items():
            assert cost.ratio == pytest.approx(FACTORS[name], rel=1e-6)
            assert cost.basis == "network"
            assert cost.zeros == HALF

    def test_only_a_gain_beyond_the_noise_counts(self, space):
        def gaining(spread):
            costs = measured(timed(Skips(FACTORS, spread=spread), space), space)
            return {each.cluster for each in costs if each.gains}

        assert gaining(0.001) == {"0.a", "1.a"}
        assert gaining(0.02) == {"0.a"}
        assert gaining(0.5) == set()

    def test_dense_networks_that_differ_from_build_to_build_make_noise(self, space):
        machine = Skips(FACTORS, spread=0.001)
        samples = timed(machine, space)
        dense = [machine.sample(space, Design()) for _ in range(3)]
        for factor, sample in zip((0.5, 1.0, 1.8), dense, strict=True):
            times = tuple(msgspec.structs.replace(each, time_s=factor * each.time_s) for each in sample.clusters)
            samples.append(msgspec.structs.replace(sample, clusters=times))
        floats = [each for each in measured(samples, space) if each.scheme == "float"]
        assert min(each.error for each in floats) > 0.3  # two deviations of the dense times, times the ratio
        assert not any(each.gains for each in floats)
        assert {each.cluster for each in measured(samples, space) if each.gains} == {"0.a", "1.a"}  # in int8

    def test_what_was_built_otherwise_or_has_no_noise_is_left_out(self, space):
        samples = timed(Skips(FACTORS, refuses=("0.a",)), space)
        assert ("0.a", "int8") not in {(each.cluster, each.scheme) for each in measured(samples, space)}
        unknown = Missing(code="not_kept", why="not kept")
        old = [
            msgspec.structs.replace(
                each, clusters=tuple(msgspec.structs.replace(one, spread_s=unknown) for one in each.clusters)
            )
            for each in samples
        ]
        assert measured(old, space) == ()

    def test_a_shared_unit_is_told(self, space):
        samples = [
            msgspec.structs.replace(
                each, clusters=tuple(msgspec.structs.replace(one, shared=7) for one in each.clusters)
            )
            for each in timed(Skips(FACTORS), space)
        ]
        assert all("shared out over 7 layers" in each.why for each in measured(samples, space))


class TestOffered:
    def test_what_is_not_faster_goes_and_other_formats_stay(self, space):
        whole = offering(space, option("float", VW16), to=("0.b", "last"))
        left = where_faster(whole, measured(timed(Skips(FACTORS, spread=0.02), space), space))
        names = {site.about: [each.name for each in site.options] for site in left.sites if site.kind == "precision"}
        assert names["0.a"] == ["float", "int8", "float 2:4", "int8 2:4"]
        assert names["0.b"] == ["float", "int8", "float vw16"]
        assert names["1.a"] == ["float", "int8"]
        assert left.clusters == whole.clusters

    def test_what_was_not_timed_stays_beside_what_was(self, space):
        """One layer was timed at 70 %: nothing is known of 90 %, and nothing of the other layer."""
        more = Option(name="vw16 at 90 %", scheme="float", zeros=Zeros(format="vw16", sparsity=0.9))
        whole = offering(space, option("float", VW16), more, to=("0.b", "last"))
        slow = SparseCost(cluster="0.b", zeros=VW16, ratio=1.2, basis="network", why="timed")
        left = {site.about: site for site in where_faster(whole, (slow,)).sites if site.kind == "precision"}
        assert [each.zeros for each in left["0.b"].options if each.zeros] == [more.zeros]
        assert [each.zeros for each in left["last"].options if each.zeros] == [VW16, more.zeros]
        assert not any(each.zeros for each in left["0.a"].options), "2:4 must be timed"

    def test_a_site_with_nothing_left_goes(self, space):
        only = option("float", HALF)
        sites = tuple(
            msgspec.structs.replace(each, options=(FLOAT, only)) if each.name == "precision:0.b" else each
            for each in space.sites
        )
        left = where_faster(msgspec.structs.replace(space, sites=sites), ())
        assert "precision:0.b" not in {site.name for site in left.sites}
        assert [(each.about, each.reason.code) for each in left.left_alone] == [("0.b", "not_faster")]
        assert {each.name: each.precision for each in left.clusters}["0.b"] is None


def test_zeros_stay_out_of_dense_curves(space):
    machine = Skips(dict.fromkeys(FACTORS, 0.1))
    designs = [Design(), uniform(space, "int8"), *some_designs(space, 14)]
    dense = [machine.sample(space, design) for design in designs]
    zeros = [machine.sample(space, design) for design in zeros_designs(space)] * 5
    assert fit([*zeros, *dense], space, known=zeros).sum(space, Design()) == fit(dense, space).sum(space, Design())
    with pytest.raises(UsageError, match="costs need"):
        fit([*zeros, *dense[:5]], space)
    asked = []
    measure(space, lambda each: asked.extend(each) or [], budget=Budget(samples=4), known=zeros, elapsed_s=lambda: 0.0)
    assert Design() in asked, "networks with zeros do not stand for dense ones"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return sampled_nets.subject(tmp_path_factory.mktemp("subject"))


class TestVariant:
    def made(self, subject, folder, design, *options):
        ways = {"block.one": (INT8, *options), "wide": (INT8, *options)}
        space = space_of(subject.hub, subject.imported.model.hub_sha256, ways=ways)
        return variant(subject.hub, subject.imported, space, design, subject.calibration, folder / "v")

    def weights(self, made):
        graph = infer_shapes(ir.load(f"{made.files.folder}/{made.files.runtime_graph}")).graph
        found = {node.name: node.inputs[1] for node in graph if node.op_type in {"Conv", "Gemm"}}
        return {name: ir.convenience.get_const_tensor(value).numpy() for name, value in found.items()}

    def test_two_of_four_neighbours_are_zero(self, subject, tmp_path):
        design = Design(zeros={"block.one": HALF, "wide": HALF}, schemes={"wide": "int8"})
        made = self.made(subject, tmp_path, design, option("float", HALF), option("int8", HALF))
        weights = self.weights(made)
        conv = np.moveaxis(weights["block.one"], 1, -1).reshape(-1, 4)
        product = weights["wide"].T.reshape(-1, 4)
        assert (np.count_nonzero(conv, axis=1) == 2).all()
        assert (np.count_nonzero(product, axis=1) == 2).all()
        assert np.count_nonzero(weights["up"]) == weights["up"].size
        assert made.plan.kernels == {}

    def test_weights_for_a_kernel_pack(self, subject, tmp_path):
        made = self.made(subject, tmp_path, Design(zeros={"wide": VW16}), option("float", VW16))
        weight = self.weights(made)["wide"].T
        packed = FORMATS["vw16"].pack(weight)
        np.testing.assert_array_equal(FORMATS["vw16"].unpack(packed), weight.astype(np.float32))
        assert np.mean(weight == 0) == pytest.approx(0.7, abs=0.02)
        assert made.plan.kernels == {"wide": "vw16"}

    def test_what_became_two_factors_is_dense(self, subject, tmp_path):
        made = self.made(subject, tmp_path, Design(zeros={"wide": VW16}, ranks={"wide": 8}), option("float", VW16))
        assert all(np.count_nonzero(each) == each.size for each in self.weights(made).values())

    def test_a_layer_too_small_for_them_is_named(self, subject, tmp_path):
        wrong = Zeros(format="bsr32", sparsity=0.5)
        with pytest.raises(UsageError, match=r"layer 'block\.one' cannot have zeros for bsr32"):
            self.made(subject, tmp_path, Design(zeros={"block.one": wrong}), option("float", wrong))
