"""GPU memory in four numbers, through NVIDIA's own wrapper on a driver that is pretended, and a pretended torch."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

import pytest
from fake_nvml import NOT_SUPPORTED, UUID, FakeDriver

from hwbench.files import decode, encode
from hwbench.measure.gpu_memory import EVERY_S, RUN_EVERY_S, GpuMemoryTrack, gpu_track, told
from hwbench.records.base import Missing
from hwbench.records.memory import GpuMemory
from hwbench.testing import FakeClock, assert_explained, example_cpu

MIB = 2**20
OWN = os.getpid()


class Cuda:
    """torch.cuda, as far as it is asked."""

    def __init__(self):
        self.allocated, self.reserved, self.initialized = 900 * MIB, 1000 * MIB, True

    def is_initialized(self):
        return self.initialized

    def reset_peak_memory_stats(self, index):
        assert index == 1
        self.allocated, self.reserved = 0, 100 * MIB

    def max_memory_allocated(self, index):
        assert index == 1
        return self.allocated

    def max_memory_reserved(self, index):
        return self.reserved


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def driver(clock):
    return FakeDriver(clock, used=1000 * MIB)


@pytest.fixture
def cuda():
    return Cuda()


@pytest.fixture
def track(driver, clock, cuda, monkeypatch, tmp_path):
    def make(namespace="pid:[4026531836]", **settings):
        folder = tmp_path / "proc/self/ns"
        folder.mkdir(parents=True)
        (folder / "pid").symlink_to(namespace)
        module = driver.install(monkeypatch)
        torch = SimpleNamespace(cuda=cuda)
        return GpuMemoryTrack(UUID, nvml=module, torch=torch, torch_index=1, clock=clock, root=tmp_path, **settings)

    return make


def work(track, driver, clock, cuda, pid=OWN):
    """Build with a large peak, then run with a smaller one; return what was seen."""
    with track:
        driver.processes[pid], driver.used = 5000 * MIB, 6000 * MIB  # a builder's workspace
        track.look()
        driver.processes[pid], driver.used = 800 * MIB, 1800 * MIB
        track.start_run()
        for own in (900, 1500, 1100):
            clock.advance(0.02)
            driver.processes[pid], driver.used = own * MIB, (1000 + own) * MIB
            cuda.allocated, cuda.reserved = (
                max(cuda.allocated, (own - 700) * MIB),
                max(cuda.reserved, (own - 600) * MIB),
            )
            track.look()
        clock.advance(0.05)
        return track.finish()


def test_four_numbers(track, driver, clock, cuda):
    seen = work(track(), driver, clock, cuda)
    assert seen.torch_peak_allocated_bytes == 800 * MIB
    assert seen.torch_peak_reserved_bytes == 900 * MIB
    assert seen.nvml_process_peak_bytes == 1500 * MIB
    assert seen.nvml_device_delta_bytes == 1500 * MIB
    assert seen.flags == ()
    assert (seen.samples, seen.sampled_every_s, seen.longest_gap_s) == (5, RUN_EVERY_S, pytest.approx(0.05))
    assert driver.running == 0
    assert decode(encode(seen), GpuMemory, what="it") == seen


def test_loading_and_running_have_peaks_of_their_own(track, driver, clock, cuda):
    with track() as following:
        driver.processes[OWN], driver.used = 5000 * MIB, 6000 * MIB  # a builder's workspace
        following.look()
        driver.processes[OWN], driver.used = 800 * MIB, 1800 * MIB
        loading = told(following)
        following.start_run()
        running = told(following)
    assert loading.nvml_process_peak_bytes == 5000 * MIB
    assert loading.torch_peak_allocated_bytes == 900 * MIB
    assert loading.sampled_every_s == EVERY_S
    assert running.nvml_process_peak_bytes == 800 * MIB
    assert running.torch_peak_allocated_bytes == 0
    assert running.sampled_every_s == RUN_EVERY_S


def test_torch_is_asked_for_its_number_of_the_gpu_when_it_has_a_context(track, driver, clock, cuda):
    asked = []

    def find(torch):
        asked.append(torch)
        return 1

    cuda.initialized = False
    following = track()
    following._torch_index = find
    with following:
        assert told(following).torch_peak_allocated_bytes.code == "no_torch"
        assert not asked
        cuda.initialized = True
        assert told(following).torch_peak_allocated_bytes == 900 * MIB
        hidden = Missing(code="not_visible", why="CUDA_VISIBLE_DEVICES")
        following._torch_index = lambda torch: hidden
        assert told(following).torch_peak_reserved_bytes is hidden


def test_a_cpu_has_no_gpu_memory():
    with gpu_track(example_cpu()) as following:
        assert following is None
        assert told(following).code == "no_gpu"


def test_a_jetson_shares_one_memory():
    with gpu_track(example_cpu(name="jetson", kind="jetson")) as following:
        seen = told(following)
    assert seen.nvml_process_peak_bytes.code == "unified"
    assert seen.nvml_device_delta_bytes.code == "unified"


def test_what_the_driver_reserves_is_no_use_of_memory(track, driver, clock, cuda):
    driver.failing["nvmlDeviceGetMemoryInfo_v2"] = 13
    assert work(track(), driver, clock, cuda).nvml_device_delta_bytes == 1500 * MIB


class TestContainer:
    PRIVATE = "pid:[4026532999]"

    def test_own_id_is_not_found(self, track, driver, clock, cuda):
        seen = work(track(self.PRIVATE), driver, clock, cuda, pid=OWN + 1)
        assert seen.nvml_process_peak_bytes.code == "pid_not_found"
        assert "--pid=host" in seen.nvml_process_peak_bytes.cure
        assert seen.nvml_device_delta_bytes == 1500 * MIB
        assert set(seen.flags) == {"device_delta_only", "other_processes"}

    def test_a_stranger_with_the_same_id(self, track, driver, clock, cuda):
        driver.processes[OWN] = 7000 * MIB
        seen = work(track(self.PRIVATE), driver, clock, cuda)
        assert seen.nvml_process_peak_bytes.code == "pid_of_another"
        assert "device_delta_only" in seen.flags

    def test_a_driver_that_translates_ids(self, track, driver, clock, cuda):
        seen = work(track(self.PRIVATE), driver, clock, cuda)
        assert seen.nvml_process_peak_bytes == 1500 * MIB
        assert seen.flags == ("pid_unsure",)


def test_not_on_this_gpu(track, driver, clock, cuda):
    seen = work(track(), driver, clock, cuda, pid=OWN + 1)
    assert seen.nvml_process_peak_bytes.code == "not_on_gpu"


def test_others_are_told(track, driver, clock, cuda):
    driver.processes[1] = 50 * MIB
    assert work(track(), driver, clock, cuda).flags == ("other_processes",)


def test_a_driver_that_tells_no_memory_by_process(track, driver, clock, cuda):
    with track() as following:
        driver.processes[OWN] = None
        following.start_run()
        assert following.finish().nvml_process_peak_bytes.code == "not_supported"


def test_an_integrated_gpu(track, driver, clock, cuda):
    driver.failing.update({"nvmlDeviceGetMemoryInfo": NOT_SUPPORTED, "nvmlDeviceGetMemoryInfo_v2": NOT_SUPPORTED})
    seen = work(track(), driver, clock, cuda)
    assert seen.nvml_device_delta_bytes.code == "not_supported"
    assert seen.nvml_process_peak_bytes == 1500 * MIB


def test_without_nvml_torch_still_tells(track, driver, clock, cuda):
    driver.failing["nvmlInitWithFlags"] = 9
    seen = work(track(), driver, clock, cuda)
    assert seen.torch_peak_allocated_bytes == 800 * MIB
    for value in (seen.nvml_process_peak_bytes, seen.nvml_device_delta_bytes):
        assert value.code == "no_driver"


def test_without_torch_nvml_still_tells(track, driver, clock, cuda):
    cuda.initialized = False
    seen = work(track(), driver, clock, cuda)
    assert seen.torch_peak_allocated_bytes.code == seen.torch_peak_reserved_bytes.code == "no_torch"
    assert seen.nvml_process_peak_bytes == 1500 * MIB


def test_memory_given_back_is_no_negative_delta(track, driver, clock, cuda):
    with track() as following:
        driver.used = 0
        following.start_run()
        assert following.finish().nvml_device_delta_bytes == 0


def test_nothing_was_read(track):
    seen = track().finish()
    for value in (seen.nvml_process_peak_bytes, seen.nvml_device_delta_bytes, seen.longest_gap_s):
        assert_explained(value)
    assert isinstance(seen.longest_gap_s, Missing)


def test_it_looks_by_itself_and_stops(driver, monkeypatch, tmp_path):
    module = driver.install(monkeypatch)
    threads = threading.active_count()
    with GpuMemoryTrack(UUID, nvml=module, root=tmp_path, every_s=0.002) as following:
        following.start_run(0.002)
        driver.used = 4000 * MIB
        time.sleep(0.05)
        driver.used = 1000 * MIB
        seen = following.finish()
    assert seen.nvml_device_delta_bytes == 3000 * MIB
    assert seen.samples > 5
    assert threading.active_count() == threads
    assert driver.running == 0
