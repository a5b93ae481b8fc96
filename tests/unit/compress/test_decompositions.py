"""The decompositions against closed forms, descent, and tensorly where it is installed."""

import numpy as np
import pytest
from factor_graphs import conv, given, gram_of, layer_of, product
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st
from scipy import linalg, optimize

from hwbench.compress.factorise import cp, svd, tucker
from hwbench.compress.factorise.forms import FORMS, composed
from hwbench.compress.factorise.site import site_of
from hwbench.compress.factorise.spectrum import leading, relative_error


def low_rank_kernel(shape, rank, seed=0):
    rng = np.random.default_rng(seed)
    factors = [rng.standard_normal((size, rank)) for size in shape]
    return np.einsum("ar,br,cr,dr->abcd", *factors)


@cases(m=st.integers(1, 9), n=st.integers(1, 9), rank=st.integers(1, 9), seed=st.integers(0, 50))
def test_truncation_is_as_good_as_eckart_and_young_allow(m, n, rank, seed):
    matrix, rank = np.random.default_rng(seed).standard_normal((m, n)), min(rank, m, n)
    up, down = svd.truncated(matrix, rank)
    lost = (np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2).sum()
    assert np.linalg.norm(matrix - up @ down) ** 2 == pytest.approx(lost, abs=1e-9)
    np.testing.assert_allclose(np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=1), atol=1e-9)


@cases(
    m=st.integers(1, 7), n=st.integers(1, 7), rank=st.integers(1, 7), rows=st.integers(1, 30), seed=st.integers(0, 50)
)
def test_truncation_on_data_is_the_whitened_svd_also_for_too_few_rows(m, n, rank, rows, seed):
    """||(W - W') X|| is least: the part of W X that no matrix of the rank reaches (reduced rank regression)."""
    rng, rank = np.random.default_rng(seed), min(rank, m, n)
    weight, x = rng.standard_normal((m, n)), rng.standard_normal((rows, n)) @ rng.standard_normal((n, n))
    up, down = svd.truncated_on_data(weight, x.T @ x / rows, rank)
    lost = np.linalg.norm((weight - up @ down) @ x.T) ** 2
    possible = (np.linalg.svd(weight @ x.T, compute_uv=False)[rank:] ** 2).sum()
    assert lost == pytest.approx(possible, rel=1e-3, abs=1e-5 * np.linalg.norm(weight @ x.T) ** 2)


def test_truncation_on_data_is_svd_llm_where_the_gram_can_be_inverted():
    rng = np.random.default_rng(3)
    weight, x = rng.standard_normal((6, 5)), rng.standard_normal((400, 5)) @ rng.standard_normal((5, 5))
    gram = x.T @ x / len(x)
    root = linalg.cholesky(gram, lower=True)
    left, values, right = np.linalg.svd(weight @ root)
    expected = (left[:, :2] * values[:2]) @ right[:2] @ np.linalg.inv(root)
    up, down = svd.truncated_on_data(weight, gram, 2)
    np.testing.assert_allclose(up @ down, expected, atol=1e-3 * np.abs(expected).max())
    values = np.linalg.svd(weight @ root, compute_uv=False) ** 2
    np.testing.assert_allclose(svd.energies(weight, gram)[:5], values, rtol=1e-4, atol=1e-5)


def test_descent_finds_nothing_better_on_data():
    rng = np.random.default_rng(5)
    weight, x = rng.standard_normal((4, 5)), rng.standard_normal((60, 5)) * [5, 3, 1, 0.3, 0.1]
    gram = x.T @ x / len(x)

    def lost(flat):
        off = weight - flat[:8].reshape(4, 2) @ flat[8:].reshape(2, 5)
        return float(np.trace(off @ gram @ off.T))

    best = min(optimize.minimize(lost, np.random.default_rng(k).standard_normal(18)).fun for k in range(6))
    up, down = svd.truncated_on_data(weight, gram, 2)
    mine = relative_error(weight[None], (up @ down)[None], gram[None]) * np.trace(weight @ gram @ weight.T)
    assert mine == pytest.approx(best, rel=1e-3)
    blind = np.concatenate([part.ravel() for part in svd.truncated(weight, 2)])
    assert mine < 0.8 * lost(blind), "the data matter here"


