import dataclasses

import msgspec
import pytest
from fixtures_results import STOLEN, make_energy, make_measurement, make_model, make_result

from hwbench.compare.goals import parse_goal
from hwbench.compare.saved import Choice, choose
from hwbench.compare.wanted import Waived
from hwbench.comparison_pipeline import compare_results
from hwbench.errors import InvalidMeasurement, UsageError
from hwbench.records.base import Missing
from hwbench.records.comparison import Settings

SETTINGS = Settings(min_effect=0.02, min_latency_s=1e-6, min_memory_bytes=2**20, between_runs=0.005, seed=0)
ANY = Choice()


def compare(a, b, choice=ANY, goals=(), settings=SETTINGS, **waived):
    a, b = (item if hasattr(item, "run_id") else make_result(item) for item in (a, b))
    return compare_results(
        ("a.json", "b.json"), (a, b), choice, settings, goals=[parse_goal(goal) for goal in goals],
        waived=Waived(**waived),
    )  # fmt: skip


def one(**changes):
    return make_measurement(n=1000, **changes)


def changed(measurement, **settings):
    return msgspec.structs.replace(measurement, settings=msgspec.structs.replace(measurement.settings, **settings))


@pytest.mark.parametrize(("scale", "word"), [(1.0, "SAME"), (1.1, "SLOWER"), (0.9, "FASTER"), (1.02, "INCONCLUSIVE")])
def test_latency(scale, word):
    pair = compare(one(seed=1), one(seed=2, median_s=4.5e-3 * scale)).pairs[0]
    for metric in ("latency", "latency_p90"):
        assert pair.verdict(metric).word == word
        assert pair.verdict(metric).ratio.value == pytest.approx(scale, rel=0.01)
    assert (pair.verdict("latency").why is not None) == (word == "INCONCLUSIVE")


def test_it_says_that_the_runs_were_not_interleaved():
    comparison = compare(one(seed=1), one(seed=2))
    assert any("not interleaved" in warning for warning in comparison.warnings)
    assert isinstance(comparison.pairs[0].verdict("latency").control, Missing)


def test_what_runs_differ_by_widens_the_interval():
    wide = msgspec.structs.replace(SETTINGS, between_runs=0.03)
    narrow, wider = (
        compare(one(seed=1), one(seed=2), settings=s).pairs[0].verdict("latency") for s in (SETTINGS, wide)
    )
    assert wider.ratio.high - wider.ratio.low > 3 * (narrow.ratio.high - narrow.ratio.low)


def test_throughput_has_its_own_direction():
    slow, fast = (make_measurement(mode="throughput", median_s=median) for median in (5e-3, 4e-3))
    pair = compare(slow, fast).pairs[0]
    assert pair.headline.metric == "throughput"
    assert pair.headline.word == "FASTER"
    assert compare(fast, slow).pairs[0].headline.word == "SLOWER"
    assert "latency" in pair.absent


def test_what_the_scale_is_off_by_cancels_between_readings_of_one_instrument():
    """RAPL's 10 % is in both: 5 % less is seen through it."""

    def reading(joules):
        fields = make_energy(joules, 1000)
        changed = msgspec.structs.replace(fields["energy"], relative_uncertainty=0.1, gain_uncertainty=gain)
        return {**fields, "energy": changed}

    words = {}
    for gain in (0.0, 0.0999):
        low, high = one(**reading(0.095)), one(**reading(0.100))
        words[gain] = compare(high, low).pairs[0].verdict("energy").word
    assert words == {0.0: "INCONCLUSIVE", 0.0999: "LESS"}


def test_energy_only_by_the_same_meter_and_never_estimated_or_replayed():
    low, high = (one(**make_energy(joules, 1000)) for joules in (0.1, 0.2))
    assert compare(low, high).pairs[0].verdict("energy").word == "MORE"
    assert compare(high, low).pairs[0].verdict("energy").word == "LESS"
    other = msgspec.structs.replace(high, energy=msgspec.structs.replace(high.energy, meter="other"))
    assert compare(low, other).pairs[0].absent["energy"].code == "other_meter"
    played = [
        msgspec.structs.replace(m, energy=msgspec.structs.replace(m.energy, provenance="replayed")) for m in (low, high)
    ]
    assert compare(*played).pairs[0].absent["energy"].code == "replayed"
    assert compare(low, one()).pairs[0].absent["energy"].code == "permission_denied"


