import mmap

import pytest

from hwbench.measure import memory
from hwbench.measure.memory import (
    MemoryTrack,
    lifetime_peak_rss_bytes,
    peak_rss_bytes,
    pss_bytes,
    reset_peak,
    rss_bytes,
)
from hwbench.records.base import Missing

MIB = 2**20

linux = pytest.mark.skipif(isinstance(rss_bytes(), Missing), reason="no /proc here")
resettable = pytest.mark.skipif(not reset_peak(), reason="the peak cannot be set back here")


class FakeProc:
    """A process that is as large as it is told to be."""

    def __init__(self, root, *, resettable=True, peaks=True):
        self.root = root
        self.folder = root / "proc/self"
        self.folder.mkdir(parents=True)
        self.peaks, self.high = peaks, 0
        if resettable:
            (self.folder / "clear_refs").touch()

    def be(self, mib):
        clear = self.folder / "clear_refs"
        if clear.exists() and clear.read_text() == "5":
            clear.write_text("")
            self.high = 0
        self.high = max(self.high, mib)
        peak = f"VmHWM:\t{self.high * 1024:8d} kB\n" if self.peaks else ""
        (self.folder / "status").write_text(f"Name:\tfake\n{peak}VmRSS:\t{mib * 1024:8d} kB\nThreads:\t1\n")
        (self.folder / "smaps_rollup").write_text(
            f"00400000-7ff000 ---p 00000000 00:00 0    [rollup]\nRss: {mib * 1024} kB\nPss: {mib * 512} kB\n"
        )


def touched(size):
    """Anonymous memory of its own, every page written; closing gives it back at once."""
    block = mmap.mmap(-1, size)
    for offset in range(0, size, mmap.PAGESIZE):
        block[offset] = 1
    return block


@linux
def test_a_process_has_a_size():
    assert 2 * MIB < pss_bytes() <= 1.2 * rss_bytes()
    assert peak_rss_bytes() >= rss_bytes() - MIB
    assert lifetime_peak_rss_bytes() >= rss_bytes() - MIB


@linux
@resettable
def test_64_mib_are_seen_in_the_peak_and_are_gone_afterwards():
    track = MemoryTrack()
    track.baseline()
    track.loaded()
    before = rss_bytes()
    track.start_run()
    touched(64 * MIB).close()
    after = rss_bytes()
    seen = track.finish(model_file_bytes=7)
    assert seen.peak_run_rss_bytes - before == pytest.approx(64 * MIB, abs=8 * MIB)
    assert after - before < 8 * MIB
    assert seen.peak_load_rss_bytes < seen.peak_run_rss_bytes
    assert seen.model_file_bytes == 7
    assert "set back" in seen.method


@linux
@resettable
def test_an_earlier_peak_does_not_leak_into_a_later_phase():
    touched(64 * MIB).close()
    track = MemoryTrack()
    track.baseline()
    loaded = touched(16 * MIB)
    track.loaded()
    track.start_run()
    seen = track.finish(0)
    loaded.close()
    assert seen.loaded_rss_bytes - seen.baseline_rss_bytes == pytest.approx(16 * MIB, abs=4 * MIB)
    assert seen.loaded_pss_bytes - seen.baseline_pss_bytes == pytest.approx(16 * MIB, abs=4 * MIB)
    assert seen.peak_load_rss_bytes - seen.baseline_rss_bytes == pytest.approx(16 * MIB, abs=4 * MIB)


def test_numbers_are_kib(tmp_path):
    FakeProc(tmp_path).be(3)
    assert rss_bytes(tmp_path) == 3 * MIB
    assert pss_bytes(tmp_path) == 1.5 * MIB
    assert peak_rss_bytes(tmp_path) == 3 * MIB


def test_phases_of_a_process(tmp_path):
    proc = FakeProc(tmp_path)
    track = MemoryTrack(tmp_path)
    proc.be(300)
    proc.be(100)
    track.baseline()
    proc.be(250)
    proc.be(180)
    track.loaded()
    track.start_run()
    proc.be(220)
    proc.be(190)
    seen = track.finish(42 * MIB)
    assert seen.baseline_rss_bytes == 100 * MIB
    assert seen.baseline_pss_bytes == 50 * MIB
    assert seen.peak_load_rss_bytes == 250 * MIB
    assert seen.loaded_rss_bytes == 180 * MIB
    assert seen.peak_run_rss_bytes == 220 * MIB


def test_a_peak_that_cannot_be_set_back_counts_only_where_it_rises(tmp_path):
    proc = FakeProc(tmp_path, resettable=False)
    assert not reset_peak(tmp_path)
    track = MemoryTrack(tmp_path)
    proc.be(100)
    track.baseline()
    proc.be(250)
    proc.be(180)
    track.loaded()
    track.start_run()
    proc.be(220)
    seen = track.finish(0)
    assert seen.peak_load_rss_bytes == 250 * MIB
    assert isinstance(seen.peak_run_rss_bytes, Missing)
    assert seen.peak_run_rss_bytes.code == "peak_not_resettable"
    assert "could not be set back" in seen.method


def test_getrusage_is_named_where_it_stands_in(tmp_path, monkeypatch):
    proc = FakeProc(tmp_path, resettable=False, peaks=False)
    proc.be(100)
    marks = iter([100 * MIB, 250 * MIB, 250 * MIB, 250 * MIB])
    monkeypatch.setattr(memory, "lifetime_peak_rss_bytes", lambda: next(marks))
    track = MemoryTrack(tmp_path)
    track.baseline()
    track.loaded()
    track.start_run()
    seen = track.finish(0)
    assert "ru_maxrss" in seen.method
    assert seen.peak_load_rss_bytes == 250 * MIB
    assert seen.peak_run_rss_bytes.code == "peak_not_resettable"


def test_without_proc_everything_is_missing(tmp_path):
    for value in (rss_bytes(tmp_path), pss_bytes(tmp_path), peak_rss_bytes(tmp_path)):
        assert value.code == "no_procfs"
        assert value.cure
    assert not reset_peak(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_without_the_field(tmp_path):
    proc = FakeProc(tmp_path, peaks=False)
    proc.be(1)
    assert peak_rss_bytes(tmp_path).code == "no_such_field"


def test_phases_that_were_not_reached(tmp_path):
    FakeProc(tmp_path).be(10)
    seen = MemoryTrack(tmp_path).finish(0)
    for name in ("baseline_rss_bytes", "loaded_pss_bytes", "peak_load_rss_bytes", "peak_run_rss_bytes"):
        assert getattr(seen, name).code == "not_recorded"