def test_inputs_that_are_always_zero_leave_the_weights_alone_to_decide():
    weight = np.random.default_rng(0).standard_normal((4, 5))
    up, down = svd.truncated_on_data(weight, np.zeros((5, 5)), 2)
    np.testing.assert_allclose(up @ down, np.matmul(*svd.truncated(weight, 2)), atol=1e-10)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7)])
def test_all_left_directions_are_there_and_orthonormal(shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    vectors, squares = leading(matrix)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(shape[0]), atol=1e-12)
    np.testing.assert_allclose(squares[: min(shape)], np.linalg.svd(matrix, compute_uv=False) ** 2)
    np.testing.assert_allclose(vectors @ np.diag(squares) @ vectors.T, matrix @ matrix.T, atol=1e-10)


@cases(seed=st.integers(0, 30), ranks=st.tuples(st.integers(1, 6), st.integers(1, 5)))
@settings(max_examples=30, deadline=None)
def test_tucker_keeps_at_least_what_hosvd_keeps_and_never_more_than_an_unfolding_can(seed, ranks):
    kernel = np.random.default_rng(seed).standard_normal((6, 5, 9))
    left, core, right = tucker.tucker2(kernel, ranks)
    lost = ((kernel - np.einsum("rsk,or,is->oik", core, left, right)) ** 2).sum()
    tails = []
    start = kernel
    for axis, rank in zip((0, 1), ranks, strict=True):
        flat = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
        vectors, values, _ = np.linalg.svd(flat, full_matrices=False)
        tails.append((values[rank:] ** 2).sum())
        start = np.moveaxis(np.tensordot(vectors[:, :rank] @ vectors[:, :rank].T, start, (1, axis)), 0, axis)
    assert lost <= ((kernel - start) ** 2).sum() + 1e-9
    assert lost >= max(tails) - 1e-9
    assert lost <= sum(tails) + 1e-9


def test_tucker_recovers_a_kernel_that_has_its_form():
    rng = np.random.default_rng(1)
    kernel = np.einsum("rsk,or,is->oik", *(rng.standard_normal(s) for s in ((3, 2, 9), (8, 3), (6, 2))))
    left, core, right = tucker.tucker2(kernel, (3, 2))
    np.testing.assert_allclose(np.einsum("rsk,or,is->oik", core, left, right), kernel, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_cp_recovers_a_kernel_that_has_its_form(rank):
    kernel = low_rank_kernel((8, 6, 3, 3), rank)
    factors = cp.cp(kernel, rank, 0)
    found = np.einsum("ar,br,cr,dr->abcd", *factors)
    assert ((found - kernel) ** 2).sum() / (kernel**2).sum() < 1e-4
    lengths = np.stack([np.linalg.norm(factor, axis=0) for factor in factors])
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[:1], lengths.shape), rtol=1e-6)


def test_cp_of_rank_one_is_not_worse_than_the_power_method():
    kernel = np.random.default_rng(2).standard_normal((5, 4, 3, 3))
    factors = cp.cp(kernel, 1, 0)
    vectors = [np.linalg.svd(np.moveaxis(kernel, a, 0).reshape(kernel.shape[a], -1))[0][:, 0] for a in range(4)]
    for _ in range(200):
        for axis in range(4):
            others = [vectors[a] for a in range(4) if a != axis]
            vector = np.einsum("abcd,b,c,d->a", np.moveaxis(kernel, axis, 0), *others)
            vectors[axis] = vector / np.linalg.norm(vector)
    strength = np.einsum("abcd,a,b,c,d->", kernel, *vectors)
    lost = ((kernel - np.einsum("ar,br,cr,dr->abcd", *factors)) ** 2).sum()
    assert lost == pytest.approx((kernel**2).sum() - strength**2, rel=1e-3)