def test_the_meters_uncertainty_is_in_the_interval():
    ratio = compare(one(**make_energy(0.1, 1000)), one(**make_energy(0.104, 1000))).pairs[0].verdict("energy")
    assert ratio.word == "INCONCLUSIVE"
    assert ratio.ratio.low < 0.99


def test_memory():
    small = one()
    large = msgspec.structs.replace(small, memory=msgspec.structs.replace(small.memory, peak_run_rss_bytes=400 * 2**20))
    assert compare(small, large).pairs[0].verdict("peak_memory").word == "MORE"
    assert compare(small, small).pairs[0].verdict("peak_memory").word == "SAME"


def _elsewhere(measurement):
    result = make_result(measurement)
    return msgspec.structs.replace(result, device=msgspec.structs.replace(result.device, fingerprint="other"))


def _governed(measurement):
    host = msgspec.structs.replace(measurement.host_before, governor="performance")
    return msgspec.structs.replace(measurement, host_before=host)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("mode", lambda m: make_result(changed(m, mode_settings={"rate_per_s": 50.0}))),
        ("threads", lambda m: make_result(changed(m, threads=1))),
        ("cpus", lambda m: make_result(changed(m, cpus=(1, 3)))),
        ("stop", lambda m: make_result(changed(m, stop=msgspec.structs.replace(m.settings.stop, name="count")))),
        ("batch", lambda m: make_result(m, model=make_model(batch_size=8))),
        ("fingerprint", _elsewhere),
        ("governor", lambda m: make_result(_governed(m))),
    ],
)
def test_what_hinders_is_refused_or_waved_through_aloud(name, other):
    a, b = one(seed=1), other(one(seed=2))
    with pytest.raises(InvalidMeasurement, match=name) as refused:
        compare(a, b)
    assert f"--ignore {name}" in refused.value.hint
    for waived in ({"ignore": frozenset({name})}, {"force": True}):
        differences = compare(a, b, **waived).pairs[0].differences
        assert [item.name for item in differences if item.hinders] == [name]


def test_another_model_or_version_is_what_is_compared():
    newer = one(seed=2)
    newer = msgspec.structs.replace(newer, built=msgspec.structs.replace(newer.built, version="9.9"))
    pair = compare(one(seed=1), make_result(newer, model=make_model("pruned", hub_sha256="ab" * 32))).pairs[0]
    found = {item.name: item for item in pair.differences}
    assert set(found) == {"model", "engine"}
    assert not any(item.hinders for item in pair.differences)


@pytest.mark.parametrize("waived", [{}, {"force": True}])
def test_an_invalid_measurement_is_refused_whatever_is_waived(waived):
    with pytest.raises(InvalidMeasurement, match="invalid"):
        compare(one(), one(findings=(STOLEN,)), **waived)


def test_every_pair_that_both_have_is_compared():
    a = make_result(one(), make_measurement("openvino", "bf16"), make_measurement("torch-eager"))
    b = make_result(make_measurement("openvino", "bf16"), one())
    assert [pair.label for pair in compare(a, b).pairs] == ["onnxruntime fp32", "openvino bf16"]
    assert len(compare(a, b, Choice(engine_a="openvino", engine_b="openvino")).pairs) == 1


def test_other_engines_and_precisions_are_compared_when_named():
    a, b = make_result(one()), make_result(make_measurement("openvino", "bf16"))
    with pytest.raises(UsageError, match="in common"):
        choose(("a", "b"), a, b, Choice())
    engines = Choice(engine_a="onnxruntime", engine_b="openvino")
    with pytest.raises(InvalidMeasurement, match="precision"):
        compare(a, b, engines)
    both = dataclasses.replace(engines, precision_a="fp32", precision_b="bf16")
    assert "against" in compare(a, b, both).pairs[0].label


def test_a_goal_without_its_metric_is_refused_with_the_reason():
    with pytest.raises(InvalidMeasurement, match="readable by root only"):
        compare(one(), one(), goals=["energy>5%"])


def test_too_few_samples_are_told():
    pair = compare(make_measurement(n=6), make_measurement(n=6)).pairs[0]
    assert pair.absent["latency"].code == "too_few_samples"
    assert pair.headline is None
