"""Putting a calibration together, doubting it, keeping it."""

from __future__ import annotations

import msgspec
import pytest

from hwbench.cost import calibrate as module
from hwbench.cost.calibrate import best_of, calibrate, peak_point, working_cores
from hwbench.cost.doubts import changes, doubts, is_worse
from hwbench.cost.gemm import GemmJob, GemmRate, GemmResult
from hwbench.cost.overlay import load, overlay_path, save
from hwbench.errors import DeviceError, EngineError, StorageError
from hwbench.records.profile import CalibrationPoint


def point(key="l1", samples=(90.0, 100.0), quantity="bandwidth_bytes_per_s", method="test"):
    return CalibrationPoint(quantity=quantity, key=key, value=max(samples), samples=samples, method=method, threads=2)


def result(*rates):
    return GemmResult(version="1.0", kernel="k", rates=tuple(GemmRate(size=size, ops_per_s=ops) for size, ops in rates))


@pytest.fixture
def measured(monkeypatch):
    """Replace both instruments; returns the jobs that children were given."""
    jobs = []

    def run_child(name, job, kind, **_):
        jobs.append(job)
        if job.engine == "openvino" and job.precision == "int8":
            raise EngineError("it ran in fp32")
        return result((256, (1e9, 2e9 if job.engine == "openvino" else 3e9)))

    monkeypatch.setattr(module, "run_child", run_child)
    monkeypatch.setattr(module, "measure_copy", lambda plan, cores, seconds: point(plan.level))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 16 << 30}))
    return jobs


def test_calibration(measured, make_device, environment):
    told = []
    made = calibrate(
        make_device(isa=("avx2", "avx512_bf16")),
        seconds=10,
        environment=environment,
        on_progress=lambda what, fraction: told.append((what, fraction)),
    )
    assert [(point.key, point.value) for point in made.points] == [
        *((level, 100.0) for level in ("l1", "l2", "l3", "dram")),
        ("fp32", 3e9),
        ("int8", 3e9),
        ("bf16", 2e9),
    ]
    assert made.fingerprint == "0123abcd"
    assert made.rate("peak_ops_per_s", "fp32") == 3e9
    assert set(made.unavailable) == {"fp16 with openvino", "int8 with openvino"}
    assert "no fp16 arithmetic" in made.unavailable["fp16 with openvino"]
    assert made.unavailable["int8 with openvino"] == "it ran in fp32"
    assert len(told) == 10
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)
    assert all(job.cpus == (0, 1) for job in measured)
    assert sum(job.seconds for job in measured) < 10


def test_no_child_is_started_for_arithmetic_the_cpu_lacks(measured, make_device, environment):
    made = calibrate(make_device(isa=("avx2",)), seconds=1, environment=environment)
    assert {job.precision for job in measured} == {"fp32", "int8"}
    assert "bf16 with openvino" in made.unavailable


