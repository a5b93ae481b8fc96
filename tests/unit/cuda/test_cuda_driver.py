from __future__ import annotations

import inspect
import re

import pytest
from cuda_library import driver_library

from hwbench.cuda import driver
from hwbench.cuda.driver import DriverFacts, probe, require_driver
from hwbench.cuda.results import RESULTS, failure, reason
from hwbench.errors import EngineError
from hwbench.records.base import Missing


def probed(monkeypatch, **said) -> DriverFacts | Missing:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name if name.startswith("CUDA") else f"HWBENCH_FAKE_{name}", value)
    return probe(str(driver_library()))


def test_what_the_driver_sees(monkeypatch):
    found = probed(monkeypatch, COUNT="2", VERSION="12040")
    assert isinstance(found, DriverFacts)
    assert found.cuda == (12, 4)
    assert [gpu.name for gpu in found.gpus] == ["Fake GPU 0", "Fake GPU 1"]
    first, second = found.gpus
    assert first.uuid == "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert (second.index, second.compute_capability, second.integrated, second.mig) == (1, (8, 7), True, False)
    assert second.memory_bytes == 8 << 30
    assert found.gpu(second.uuid.upper()) == second
    assert found.gpu("GPU-none") is None


def test_a_part_of_a_divided_gpu_is_known_by_its_own_uuid(monkeypatch):
    found = probed(monkeypatch, COUNT="2", MIG="1")
    assert isinstance(found, DriverFacts)
    assert found.gpus[0].mig
    assert found.gpus[0].uuid.startswith("MIG-aa")
    assert not found.gpus[1].mig


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"INIT": "100"}, "no_gpu"),
        ({"COUNT": "0"}, "no_gpu"),
        ({"INIT": "34"}, "stub_library"),
        ({"INIT": "803"}, "driver_mismatch"),
        ({"INIT": "804"}, "compat_not_supported"),
        ({"INIT": "999"}, "cuda_unknown"),
        ({"INIT": "3"}, "not_initialised"),
        ({"INIT": "802"}, "system_not_ready"),
        ({"INIT": "100", "CUDA_VISIBLE_DEVICES": "-1"}, "hidden"),
        ({"INIT": "100", "CUDA_VISIBLE_DEVICES": ""}, "hidden"),
        ({"INIT": "12345"}, "cuda_error"),
    ],
)
def test_why_there_is_none(monkeypatch, said, code):
    found = probed(monkeypatch, **said)
    assert isinstance(found, Missing)
    assert found.code == code
    assert found.cure or code == "cuda_error"


def test_the_result_is_named_by_cuda_itself(monkeypatch):
    found = probed(monkeypatch, INIT="803")
    assert isinstance(found, Missing)
    assert "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)" in found.why


def test_no_library(monkeypatch):
    found = probe("libcuda-that-is-not-here.so.1")
    assert isinstance(found, Missing)
    assert found.code == "no_driver"
    assert found.cure is not None


def test_a_library_that_is_no_driver():
    other = "libm.so.6"
    found = probe(other)
    assert isinstance(found, Missing)
    assert "cuInit" in found.why


@pytest.mark.parametrize(
    ("wsl", "container", "words"),
    [(True, False, "on Windows"), (False, True, "--gpus all"), (False, False, "install the NVIDIA driver")],
)
def test_the_cure_fits_the_place(monkeypatch, wsl, container, words):
    monkeypatch.setattr(driver, "_in_wsl", lambda: wsl)
    monkeypatch.setattr(driver, "in_container", lambda: container)
    absent, blind = probe("libcuda-that-is-not-here.so.1"), probed(monkeypatch, INIT="100")
    assert isinstance(absent, Missing)
    assert isinstance(blind, Missing)
    assert words in (absent.cure or "")
    assert words in (blind.cure or "")


def test_a_driver_is_required(monkeypatch):
    monkeypatch.setattr(driver, "probe", lambda: Missing(code="no_driver", why="there is none", cure="get one"))
    with pytest.raises(EngineError, match="there is none") as error:
        require_driver()
    assert error.value.hint == "get one"


def test_a_driver_that_is_too_old(monkeypatch):
    monkeypatch.setattr(driver, "probe", lambda: DriverFacts(library="l", cuda=(12, 2), gpus=()))
    assert require_driver((12, 2)).cuda == (12, 2)
    with pytest.raises(EngineError, match=re.escape("CUDA 13.0 is needed")) as error:
        require_driver((13, 0))
    assert "12.2" in error.value.message
    assert error.value.hint


def test_every_reason_has_words():
    for number, (code, why, cure) in RESULTS.items():
        assert re.fullmatch(r"[a-z_]+", code), number
        assert why
        assert cure is None or cure
    assert "(700)" in reason(700, "CUDA_ERROR_ILLEGAL_ADDRESS").why
    assert failure("launching k", 701).message.startswith("launching k: ")


def test_the_codes_are_those_of_cuda_h():
    bindings = pytest.importorskip("cuda.bindings.driver")
    known = {int(member) for member in bindings.CUresult}
    runtime_only = {35}  # cudaErrorInsufficientDriver, which libraries built on the runtime hand on
    assert set(RESULTS) - runtime_only <= known
    assert inspect.getdoc(bindings.CUresult) is not None
