"""Going on with an interrupted run mixes nothing that was taken under other conditions."""

import msgspec
import pytest
from fixtures_results import full_result

from hwbench import results
from hwbench.errors import StorageError, UsageError
from hwbench.files import RESULT, write_record
from hwbench.inventory import Target
from hwbench.records.device import PackageVersion
from hwbench.results import earlier_result, read_result


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A result whose machine, software and CPUs are those of now."""
    result = full_result()
    cpus = result.device.cpu.usable_cores[: result.request.threads]
    settings = msgspec.structs.replace(result.measurements[0].settings, cpus=cpus)
    kept = tuple(msgspec.structs.replace(m, settings=settings) for m in result.measurements)
    result = msgspec.structs.replace(result, measurements=kept)
    write_record(tmp_path / RESULT, result)
    monkeypatch.setattr(results.environment, "capture", lambda: result.environment)
    return result, Target(device=result.device, profile=None), tmp_path


def test_nothing_there_is_nothing_to_go_on_with(saved, tmp_path):
    result, target, _ = saved
    assert earlier_result(tmp_path / "elsewhere", result.request, target) is None


def test_the_same_conditions_go_on(saved):
    result, target, folder = saved
    assert earlier_result(folder, result.request, target) == result == read_result(folder / RESULT)


def test_another_request_is_named(saved):
    result, target, folder = saved
    other = msgspec.structs.replace(result.request, seed=99)
    with pytest.raises(UsageError, match=r"seed was 0, now 99"):
        earlier_result(folder, other, target)


def test_another_machine_is_named(saved):
    result, target, folder = saved
    device = msgspec.structs.replace(target.device, fingerprint="0123")
    with pytest.raises(UsageError, match="another machine"):
        earlier_result(folder, result.request, Target(device=device, profile=None))


def test_another_runtime_or_variable_is_named(saved, monkeypatch):
    result, target, folder = saved
    packages = (PackageVersion(name="onnxruntime", version="99.0"),)
    now = msgspec.structs.replace(result.environment, packages=packages, variables={"OMP_WAIT_POLICY": "active"})
    monkeypatch.setattr(results.environment, "capture", lambda: now)
    with pytest.raises(UsageError, match=r"OMP_WAIT_POLICY was None, now active.*onnxruntime was .*, now 99\.0"):
        earlier_result(folder, result.request, target)


def test_other_cpus_are_refused(saved):
    result, target, folder = saved
    cpu = msgspec.structs.replace(target.device.cpu, usable_cores=(7,), usable_cpus=(7,))
    device = msgspec.structs.replace(target.device, cpu=cpu)
    with pytest.raises(UsageError, match="other CPUs"):
        earlier_result(folder, result.request, Target(device=device, profile=None))


def test_a_damaged_result_is_no_result(saved):
    result, target, folder = saved
    (folder / RESULT).write_text("{")
    with pytest.raises(StorageError):
        earlier_result(folder, result.request, target)