def test_a_missing_runtime_is_a_reason_with_its_cure(measured, make_device, environment, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    made = calibrate(make_device(), seconds=1, environment=environment)
    assert measured == []
    assert made.unavailable["fp32 with onnxruntime"] == "onnxruntime is not installed; pip install onnxruntime"
    assert made.rate("peak_ops_per_s", "fp32") is None


def test_a_missing_cache_is_a_reason(measured, make_device, environment):
    made = calibrate(make_device(caches=()), seconds=1, environment=environment)
    assert set(made.unavailable) >= {"l1", "l2", "l3"}
    assert made.rate("bandwidth_bytes_per_s", "dram") == 100.0


def test_wide_spread_is_a_warning(measured, make_device, environment, monkeypatch):
    monkeypatch.setattr(module, "measure_copy", lambda plan, cores, seconds: point(plan.level, (79.0, 100.0)))
    made = calibrate(make_device(), seconds=1, environment=environment)
    assert any(warning.startswith("l1: the samples spread over 21%") for warning in made.warnings)


def test_narrow_spread_is_none(measured, make_device, environment):
    made = calibrate(make_device(), seconds=1, environment=environment)
    assert not any(warning.startswith("l1") for warning in made.warnings)


def test_only_the_cpu_can_be_calibrated(make_device, environment):
    with pytest.raises(DeviceError, match="of kind nvidia"):
        calibrate(make_device(kind="nvidia"), seconds=1, environment=environment)


@pytest.mark.parametrize(("quota", "cores"), [(1.5, (0,)), (0.5, (0,)), (2.0, (0, 1)), (8.0, (0, 1))])
def test_a_quota_limits_the_threads(make_cpu, quota, cores):
    assert working_cores(make_cpu(quota_cpus=quota)) == cores


def test_peak_is_the_best_size_and_keeps_its_samples():
    job = GemmJob(engine="onnxruntime", precision="fp32", cpus=(0, 1), seconds=1)
    made = peak_point(job, result((256, (1e9, 5e9)), (512, (6e9, 7e9)), (1024, (6.5e9, 2e9))))
    assert made.value == 7e9
    assert made.samples == (6e9, 7e9)
    assert "of size 512" in made.method
    assert "1024: 6.50 GOP/s" in made.method


def test_the_better_engine_wins_and_the_other_is_named():
    slow = point("fp32", (1e9,), "peak_ops_per_s", "onnxruntime 1.0 square matrix product")
    fast = point("fp32", (2e9,), "peak_ops_per_s", "openvino 2.0 square matrix product")
    for order in ([slow, fast], [fast, slow]):
        made = best_of(order)
        assert made.value == 2e9
        assert made.method == "openvino 2.0 square matrix product; 1.00 GOP/s with onnxruntime 1.0"


@pytest.fixture
def kept(measured, make_device, environment, monkeypatch, tmp_path):
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path))
    return calibrate(make_device(), seconds=1, environment=environment)


def test_saved_is_loaded(kept, tmp_path):
    assert save(kept) == tmp_path / "calibrations" / "0123abcd.json"
    assert load("0123abcd") == kept


def test_never_calibrated_is_none(kept):
    assert load("ffff") is None


def test_anothers_calibration_is_refused(kept):
    save(kept).rename(overlay_path("ffff"))
    with pytest.raises(StorageError, match="another machine"):
        load("ffff")


def test_a_damaged_file_is_an_error_not_none(kept):
    save(kept).write_text("{")
    with pytest.raises(StorageError, match="not JSON"):
        load("0123abcd")


def rates(**levels):
    return [point(key, (value * 0.95, value)) for key, value in levels.items()]


def test_a_level_faster_than_a_nearer_one_is_a_warning():
    (told,) = doubts(rates(l1=100.0, l2=40.0, l3=60.0, dram=10.0))
    assert told.startswith("l2: 40.0 B/s, slower than l3 (60.0 B/s)")
    assert doubts(rates(l1=100.0, l2=60.0, l3=61.0, dram=10.0)) == (), "as fast within what two runs differ by"
    assert doubts(rates(l1=100.0, dram=10.0)) == ()


def with_points(calibration, *points):
    return msgspec.structs.replace(calibration, points=points)


@pytest.mark.parametrize(
    ("after", "worse", "told"),
    [
        ([point("l1", (96.0, 97.0))], False, ()),
        ([point("l1", (79.0, 80.0))], True, ("l1 bandwidth -20%",)),
        ([point("l1", (129.0, 130.0))], False, ("l1 bandwidth +30%",)),
        ([point("l1", (60.0, 100.0))], True, ()),
        ([point("l1", (60.0, 130.0))], False, ("l1 bandwidth +30%",)),
        ([point("l2", (99.0, 100.0))], True, ("l1 bandwidth is missing now", "l2 bandwidth is new")),
    ],
    ids=["same", "lower", "higher", "noisier", "noisier but higher", "lost"],
)
def test_which_of_two_is_the_worse(kept, after, worse, told):
    old, new = with_points(kept, point("l1", (99.0, 100.0))), with_points(kept, *after)
    assert is_worse(old, new) is worse
    assert changes(old, new) == told


def test_a_change_of_threads_is_told(kept):
    old = with_points(kept, point("l1"))
    new = with_points(kept, msgspec.structs.replace(point("l1"), threads=1))
    assert changes(old, new) == ("l1 bandwidth +0% (2 to 1 threads)",)
