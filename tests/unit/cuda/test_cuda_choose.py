from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from hwbench.cuda import choose
from hwbench.cuda.choose import BACKEND, SCHEDULE, open_cuda, open_device
from hwbench.cuda.driver import DriverFacts, SeenGpu
from hwbench.cuda.schedules import require_schedule, with_schedule
from hwbench.errors import DeviceError, EngineError, UsageError
from hwbench.records.base import Missing

FIRST = SeenGpu(
    index=0,
    name="one",
    uuid="GPU-1",
    whole="GPU-1",
    mig=False,
    compute_capability=(8, 9),
    integrated=False,
    memory_bytes=1,
    multiprocessors=2,
    l2_bytes=3,
    clock_hz=4.0,
)
SECOND = replace(FIRST, index=1, name="two", uuid="MIG-2", whole="GPU-2", mig=True)


class Opened:
    def __init__(self, *arguments):
        *_, self.device, self.facts = arguments
        self.closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def here(monkeypatch):
    """Two GPUs and both packages; nothing is really opened."""
    monkeypatch.delenv(BACKEND, raising=False)
    monkeypatch.delenv(SCHEDULE, raising=False)
    monkeypatch.setattr(choose, "require_driver", lambda: DriverFacts(library="l", cuda=(13, 0), gpus=(FIRST, SECOND)))
    monkeypatch.setattr(choose, "_imported", lambda _: None)
    monkeypatch.setattr(choose, "_version", lambda _: "7")
    monkeypatch.setattr(choose, "Calls", lambda: None)
    monkeypatch.setattr(choose, "PycudaContext", Opened)
    monkeypatch.setattr(choose, "PythonContext", Opened)
    monkeypatch.setattr(choose.atexit, "register", lambda _: None)

    def installed(*names):
        monkeypatch.setattr(choose, "_has", lambda name: name in names)

    installed("pycuda", "cuda.bindings.driver")
    return installed


def test_pycuda_comes_first(here):
    assert open_cuda().facts.backend == "pycuda 7"


@pytest.mark.parametrize("layout", ["cuda.bindings.driver", "cuda.cuda"])
def test_nvidias_bindings_where_they_are_what_there_is(here, layout):
    here(layout)
    assert open_cuda().facts.backend == "cuda-python 7"


def test_neither(here):
    here()
    with pytest.raises(EngineError, match="neither") as error:
        open_cuda()
    assert "pip install" in (error.value.hint or "")


def test_the_environment_says_which(here, monkeypatch):
    monkeypatch.setenv(BACKEND, "cuda-python")
    assert open_cuda().facts.backend == "cuda-python 7"
    here("pycuda")
    with pytest.raises(EngineError, match="not installed"):
        open_cuda()
    monkeypatch.setenv(BACKEND, "cupy")
    with pytest.raises(UsageError, match="cupy"):
        open_cuda()


@pytest.mark.parametrize(
    ("asked", "index"),
    [({}, 0), ({"uuid": "gpu-1"}, 0), ({"uuid": "MIG-2"}, 1), ({"uuid": "GPU-2"}, 1), ({"index": 1}, 1)],
)
def test_which_gpu(here, asked, index):
    opened = open_cuda(**asked)
    assert opened.device == index
    assert opened.facts.uuid == (FIRST, SECOND)[index].uuid


@pytest.mark.parametrize("asked", [{"uuid": "GPU-3"}, {"index": 2}, {"index": -1}])
def test_a_gpu_that_is_not_here(here, asked):
    with pytest.raises(DeviceError):
        open_cuda(**asked)


def test_how_to_wait(here, monkeypatch):
    assert open_cuda().facts.schedule == "spin"
    assert open_cuda(schedule="block").facts.schedule == "block"
    monkeypatch.setenv(SCHEDULE, "yield")
    assert open_cuda().facts.schedule == "yield"
    assert open_cuda(schedule="block").facts.schedule == "block"
    monkeypatch.setenv(SCHEDULE, "doze")
    with pytest.raises(UsageError, match="doze"):
        open_cuda()


def test_other_flags_of_the_context_stay():
    assert with_schedule(0x8 | 0x1, "block") == 0x8 | 0x4


def test_a_context_that_was_opened_otherwise():
    require_schedule(0x8 | 0x2, "yield")
    with pytest.raises(EngineError, match=r"'spin'.*'auto'"):
        require_schedule(0x8, "spin")
    with pytest.raises(EngineError, match=r"'spin'.*'block'"):
        require_schedule(0x4, "spin")


def test_a_package_that_does_not_import(monkeypatch):
    def fails(name):
        raise ImportError("undefined symbol: cuNew_v9")

    monkeypatch.setattr(choose.importlib, "import_module", fails)
    with pytest.raises(EngineError, match="cuNew_v9") as error:
        choose._imported("cuda-python")
    assert BACKEND in (error.value.hint or "")


def a_device(kind, uuid=None):
    return SimpleNamespace(kind=kind, name=kind, gpu=None if uuid is None else SimpleNamespace(uuid=uuid))


def test_the_gpu_of_a_device(here, monkeypatch):
    untold = Missing(code="not_told", why="a Jetson")
    assert open_device(a_device("nvidia", "GPU-2")).device == 1
    on_chip = (FIRST, replace(SECOND, integrated=True))
    monkeypatch.setattr(choose, "require_driver", lambda: DriverFacts(library="l", cuda=(12, 6), gpus=on_chip))
    assert open_device(a_device("jetson", untold)).device == 1
    assert open_device(a_device("jetson")).device == 1
    monkeypatch.setattr(choose, "require_driver", lambda: DriverFacts(library="l", cuda=(12, 6), gpus=(FIRST,)))
    with pytest.raises(DeviceError, match="Jetson"):
        open_device(a_device("jetson"))
    with pytest.raises(DeviceError, match="no GPU"):
        open_device(a_device("cpu"))
