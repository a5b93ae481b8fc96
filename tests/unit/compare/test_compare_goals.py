import pytest

from hwbench.compare.goals import outcome, parse_goal
from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.comparison import Ratio, Verdict


def verdict(low, high, **changes):
    value = (low * high) ** 0.5
    ratio = Ratio(value=value, low=low, high=high, confidence=0.95, degrees=5)
    fields = {
        "metric": "latency", "unit": "s", "word": "SAME", "a": 1e-3, "b": 1e-3 * value, "ratio": ratio,
        "min_ratio": 1.02, "control": Missing(code="none", why="none"), "method": "simulated",
    }  # fmt: skip
    return Verdict(**{**fields, **changes})


@pytest.mark.parametrize(
    ("text", "metric", "direction", "limit"),
    [
        ("latency>3%", "latency", "above", 1.03),
        (" energy > 5 % ", "energy", "above", 1.05),
        ("peak_memory>10%", "peak_memory", "above", 1.10),
        ("throughput<-5%", "throughput", "below", 0.95),
        ("latency>=3%", "latency", "above", 1.03),
        ("p90>0.5%", "latency_p90", "above", 1.005),
        ("latency>+2%", "latency", "above", 1.02),
        ("accuracy<-1pp", "accuracy", "below", -0.01),
        ("accuracy < -0.5 pp", "accuracy", "below", -0.005),
    ],
)
def test_goals_are_read(text, metric, direction, limit):
    goal = parse_goal(text)
    assert (goal.metric, goal.direction, goal.limit) == (metric, direction, pytest.approx(limit))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latency",
        "latency>3",
        "speed>3%",
        "latency>x%",
        "throughput<-100%",
        "latency>3%%",
        "latency>3pp",
    ],
)
def test_what_is_no_goal_is_refused(text):
    with pytest.raises(UsageError, match="--fail-if"):
        parse_goal(text)


def test_accuracy_is_asked_for_in_percentage_points():
    with pytest.raises(UsageError, match="percentage points") as raised:
        parse_goal("accuracy<-1%")
    assert raised.value.hint == 'write "accuracy<-1pp"'


@pytest.mark.parametrize(
    ("text", "low", "high", "status"),
    [
        ("latency>3%", 1.04, 1.06, "missed"),
        ("latency>3%", 1.00, 1.02, "holds"),
        ("latency>3%", 1.02, 1.05, "unknown"),
        ("latency<-5%", 0.90, 0.94, "missed"),
        ("latency<-5%", 0.96, 1.30, "holds"),
        ("latency<-5%", 0.94, 0.96, "unknown"),
    ],
)
def test_only_what_is_certain_counts(text, low, high, status):
    assert outcome(parse_goal(text), verdict(low, high)).status == status


def test_a_failed_control_leaves_a_goal_open():
    blind = Missing(code="control_differs", why="A differs from itself")
    found = outcome(parse_goal("latency>3%"), verdict(1.5, 1.6, word="INCONCLUSIVE", why=blind))
    assert (found.status, found.why) == ("unknown", "A differs from itself")
