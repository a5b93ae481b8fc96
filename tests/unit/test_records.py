import importlib
import pkgutil
import typing

import fixtures_results
import msgspec
import pytest

from hwbench import records
from hwbench.files import decode, encode
from hwbench.records.base import Missing, Record, Support, check_finite, unsupported
from hwbench.records.device import Device
from hwbench.records.energy import EnergyEstimate, EnergyReading
from hwbench.records.measurement import Finding, LatencySummary, RunSettings, Validity, validity
from hwbench.records.model import TensorSpec
from hwbench.testing import example_cpu

NO = Missing(code="no", why="there is none")


def subclasses(cls):
    return {cls, *(found for child in cls.__subclasses__() for found in subclasses(child))}


for module in pkgutil.iter_modules(records.__path__):
    importlib.import_module(f"hwbench.records.{module.name}")
RECORDS = sorted(
    (cls for cls in subclasses(Record) if cls is not Record and cls.__module__.startswith("hwbench.records")),
    key=lambda cls: cls.__name__,
)
WITHOUT_UNIT = {
    *("n_effective", "share", "profiling_overhead", "relative_uncertainty", "max_relative"),  # ratios and counts
    *("load_1min", "quota_cpus"),  # in processes and in CPUs
    *("icc", "last_over_first", "offered_load", "percentile", "median_change", "median_change_limit"),  # shares
    "mode_settings",  # the unit is in the key
    "max_absolute",  # of whatever the network puts out
    *("settings", "value", "low", "high", "samples"),  # the unit is in the key beside it
    *("limit", "ratio", "confidence", "level", "min_effect", "between_runs", "levels", "min_ratio"),  # shares
    *("figures", "a", "b", "also"),  # the unit is in the key, or in `unit` beside them
    *("lsb", "range", "offset", "gain", "facts"),  # in the channel's unit; the unit is in the key
    *(
        "coverage",
        "recorder_cpu_share",
        "inferences_per_j",
        "stdev",
        "energy_delay_js",
        "gain_uncertainty",
    ),  # shares, 1/J, as value, J s
    *("difference", "values"),  # a share, as the two values beside it; in the key
    *("momentum", "smooth_quant", "magnitude", "seen_low", "seen_high"),  # shares, the tensor's own unit
    *("default", "floating", "layers", "asked", "got"),  # names of precisions
    *("scheme", "schemes"),  # names of precisions
    *("budget", "loss", "divergence", "extra", "gap"),  # nats or shares; a share
    *("params", "step", "when", "violations"),  # values of parameters; fractions of a limit
    *("score", "tau", "shares"),  # a log-determinant, a rank correlation, shares
    *("damping", "agreement", "accuracy"),  # shares
    *("control", "floor", "expected", "measured"),  # logs and shares; the metric's and the objective's unit
    *("learn", "select", "certify"),  # shares
    *("accuracy", "agreement", "before"),  # shares
    *("zeros", "error", "bits_per_weight"),  # shares; the unit is in the name
    *("sparsity", "sparsities", "against"),  # shares; times over times
    "miss",  # a share of the limit beside it
    *("rate", "max_drop", "drop", "sqnr_db", "added_db", "cosine", "below_db"),  # shares, decibels, the metric's unit
    *("a_is_faster_probability", "logs", "spread", "held_out", "within_spread"),  # shares, natural logarithms
}


class TestEveryRecord:
    @pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
    def test_is_frozen_keyword_only_and_strict(self, cls):
        config = cls.__struct_config__
        assert config.frozen
        assert config.kw_only if hasattr(config, "kw_only") else True
        assert config.forbid_unknown_fields
        with pytest.raises(TypeError, match="positional"):
            cls("x")

    @pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
    def test_has_a_documented_purpose_and_a_schema(self, cls):
        assert cls.__doc__
        assert msgspec.json.schema(cls)

    @pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
    def test_a_quantity_names_its_unit(self, cls):
        hints = typing.get_type_hints(cls)
        real = {name for name in cls.__struct_fields__ if "float" in str(hints[name])}
        bare = {
            name for name in real if not name.endswith(("_s", "_ns", "_j", "_w", "_hz", "_bytes", "_c", "_c_per_10s"))
        }
        assert bare <= WITHOUT_UNIT, "the unit of a quantity stands in its name"


