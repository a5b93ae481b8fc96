import numpy as np
import pytest
from fixtures_results import make_layers
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.energy.layers import fit_layers, time_share
from hwbench.energy.nnls import nnls
from hwbench.records.base import Missing
from hwbench.records.layer_energy import LayerEnergies, LayerEnergy, Variant

TRUE = {"a": 1.0, "b": 0.2, "c": 3.0, "d": 0.0}
NAMES = tuple(TRUE)


def variants(truth=TRUE, fixed_j=0.0, noise=None, spread_j=0.01, repeats=1):
    made = []
    for _ in range(repeats):
        for end in range(1, len(truth) + 1):
            names = tuple(truth)[:end]
            energy = fixed_j + sum(truth[name] for name in names)
            if noise is not None:
                energy += noise.normal(0, spread_j)
            made.append(Variant(name=names[-1], layers=names, energy_j=energy, standard_uncertainty_j=spread_j))
    return made


# the solver, against problems whose answer is known


def test_nnls_without_a_bound_in_force_is_least_squares():
    design = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert nnls(design, np.array([2.0, 3.0, 5.0])) == pytest.approx([2.0, 3.0])


def test_nnls_with_a_bound_in_force():
    """Least squares would say (3, -1); with x2 = 0 the best x1 is the mean of the first column's answers."""
    design = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert nnls(design, np.array([3.0, 2.0])) == pytest.approx([2.5, 0.0])


def test_nnls_of_nothing_but_negatives_is_zero():
    assert nnls(np.eye(3), -np.ones(3)) == pytest.approx([0.0, 0.0, 0.0])


def test_nnls_with_columns_of_very_unlike_size():
    design = np.array([[1e3, 0.0], [0.0, 1e-3]])
    assert nnls(design, np.array([2e3, 3e-3])) == pytest.approx([2.0, 3.0])


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000))
def test_nnls_satisfies_the_kuhn_tucker_conditions(seed):
    draw = np.random.default_rng(seed)
    design = draw.normal(size=(9, 6))
    seen = draw.normal(size=9)
    x = nnls(design, seen)
    gradient = design.T @ (seen - design @ x)
    assert (x >= 0).all()
    assert gradient.max() <= 1e-7
    assert np.abs(gradient[x > 1e-9]).max(initial=0.0) <= 1e-7


# layers


def test_a_fit_over_prefixes_finds_each_layer():
    found = fit_layers(NAMES, variants())
    assert isinstance(found, LayerEnergies)
    assert found.method == "fit"
    assert {row.layers[0]: row.energy_j for row in found.rows} == pytest.approx(TRUE, abs=1e-9)
    assert found.total_j == pytest.approx(4.2)
    assert found.unattributed_j == pytest.approx(0.0, abs=1e-9)
    assert found.residual_j == pytest.approx(0.0, abs=1e-9)
    assert "assumes that a layer costs the same" in found.basis


def test_a_layer_never_gets_less_than_nothing():
    """A prefix that drew less than a shorter one, by noise."""
    given_ = variants()
    given_[3] = Variant(name="d", layers=NAMES, energy_j=4.1, standard_uncertainty_j=0.01)
    found = fit_layers(NAMES, given_)
    assert min(row.energy_j for row in found.rows) == 0.0
    assert found.residual_j > 0


def test_the_interval_holds_the_truth_most_of_the_time():
    held, asked = 0, 0
    for seed in range(25):
        found = fit_layers(NAMES, variants(noise=np.random.default_rng(seed), repeats=2), seed=seed)
        for row in found.rows[:3]:
            asked += 1
            held += row.low_j <= TRUE[row.layers[0]] <= row.high_j
    assert held / asked > 0.85


def test_layers_that_always_go_together_are_one_row():
    pairs = [
        Variant(name="1", layers=("a", "b"), energy_j=1.2, standard_uncertainty_j=0.01),
        Variant(name="2", layers=NAMES, energy_j=4.2, standard_uncertainty_j=0.01),
    ]
    found = fit_layers(NAMES, pairs)
    assert [row.layers for row in found.rows] == [("a", "b"), ("c", "d")]
    assert [row.energy_j for row in found.rows] == pytest.approx([1.2, 3.0])


def test_a_fixed_cost_is_found_where_the_variants_tell_it():
    """Beside the prefixes, a variant of single layers."""
    more = [*variants(fixed_j=0.5), Variant(name="b", layers=("b",), energy_j=0.7, standard_uncertainty_j=0.01)]
    found = fit_layers(NAMES, more)
    assert {row.layers[0]: row.energy_j for row in found.rows} == pytest.approx(TRUE, abs=1e-6)
    assert found.unattributed_j == pytest.approx(0.5)
    assert "fixed cost" in found.basis


def test_too_few_variants_and_those_that_hang_together():
    assert fit_layers(NAMES, [*variants()[:1], *variants()[3:]]).rows[0].layers == ("a",)
    half = [
        Variant(name=name, layers=layers, energy_j=1.0, standard_uncertainty_j=0.1)
        for name, layers in (("ab", ("a", "b")), ("bc", ("b", "c")))
    ]
    assert fit_layers(("a", "b", "c"), half).code == "too_few_variants"
    ring = [
        *half,
        Variant(name="cd", layers=("c", "d"), energy_j=1.0, standard_uncertainty_j=0.1),
        Variant(name="da", layers=("d", "a"), energy_j=1.0, standard_uncertainty_j=0.1),
    ]
    assert fit_layers(NAMES, ring).code == "not_identifiable"


def test_time_share_adds_up_and_says_what_it_is():
    table = make_layers(0.01, "fp32", fused=True)
    found = time_share(table, 2.0)
    assert found.method == "time_share"
    assert sum(row.energy_j for row in found.rows) + found.unattributed_j == pytest.approx(2.0)
    first = table.rows[0]
    assert found.rows[0].energy_j == pytest.approx(first.share * 2.0)
    assert isinstance(found.rows[0].low_j, Missing)
    assert "assumes" in found.basis


def test_a_table_that_does_not_add_up_is_refused():
    row = LayerEnergy(layers=("a",), energy_j=1.0, low_j=0.9, high_j=1.1)
    with pytest.raises(ValueError, match="add up"):
        LayerEnergies(method="fit", rows=(row,), total_j=3.0, unattributed_j=0.0, residual_j=0.0, basis="")
