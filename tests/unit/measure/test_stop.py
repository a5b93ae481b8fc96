import random

import pytest

from hwbench.errors import UsageError
from hwbench.measure.stop import MOST_SAMPLES, Count, Duration, StableMedian, make_stopper
from hwbench.records.measurement import StopRule

QUIET = [1000] * 200
NOISY = random.Random(3).sample(range(500, 3000), 200)


def stable(**changes):
    return StableMedian(**{"min_seconds": 3, "min_count": 50, "max_seconds": 20, "relative": 0.01, **changes})


class TestCount:
    def test_border(self):
        rule = Count(count=100)
        assert not rule.done(range(99), 1e9)
        assert rule.done(range(100), 0)
        assert rule.reached(range(100), 0)
        assert rule.limit == 100

    def test_progress(self):
        assert Count(count=100).progress(range(25), 9) == 0.25
        assert Count(count=100).progress(range(500), 9) == 1.0
        assert Count(count=0).progress([], 0) == 0.0


class TestDuration:
    def test_border(self):
        rule = Duration(seconds=2)
        assert not rule.done(range(1000), 1.999)
        assert rule.done(range(1), 2.0)
        assert rule.limit is None

    def test_needs_its_count_too(self):
        rule = Duration(seconds=2, min_count=10)
        assert not rule.done(range(9), 100)
        assert rule.done(range(10), 2)
        assert not rule.reached(range(9), 100)

    def test_progress_is_that_of_the_slower_goal(self):
        rule = Duration(seconds=2, min_count=10)
        assert rule.progress(range(5), 1.5) == 0.5
        assert rule.progress(range(10), 1.5) == 0.75
        assert Duration(seconds=0, min_count=4).progress(range(1), 0) == 0.25


class TestStableMedian:
    def test_not_before_its_shortest_time_and_count(self):
        assert not stable().done(QUIET, 2.99)
        assert not stable().done(QUIET[:49], 5)
        assert stable().done(QUIET[:50], 3)

    def test_gives_up_at_the_most_samples_that_are_kept(self):
        rule = stable(max_seconds=1e9)
        assert rule.limit == MOST_SAMPLES
        assert rule.done(range(MOST_SAMPLES), 1.0)

    def test_goes_on_while_the_median_is_not_known(self):
        rule = stable()
        assert not rule.done(NOISY, 5)
        assert not rule.reached(NOISY, 5)

    def test_gives_up_at_the_longest_time_and_says_so(self):
        rule = stable()
        assert not rule.done(NOISY, 19.99)
        assert rule.done(NOISY, 20)
        assert not rule.reached(NOISY, 20)

    def test_the_longest_time_still_needs_the_count(self):
        assert not stable().done(NOISY[:49], 1000)

    def test_the_share_decides(self):
        chance = random.Random(4)
        samples = [round(1e6 * (1 + 0.05 * chance.gauss(0, 1))) for _ in range(400)]
        assert not stable(relative=0.001).reached(samples, 5)
        assert stable(relative=0.05).reached(samples, 5)

    def test_looks_again_only_after_three_tenths_more(self):
        rule = stable()
        assert not rule.done(NOISY[:100], 5)
        assert not rule.done(QUIET[:129], 5)  # settled by now, and not looked at
        assert rule.done(QUIET[:130], 5)

    def test_progress_never_says_it_is_done(self):
        rule = stable()
        assert rule.progress(range(100), 1.5) == 0.5
        assert rule.progress(range(100), 10) == 0.5
        assert rule.progress(range(10), 10) == 0.2
        assert rule.progress(range(100), 19.99) == 0.99


class TestMakeStopper:
    @pytest.mark.parametrize(
        ("name", "settings", "kind"),
        [
            ("count", {"count": 50.0}, Count),
            ("duration", {"seconds": 1.0, "min_count": 10.0}, Duration),
            ("stable-median", {"min_seconds": 1, "min_count": 2, "max_seconds": 3, "relative": 0.1}, StableMedian),
        ],
    )
    def test_by_name(self, name, settings, kind):
        rule = make_stopper(StopRule(name=name, settings=settings))
        assert type(rule) is kind
        assert {key: getattr(rule, key) for key in settings} == settings

    def test_no_such_rule(self):
        with pytest.raises(UsageError, match="no stop rule 'forever'") as refused:
            make_stopper(StopRule(name="forever", settings={}))
        assert "stable-median" in refused.value.hint

    @pytest.mark.parametrize(
        "settings", [{}, {"count": 5.0, "speed": 1.0}, {"count": float("nan")}, {"count": float("inf")}]
    )
    def test_settings_it_does_not_have(self, settings):
        with pytest.raises(UsageError, match="stop rule 'count'"):
            make_stopper(StopRule(name="count", settings=settings))
