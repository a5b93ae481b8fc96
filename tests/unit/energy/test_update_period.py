"""How often a sensor changes, from readings faster than that."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hwbench.energy import update_period
from hwbench.energy.integrate import Sample
from hwbench.energy.update_period import DetectedPeriod, UpdatePeriod, detect, keep, kept, nvidia_timing
from hwbench.errors import StorageError
from hwbench.records.base import Missing

TRACES = Path(__file__).parents[2] / "data/traces"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path))


def polled(period_s, *, seconds=3.0, every_s=0.002, jitter=0.5, same=0.0, seed=1):
    """Return readings of a sensor that updates every ``period_s``; so many updates (``same``) show no new value."""
    chance = random.Random(seed)
    values: list[float] = [300.0]
    for _ in range(int(seconds / period_s) + 2):
        values.append(values[-1] if chance.random() < same else chance.uniform(100, 400))
    samples, t_s = [], 0.0
    while t_s < seconds:
        samples.append(Sample(t_s, values[int(t_s / period_s)]))
        t_s += every_s * chance.uniform(1 - jitter, 1 + jitter)
    return samples


@pytest.mark.parametrize("period_s", [0.1, 0.099, 0.101, 0.02, 0.015])
def test_the_period_is_found_finer_than_the_readings_stand(period_s):
    found = detect(polled(period_s))
    assert found.period_s == pytest.approx(period_s, rel=0.01)
    assert found.polled_s == pytest.approx(0.002, rel=0.2)


@pytest.mark.parametrize("seed", range(10))
def test_updates_that_show_the_same_value_do_not_fool_it(seed):
    assert detect(polled(0.1, same=0.1, seed=seed)).period_s == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("same", [0.3, 0.5, 0.7])
def test_many_such_updates_are_refused_rather_than_misread(same):
    for seed in range(40):
        found = detect(polled(0.1, same=same, seed=seed))
        if isinstance(found, Missing):
            assert found.code in {"irregular", "no_variation"}
        else:
            assert found.period_s == pytest.approx(0.1, rel=0.05), (same, seed)


def test_one_late_reading_does_not_fool_it():
    samples = [s for s in polled(0.1) if not 0.95 < s.t_s < 1.09]  # no reading for more than a period
    assert detect(samples).period_s == pytest.approx(0.1, rel=0.02)


def test_a_steady_load():
    assert detect([Sample(i / 500, 300.0) for i in range(1500)]).code == "no_variation"
    assert detect([]).code == "no_variation"


def test_readings_that_are_too_slow_see_themselves():
    assert detect(polled(0.1, every_s=0.05)).code == "polled_too_slowly"
    assert detect([Sample(i / 500, float(i)) for i in range(1500)]).code == "polled_too_slowly"


def test_no_one_period():
    times = [t for i in range(20) for t in (i * 0.3, i * 0.3 + 0.05)]
    changes = [Sample(t, float(n)) for n, t in enumerate(times)]
    samples = [
        Sample(t + i * 0.005, c.value)
        for c, t, until in zip(changes, times, [*times[1:], 6.0], strict=True)
        for i in range(int((until - t) / 0.005))
    ]
    assert detect(samples).code == "irregular"


class TestRecorded:
    """Real cards (tests/data/traces), polled by nvidia-smi."""

    @staticmethod
    def samples(name):
        lines = (TRACES / name).read_text().splitlines()[1:]
        return [Sample(*map(float, line.split(","))) for line in lines]

    @pytest.mark.parametrize(
        ("name", "period_s"),
        [
            ("a100_update_period.csv", 0.1012), ("a100_nvml_instant.csv", 0.1012), ("rtx3090_nvml_instant.csv", 0.1),
        ],
    )  # fmt: skip
    def test_the_published_period_is_found(self, name, period_s):
        samples = self.samples(name)
        assert detect(samples).period_s == pytest.approx(period_s, rel=0.005)
        three_seconds = [sample for sample in samples if 2 < sample.t_s < 5]
        assert detect(three_seconds).period_s == pytest.approx(period_s, rel=0.01)

    def test_too_few_readings_of_a_real_card_are_refused(self):
        every_fourth = self.samples("a100_update_period.csv")[::4]
        assert detect(every_fourth).code == "polled_too_slowly"


class TestTable:
    @pytest.mark.parametrize(
        ("capability", "period_s", "sensed_s"),
        [
            ("9.0", 0.1, 0.025), ("8.0", 0.1, 0.025), ("8.6", 0.1, 0.1), ("8.9", 0.1, 0.1), ("7.0", 0.02, 0.01),
            ("6.1", 0.02, 0.01),
        ],
    )  # fmt: skip
    def test_published(self, capability, period_s, sensed_s):
        timing = nvidia_timing(capability)
        assert (timing.period_s, timing.sensed_s) == (period_s, sensed_s)
        assert "2312.02741" in timing.period_basis
        assert timing.period_basis.startswith("table")

    @pytest.mark.parametrize("capability", ["7.5", "5.2", "3.5"])
    def test_what_is_not_sure_is_not_said(self, capability):
        assert isinstance(nvidia_timing(capability).sensed_s, Missing)

    @pytest.mark.parametrize("capability", ["10.0", "12.0", Missing(code="a", why="b")])
    def test_unpublished(self, capability):
        timing = nvidia_timing(capability)
        assert isinstance(timing.period_s, Missing)
        assert "selftest" in timing.period_s.cure

    def test_detection_comes_first_and_the_part_stays_the_tables(self):
        timing = nvidia_timing("9.0", seen(0.0985))
        assert (timing.period_s, timing.sensed_s) == (0.0985, 0.025)
        assert timing.period_basis.startswith("detected")
        assert timing.sensed_basis.startswith("table")

    def test_another_period_than_the_tables_is_another_sensor(self):
        timing = nvidia_timing("9.0", seen(0.02))
        assert timing.period_s == 0.02
        assert timing.sensed_s.code == "another_sensor"

    def test_detected_on_a_card_that_nobody_published(self):
        timing = nvidia_timing("10.0", seen(0.05))
        assert timing.period_s == 0.05
        assert isinstance(timing.sensed_s, Missing)


def seen(period_s):
    return DetectedPeriod(schema_version=1, sensor="A", driver="1", period_s=period_s, changes=30, polled_s=0.001)


class TestStore:
    def test_kept_by_model_and_driver(self):
        found = UpdatePeriod(period_s=0.1, changes=30, polled_s=0.001)
        detected = keep("NVIDIA A100-SXM4-40GB", "550.54.15", found)
        assert kept("NVIDIA A100-SXM4-40GB", "550.54.15") == detected
        assert kept("NVIDIA A100-SXM4-40GB", "535.1") is None
        assert kept("NVIDIA A100-SXM4-80GB", "550.54.15") is None

    def test_a_damaged_file_is_an_error(self):
        path = update_period.detected_path("A", "1")
        path.parent.mkdir(parents=True)
        path.write_text("{")
        with pytest.raises(StorageError):
            kept("A", "1")

    def test_of_another_sensor(self):
        keep("A b", "1", UpdatePeriod(period_s=0.1, changes=30, polled_s=0.001))
        with pytest.raises(StorageError, match="not of a-b"):
            kept("a-b", "1")  # the same file name
