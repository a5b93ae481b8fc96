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
        table = reconcile(run(unit("a", 0.002, 0.003, 0.004), unit("b", 0.005, 0.005, 0.009)), LAYERS, 0.0088)
        assert table.profiled_median_s == 0.011
        assert [row.share for row in table.rows] == pytest.approx([3 / 11, 5 / 11])
        assert [row.scaled_s for row in table.rows] == pytest.approx([0.0024, 0.0040])
        assert [row.measured_s for row in table.rows] == [0.003, 0.005]
        assert table.unattributed_s == pytest.approx(0.0024)
        assert sum(row.scaled_s for row in table.rows) + table.unattributed_s == pytest.approx(table.median_s)
        assert table.profiling_overhead == pytest.approx(0.25)
        assert (table.iterations, table.method) == (3, "a profiler")

    def test_units_that_overlap_leave_less_than_nothing(self):
        table = reconcile(run(unit("a", 0.008), unit("b", 0.008), end_to_end=(0.010,)), LAYERS, 0.005)
        assert table.unattributed_s == pytest.approx(-0.003)

    def test_costs_of_fused_layers_add_up(self):
        (row,) = reconcile(run(unit("ab", 0.001, members=("a", "b"))), LAYERS, 0.01).rows
        assert row.macs == 30
        assert row.moved_bytes == NO, "one that is not known leaves the sum not known"

    def test_what_the_runtime_inserted_has_no_cost_and_says_so(self):
        (row,) = reconcile(run(unit("reorder", 0.001, members=())), LAYERS, 0.01).rows
        assert (row.macs.code, row.moved_bytes.code) == ("inserted", "inserted")

    def test_no_times_for_a_reason_stay_that_reason(self):
        assert reconcile(LayerRun(units=NO, end_to_end_s=(), method=""), LAYERS, 0.01) == NO

    @pytest.mark.parametrize("brought", [run(), run(unit("a", 0.001), end_to_end=()), run(unit("a", 0.001), unit("b"))])
    def test_a_profile_without_times_is_a_reason(self, brought):
        missing = reconcile(brought, LAYERS, 0.01)
        assert isinstance(missing, Missing)
        assert missing.code == "no_layer_times"

    def test_layers_that_the_model_does_not_have(self):
        missing = reconcile(run(unit("u", 0.001, members=("a", "conv_99"))), LAYERS, 0.01)
        assert missing.code == "unknown_layers"
        assert "conv_99" in missing.why


@pytest.mark.parametrize(
    ("median_s", "iterations"), [(0.02, 100), (1e-6, 200), (0.01, 200), (0.2, 10), (60.0, 10), (0.0, 200)]
)
def test_about_two_seconds_worth_of_inferences(median_s, iterations):
    assert iterations_for(median_s) == iterations
