import pytest

from hwbench.meters import estimate as module
from hwbench.meters.estimate import estimate
from hwbench.plugins import available
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyEstimate
from hwbench.records.profile import Figure


def power(value=5.0, **bounds):
    return {"tdp_per_core": Figure(value=value, basis="datasheet", source="vendor-page", **bounds)}


def guess(power_w=None, **changes):
    arguments = {"cpu_time_s": 20.0, "window_s": 10.0, "inferences": 100, "cores": 4} | changes
    return estimate(power() if power_w is None else power_w, **arguments)


def test_known_answer():
    result = guess()
    assert isinstance(result, EnergyEstimate)
    assert result.energy_per_inference_j == pytest.approx(1.0)  # 5 W x 2 busy cores x 10 s / 100
    assert result.low_j == pytest.approx(0.5)
    assert result.high_j == pytest.approx(1.5)


def test_bounds_of_the_figure_widen_the_band():
    result = guess(power(low=4.0, high=8.0))
    assert result.energy_per_inference_j == pytest.approx(1.0)
    assert result.low_j == pytest.approx(0.4)
    assert result.high_j == pytest.approx(2.4)


def test_hardware_threads_do_not_make_more_cores():
    assert guess(cpu_time_s=80.0).energy_per_inference_j == pytest.approx(2.0)
    assert guess(cpu_time_s=80.0, cores=8).energy_per_inference_j == pytest.approx(4.0)


def test_the_inputs_tell_where_everything_comes_from():
    result = guess()
    assert result.method == "tdp-per-core-cpu-time"
    assert result.inputs["tdp_per_core_w"] == "5 (datasheet, source vendor-page)"
    assert result.inputs["busy_cores"].startswith("2 of 4")
    assert "50 %" in result.inputs["model_band"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"power_w": {}}, "no_tdp"),
        ({"inferences": 0}, "no_inferences"),
        ({"cpu_time_s": 0.0}, "no_cpu_time"),
        ({"window_s": 0.0}, "no_cpu_time"),
        ({"cores": 0}, "no_cpu_time"),
    ],
)
def test_nothing_to_estimate_from(arguments, code):
    result = guess(**arguments)
    assert isinstance(result, Missing)
    assert result.code == code


def test_an_estimate_is_not_a_meter():
    assert "estimate" not in available("meters")
    assert not any(module.__name__ in point.value for point in available("meters").values())
    assert not any(hasattr(thing, "window") for thing in vars(module).values())