class TestMissing:
    def test_words(self):
        assert str(Missing(code="a", why="it is so")) == "it is so"
        assert str(Missing(code="a", why="it is so", cure="do this")) == "it is so; do this"

    def test_support(self):
        assert Support().usable
        assert str(Support()) == "usable"
        refusal = unsupported("not_here", "it is not here", "fetch it")
        assert not refusal.usable
        assert str(refusal) == "it is not here; fetch it"
        assert refusal.reasons[0].code == "not_here"

    def test_is_told_apart_from_a_value_on_disk(self):
        result = fixtures_results.full_result()
        again = decode(encode(result), type(result), what="it")
        assert again == result
        kinds = {type(m.energy) for m in again.measurements}
        assert kinds <= {Missing, EnergyReading}


class TestChecks:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1.0])
    def test_no_quantity_is_negative_or_infinite(self, value):
        with pytest.raises(ValueError, match="memory_bytes must be"):
            check_finite(Box(memory_bytes=value), "memory_bytes")

    def test_missing_and_zero_pass(self):
        check_finite(Box(memory_bytes=NO), "memory_bytes")
        check_finite(Box(memory_bytes=0), "memory_bytes")
        check_finite(Box(memory_bytes=-5), "memory_bytes", minimum=None)

    def test_a_device_with_an_impossible_cpu(self):
        cpu = example_cpu().cpu
        for fields, words in (
            ({"physical_cores": 0}, "physical_cores must be positive"),
            ({"logical_cpus": 2}, "logical_cpus must be at least physical_cores"),
            ({"usable_cores": (9,)}, "usable_cores must be among usable_cpus"),
        ):
            with pytest.raises(ValueError, match=words):
                msgspec.structs.replace(cpu, **fields)

    def test_latency_mode_runs_one_stream(self):
        with pytest.raises(ValueError, match="one stream"):
            fixtures_results.make_settings("latency", streams=2)
        assert isinstance(fixtures_results.make_settings("throughput", streams=2), RunSettings)

    def test_an_interval_holds_its_median(self):
        summary = fixtures_results.make_measurement().latency
        with pytest.raises(ValueError, match="must contain the median"):
            msgspec.structs.replace(summary, median_low_s=summary.median_s * 1.01, median_high_s=1.0)
        with pytest.raises(ValueError, match="needs samples"):
            msgspec.structs.replace(summary, n=0)
        assert isinstance(summary, LatencySummary)

    def test_a_run_has_samples_and_none_negative(self):
        with pytest.raises(ValueError, match="needs samples"):
            fixtures_results.make_measurement(samples_ns=())
        with pytest.raises(ValueError, match="must not be negative"):
            fixtures_results.make_measurement(samples_ns=(5, -1))

    def test_one_measurement_holds_one_mode(self):
        latency, throughput = fixtures_results.make_measurement(), fixtures_results.make_throughput(0.01)
        with pytest.raises(ValueError, match="different modes"):
            msgspec.structs.replace(latency, throughput=throughput)

    def test_a_reading_needs_a_window_and_an_estimate_its_band(self):
        reading = fixtures_results.make_energy(1.0, 10)["energy"]
        with pytest.raises(ValueError, match="window_s must be positive"):
            msgspec.structs.replace(reading, window_s=0.0)
        estimate = fixtures_results.make_estimate(1.0)
        with pytest.raises(ValueError, match="band"):
            msgspec.structs.replace(estimate, low_j=2.0)
        assert isinstance(estimate, EnergyEstimate)

    def test_a_shape_is_not_negative(self):
        with pytest.raises(ValueError, match="shape of 'x'"):
            TensorSpec(name="x", dtype="float32", shape=(1, -3))


class TestValidity:
    WARNING = Finding(severity="warning", code="a", why="b", cure="c")
    INVALID = Finding(severity="invalid", code="a", why="b", cure="c")

    @pytest.mark.parametrize(
        ("findings", "status"),
        [((), "valid"), ((WARNING,), "suspect"), ((WARNING, INVALID), "invalid"), ((INVALID,), "invalid")],
    )
    def test_follows_from_the_findings(self, findings, status):
        assert validity(findings).status == status
        for other in {"valid", "suspect", "invalid"} - {status}:
            with pytest.raises(ValueError, match="must follow"):
                Validity(status=other, findings=findings)


def test_model_totals_leave_out_what_is_not_known():
    described = fixtures_results.make_model()
    known = [layer.macs for layer in described.layers if not isinstance(layer.macs, Missing)]
    assert described.macs == sum(known)
    assert described.uncounted == ("NonMaxSuppression",)


class Box(Record, frozen=True, kw_only=True):
    memory_bytes: float | Missing


def test_a_device_survives_the_disk():
    assert decode(encode(example_cpu()), Device, what="a device") == example_cpu()
