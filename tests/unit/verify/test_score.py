import numpy as np
import pytest

from hwbench.records.base import Missing
from hwbench.records.model import Layer
from hwbench.verify.layers import layer_errors
from hwbench.verify.metrics import Metric
from hwbench.verify.score import agreement, certify, output_errors, score


def shares(right):
    return Metric(name="accuracy", higher_is_better=True, n=len(right), per_sample=np.asarray(right), binary=True)


def of_counts(both, worse, better, neither):
    """The reference's and this one's metric, with so many samples of each kind."""
    reference = [1] * (both + worse) + [0] * (better + neither)
    mine = [1] * both + [0] * worse + [1] * better + [0] * neither
    return shares(mine), shares(reference)


def test_certified():
    found = certify(*of_counts(900, 2, 2, 96), 0.01, 0)
    assert found.word == "CERTIFIED"
    assert (found.worse, found.better, found.drop) == (2, 2, 0.0)
    assert 0 < found.high <= 0.01


def test_failed():
    found = certify(*of_counts(800, 100, 0, 100), 0.01, 0)
    assert found.word == "FAILED"
    assert found.low > 0.01
    assert found.drop == pytest.approx(0.1)


def test_not_enough_data_says_how_much_would_do():
    found = certify(*of_counts(38, 0, 0, 2), 0.01, 0)
    assert found.word == "NOT ENOUGH DATA"
    assert certify(*of_counts(found.enough, 0, 0, 0), 0.01, 0).word == "CERTIFIED"
    some = certify(*of_counts(390, 4, 2, 4), 0.01, 0)
    assert some.word == "NOT ENOUGH DATA"
    assert some.enough > 400


def test_losses_that_cancel_wins_are_no_agreement():
    """20 lost and 20 won: the drop is 0, and 601 samples would settle nothing."""
    found = certify(*of_counts(550, 20, 20, 10), 0.01, 0)
    assert found.word == "NOT ENOUGH DATA"
    assert 1700 < found.enough < 2200


@pytest.mark.parametrize("n", [2, 9])
def test_few_equal_samples_certify_nothing(n):
    same = Metric(name="mine", higher_is_better=True, n=n, per_sample=np.linspace(0.5, 0.9, n))
    found = certify(same, same, 0.1, 0)
    assert found.word == "NOT ENOUGH DATA"
    assert found.enough >= 10


def test_samples_that_all_agree_do_not_speak_for_those_not_seen():
    same = Metric(name="mine", higher_is_better=True, n=100, per_sample=np.linspace(0.0, 1.0, 100))
    found = certify(same, same, 0.01, 0)
    assert found.word == "NOT ENOUGH DATA"
    assert found.high == pytest.approx(1.645**2 / (100 + 1.645**2), rel=0.01)
    assert certify(same, same, 0.05, 0).word == "CERTIFIED"


def test_at_the_limit_no_number_is_enough():
    found = certify(*of_counts(97, 2, 1, 0), 0.01, 0)
    assert isinstance(found.enough, Missing)


def test_an_error_that_grows_is_a_drop():
    mine = Metric(name="error", higher_is_better=False, n=50, per_sample=np.full(50, 1.2) + np.arange(50) * 1e-3)
    theirs = Metric(name="error", higher_is_better=False, n=50, per_sample=np.full(50, 1.0) + np.arange(50) * 1e-3)
    found = certify(mine, theirs, 0.1, 0)
    assert found.drop == pytest.approx(0.2)
    assert found.word == "FAILED"
    assert certify(theirs, mine, 0.1, 0).word == "CERTIFIED"


def test_a_metric_of_the_whole_is_resampled():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    near, far = truth + rng.normal(0, 0.01, 300), truth + rng.normal(0, 3, 300)

    def metric(values):
        return Metric(
            name="r", higher_is_better=True, n=300, whole=lambda at: float(np.corrcoef(values[at], truth[at])[0, 1])
        )

    assert certify(metric(near), metric(near), 0.02, 0).word == "CERTIFIED"
    assert certify(metric(near), metric(near), 0.001, 0).word == "NOT ENOUGH DATA"
    assert certify(metric(far), metric(near), 0.01, 0).word == "FAILED"


def test_scores():
    found = score(shares([1, 1, 0, 1]), 0)
    assert (found.value, found.n, found.method) == (0.75, 4, "Wilson")
    assert found.low < 0.75 < found.high
    one = score(Metric(name="e", higher_is_better=False, n=1, per_sample=np.array([2.0])), 0)
    assert one.method == "none: one sample"


def test_agreement():
    reference = {"y": np.array([[0, 1.0], [1, 0], [1, 0]])}
    mine = {"y": np.array([[0, 1.0], [1, 0], [0, 1]])}
    found = agreement(mine, reference, "classification")
    assert (found.different, found.n) == (1, 3)
    assert found.low < 1 / 3 < found.high
    assert agreement({"y": np.ones((3, 1))}, {"y": np.ones((3, 1))}, "none").code == "no_decision"
    assert agreement(mine, {"z": mine["y"]}, "none").code == "other_outputs"


def test_output_errors():
    reference = np.array([[3.0, 4.0], [0.0, 5.0]])
    (found,) = output_errors({"y": reference + 0.05}, {"y": reference})
    assert found.max_absolute == pytest.approx(0.05)
    assert found.max_relative == pytest.approx(0.01)
    assert found.sqnr_db == pytest.approx(10 * np.log10(50 / (4 * 0.0025)))
    (same,) = output_errors({"y": reference}, {"y": reference})
    assert same.sqnr_db.code == "no_error"
    assert same.cosine == pytest.approx(1)
    (silent,) = output_errors({"y": reference}, {"y": np.zeros_like(reference)})
    assert silent.sqnr_db.code == "no_signal"
    assert output_errors({"y": reference * np.nan}, {"y": reference}).code == "not_finite"
    assert output_errors({"z": reference}, {"y": reference}).code == "other_outputs"


def layer(name, *inputs):
    return Layer(
        name=name, op="Op", module=None, inputs=inputs, outputs=(f"{name}_out",), parameters=0, macs=0, moved_bytes=0
    )


def test_the_layer_that_adds_the_error_is_found():
    """b adds a tenth; c passes it on; d is not shown, and what follows it is held against what went in."""
    layers = (layer("a", "x"), layer("b", "a_out"), layer("c", "b_out"), layer("d", "c_out"), layer("e", "d_out"))
    clean = np.ones((2, 8))
    theirs = dict.fromkeys(("a_out", "b_out", "c_out", "e_out"), clean)
    mine = {"a_out": clean, "b_out": clean * 1.1, "c_out": clean * 1.1, "e_out": clean * 1.2}
    found = {error.layer: error for error in layer_errors(mine, theirs, layers)}
    assert list(found) == ["a", "b", "c", "e"]
    assert found["a"].sqnr_db.code == "no_error"
    assert found["b"].sqnr_db == pytest.approx(20.0)
    assert found["b"].added_db.code == "first_error"
    assert found["c"].added_db == pytest.approx(0, abs=1e-9)
    assert found["e"].added_db == pytest.approx(6.02, abs=0.01)


def test_a_layer_with_nan():
    (found,) = layer_errors({"a_out": np.full((1, 2), np.nan)}, {"a_out": np.ones((1, 2))}, (layer("a", "x"),))
    assert found.sqnr_db.code == "not_finite"
