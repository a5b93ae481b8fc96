import numpy as np
import pytest

from hwbench.errors import UsageError
from hwbench.verify.metrics import cosine, guess_task, macro_f1, metrics_of, spearman


def values(task, output, labels, custom=None):
    return {metric.name: metric.value() for metric in metrics_of(task, {"out": output}, labels, custom)}


def test_classification():
    logits = np.array([[3, 1, 0], [0, 2, 1], [1, 0, 2], [5, 0, 0]], np.float32)
    labels = np.array([0, 1, 1, 0])
    found = values("classification", logits, labels)
    assert found["accuracy"] == 0.75
    assert found["macro F1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert "top-5" not in found


def test_ties_go_to_the_first_class():
    """A saturated network puts out zeros: not every class is then among the first five."""
    logits = np.zeros((1, 10), np.float32)
    assert values("classification", logits, np.array([9]))["top-5"] == 0.0
    assert values("classification", logits, np.array([4]))["top-5"] == 1.0
    logits[0, 9] = 1.0
    assert values("classification", logits, np.array([4]))["top-5"] == 0.0
    assert values("classification", logits, np.array([3]))["top-5"] == 1.0


def test_macro_f1_by_hand():
    assert macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_regression():
    found = values("regression", np.array([[1.0], [4.0]]), np.array([0.0, 2.0]))
    assert found["mean absolute error"] == 1.5
    assert found["root mean square error"] == pytest.approx(np.sqrt(2.5))


def test_embedding_ranks_pairs():
    vectors = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [1, 0], [0, 1]], np.float32)
    assert values("embedding", vectors, np.array([5.0, 2.5, 0.0]))["Spearman of cosine"] == pytest.approx(1.0)


def test_spearman_shares_ranks():
    assert spearman(np.array([1, 2, 2, 3]), np.array([1, 2, 3, 4])) == pytest.approx(0.9486833)
    assert spearman(np.ones(4), np.arange(4)) == 0.0


def test_cosine_of_nothing():
    assert cosine(np.zeros((1, 3)), np.ones((1, 3))) == [0.0]


def test_tokens_leave_padding_out():
    logits = np.zeros((1, 3, 4), np.float32)
    logits[0, 0, 2] = 100
    logits[0, 1, 1] = 100
    found = values("tokens", logits, np.array([[2, 3, -100]]))
    assert found["token accuracy"] == 0.5
    assert found["cross entropy (nats a token)"] == pytest.approx(50.0, rel=1e-3)


def test_the_users_metric(tmp_path):
    (tmp_path / "mine.py").write_text("def score(outputs, labels):\n    return (outputs['out'][:, 0] > 0) * 1.0\n")
    output = np.array([[1.0], [-1.0]])
    assert values("custom", output, None, f"{tmp_path}/mine.py:score")[f"{tmp_path}/mine.py:score"] == 0.5


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 3.0", "returned shape"),
        ("return [float('nan'), 1.0]", "NaN"),
        ("return 1 / 0", None),
    ],
)
def test_a_bad_metric(tmp_path, body, told):
    (tmp_path / "bad.py").write_text(f"def score(outputs, labels):\n    {body}\n")
    with pytest.raises(UsageError if told else ZeroDivisionError, match=told):
        values("custom", np.ones((2, 1)), None, f"{tmp_path}/bad.py:score")


def test_no_such_metric():
    with pytest.raises(UsageError, match="cannot be imported"):
        values("custom", np.ones((2, 1)), None, "nowhere.py:score")


@pytest.mark.parametrize(
    ("task", "output", "labels"),
    [
        ("classification", np.ones((2, 3)), np.array([0, 7])),
        ("classification", np.ones((2, 3)), np.array([0])),
        ("regression", np.ones((2, 3)), np.ones(4)),
        ("embedding", np.ones((2, 3)), np.ones(2)),
        ("tokens", np.ones((2, 3, 4)), np.ones((2, 2), int)),
        ("tokens", np.ones((1, 2, 4)), np.full((1, 2), -100)),
        ("tokens", np.ones((1, 2, 4)), np.array([[1, -1]])),
        ("tokens", np.ones((1, 2, 4)), np.array([[1, 4]])),
    ],
)
def test_labels_that_do_not_fit(task, output, labels):
    with pytest.raises(UsageError):
        values(task, output, labels)


def test_guessing():
    assert guess_task({"o": np.ones((4, 3))}, np.array([0, 1, 2, 0])) == "classification"
    assert guess_task({"o": np.ones((4, 3, 9))}, np.zeros((4, 3), int)) == "tokens"
    assert guess_task({"o": np.ones((4, 1))}, np.ones((4, 1))) == "regression"
    assert guess_task({"o": np.ones((4, 1))}, None) == "none"
    with pytest.raises(UsageError, match="fit no task"):
        guess_task({"o": np.ones((4, 3))}, np.ones(2))