def test_cp_of_nothing_is_nothing():
    assert all((factor == 0).all() for factor in cp.cp(np.zeros((4, 3, 3, 3)), 2, 0))


@pytest.mark.filterwarnings("ignore:Trying to compute SVD:UserWarning")
@pytest.mark.parametrize("rank", [2, 5, 12])
def test_tucker_and_cp_are_as_good_as_tensorlys(rank):
    decomposition = pytest.importorskip("tensorly.decomposition", reason="tensorly is the oracle here")
    import tensorly

    kernel = np.random.default_rng(4).standard_normal((12, 10, 3, 3)) + low_rank_kernel((12, 10, 3, 3), 6)
    whole = (kernel**2).sum()
    mine = ((kernel - np.einsum("ar,br,cr,dr->abcd", *cp.cp(kernel, rank, 0))) ** 2).sum() / whole
    theirs = tensorly.cp_to_tensor(decomposition.parafac(kernel, rank, n_iter_max=500, init="svd", random_state=0))
    assert mine <= ((kernel - theirs) ** 2).sum() / whole * 1.1 + 1e-6
    ranks = (rank, min(rank, 10))
    left, core, right = tucker.tucker2(kernel.reshape(12, 10, 9), ranks)
    mine = ((kernel.reshape(12, 10, 9) - np.einsum("rsk,or,is->oik", core, left, right)) ** 2).sum()
    (other, factors), _ = decomposition.partial_tucker(kernel, rank=list(ranks), modes=[0, 1], n_iter_max=200)
    theirs = tensorly.tenalg.multi_mode_dot(other, factors, modes=[0, 1])
    assert mine <= ((kernel - theirs) ** 2).sum() * (1 + 1e-6)


@pytest.mark.parametrize("form", ["channel-svd", "spatial-svd", "tucker", "cp"])
@pytest.mark.parametrize("group", [1, 2])
def test_with_data_the_output_is_nearer_than_without(form, group):
    model = conv(outputs=8, inputs=6, group=group, strides=(2, 1), pads=(1, 0, 1, 1), dilations=(1, 2))
    layer = layer_of(model)
    gram, site = gram_of(layer, given(model, count=30)["x"]), site_of(layer)
    ranks = (2, 2) if form == "tucker" else (2,)
    errors = [
        relative_error(site.matrix(), composed(FORMS[form], site, FORMS[form].factors(site, ranks, g, 0)), gram)
        for g in (None, gram)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("form", ["spatial-svd", "tucker", "cp"])
def test_the_last_piece_is_the_least_squares_solution(form):
    """No other last piece does better: moving it a little in any direction makes the error larger."""
    model = conv(outputs=5, inputs=4)
    layer = layer_of(model)
    gram, site, rng = gram_of(layer, given(model, count=40)["x"]), site_of(layer), np.random.default_rng(0)
    ranks = (2, 3) if form == "tucker" else (3,)
    factors = FORMS[form].factors(site, ranks, gram, 0)
    best = relative_error(site.matrix(), composed(FORMS[form], site, factors), gram)
    for _ in range(20):
        moved = [*factors[:-1], factors[-1] + 1e-2 * rng.standard_normal(factors[-1].shape)]
        assert relative_error(site.matrix(), composed(FORMS[form], site, moved), gram) > best


def test_the_error_is_that_of_the_outputs():
    model = product()
    x = given(model, count=50)["x"].astype(np.float64)
    weight = layer_of(model).weight
    other = weight + 0.1
    expected = (((x @ other.T) - (x @ weight.T)) ** 2).sum() / ((x @ weight.T) ** 2).sum()
    assert relative_error(weight[None], other[None], (x.T @ x / len(x))[None]) == pytest.approx(expected)
    assert relative_error(np.zeros((1, 2, 2)), np.zeros((1, 2, 2))) == 0
