import numpy as np
import pytest

from hwbench.measure.layers import iterations_for, reconcile
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer, LayerRun, UnitSamples
from hwbench.records.model import Layer

NO = Missing(code="no_rule", why="no cost rule")


def layer(name, macs=10, moved=100):
    return Layer(
        name=name, op="Conv", module=None, inputs=("x",), outputs=("y",), parameters=0, macs=macs, moved_bytes=moved
    )


def unit(name, *times, members=None):
    members = (name,) if members is None else members
    built = BuiltLayer(name=name, op="Conv", members=members, kernel=NO, precision="fp32")
    return UnitSamples(unit=built, times_s=times)


def run(*units, end_to_end=(0.011, 0.010, 0.012)):
    return LayerRun(units=units, end_to_end_s=end_to_end, method="a profiler")


LAYERS = (layer("a"), layer("b", macs=20, moved=NO), layer("c", macs=NO))


class TestReconcile:
    def test_the_column_adds_up_to_the_timed_median(self):
        table = reconcile(run(unit("a", 0.002, 0.003, 0.004), unit("b", 0.005, 0.005, 0.008)), LAYERS, 0.0088)
        assert table.profiled_median_s == 0.011
        assert [row.share for row in table.rows] == pytest.approx([9 / 33, 18 / 33])
        assert [row.scaled_s for row in table.rows] == pytest.approx([0.0024, 0.0048])
        assert [row.measured_s for row in table.rows] == pytest.approx([0.003, 0.006])
        assert table.unattributed_s == pytest.approx(0.0016)
        assert sum(row.scaled_s for row in table.rows) + table.unattributed_s == pytest.approx(table.median_s)
        assert table.profiling_overhead == pytest.approx(0.25)
        assert table.iterations == 3
        assert table.method == "a profiler; shares from the 3 inferences that took least"

    def test_only_the_quiet_quarter_counts(self):
        quiet, stalled = (0.004, 0.010), (0.001, 0.090)  # a unit and the whole
        pairs = [stalled] * 9 + [quiet] * 3
        table = reconcile(
            run(unit("a", *(one for one, _ in pairs)), end_to_end=tuple(whole for _, whole in pairs)), LAYERS, 0.01
        )
        assert [row.share for row in table.rows] == pytest.approx([0.4])

    def test_stalls_do_not_pass_for_unattributed_time(self):
        """A synthetic run whose truth is known: two stalls an inference on average, each inside one unit or none."""
        generator = np.random.default_rng(7)
        truth_s = np.array([400, 300, 150, 50, 100]) * 1e-6  # the last is dispatch, which no unit has
        parts = truth_s * generator.normal(1, 0.03, (200, 5))
        for index, stalls in enumerate(generator.poisson(2, 200)):
            for _ in range(stalls):
                parts[index, generator.choice(5, p=truth_s / truth_s.sum())] += generator.exponential(300e-6)
        times, end_to_end = parts[:, :4], parts.sum(axis=1)
        units = [unit(f"u{n}", *times[:, n], members=()) for n in range(4)]
        table = reconcile(run(*units, end_to_end=tuple(end_to_end)), LAYERS, 0.001)
        by_medians = np.median(times, axis=0) / np.median(end_to_end)
        assert 1 - by_medians.sum() > 0.3, "medians call a third of the time unattributed, where a tenth is"
        assert table.unattributed_s / table.median_s == pytest.approx(0.1, abs=0.01)
        assert [row.share for row in table.rows] == pytest.approx(list(truth_s[:4] / 0.001), abs=0.015)
        assert sum(row.scaled_s for row in table.rows) + table.unattributed_s == pytest.approx(table.median_s)

    def test_units_that_overlap_leave_less_than_nothing(self):
        table = reconcile(run(unit("a", 0.008), unit("b", 0.008), end_to_end=(0.010,)), LAYERS, 0.005)
        assert table.unattributed_s == pytest.approx(-0.003)

    def test_costs_of_fused_layers_add_up(self):
        (row,) = reconcile(run(unit("ab", 0.001, members=("a", "b")), end_to_end=(0.01,)), LAYERS, 0.01).rows
        assert row.macs == 30
        assert row.moved_bytes == NO, "one that is not known leaves the sum not known"

    def test_what_the_runtime_inserted_has_no_cost_and_says_so(self):
        (row,) = reconcile(run(unit("reorder", 0.001, members=()), end_to_end=(0.01,)), LAYERS, 0.01).rows
        assert (row.macs.code, row.moved_bytes.code) == ("inserted", "inserted")

    def test_no_times_for_a_reason_stay_that_reason(self):
        assert reconcile(LayerRun(units=NO, end_to_end_s=(), method=""), LAYERS, 0.01) == NO

    @pytest.mark.parametrize(
        "brought",
        [run(), run(unit("a", 0.001), end_to_end=()), run(unit("a", 0.001), unit("b")), run(unit("a", 0.001, 0.002))],
    )
    def test_a_profile_without_times_is_a_reason(self, brought):
        missing = reconcile(brought, LAYERS, 0.01)
        assert isinstance(missing, Missing)
        assert missing.code == "no_layer_times"

    def test_layers_that_the_model_does_not_have(self):
        missing = reconcile(run(unit("u", 0.001, members=("a", "conv_99")), end_to_end=(0.01,)), LAYERS, 0.01)
        assert missing.code == "unknown_layers"
        assert "conv_99" in missing.why


@pytest.mark.parametrize(
    ("median_s", "iterations"), [(0.02, 100), (1e-6, 200), (0.01, 200), (0.2, 10), (60.0, 10), (0.0, 200)]
)
def test_about_two_seconds_worth_of_inferences(median_s, iterations):
    assert iterations_for(median_s) == iterations
