"""The store of costs: what goes in comes out, for the platform and the network that it is of."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import made_costs
import msgspec
import pytest
from made_costs import PLATFORM, Machine, some_designs

from hwbench.errors import StorageError, UsageError
from hwbench.records.base import Missing
from hwbench.store.costs import CostStore, default_url, platform_key

SPACE = made_costs.space()
SAMPLES = [Machine().sample(SPACE, design, at) for at, design in enumerate(some_designs(SPACE, 6))]


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def store(tmp_path):
    with CostStore(url(tmp_path / "new" / "costs.sqlite")) as opened:
        yield opened


def of_other(sample, **changed):
    return msgspec.structs.replace(sample, platform=msgspec.structs.replace(sample.platform, **changed))


class TestKeeping:
    def test_samples_come_back_as_they_were_in_order_and_once(self, store):
        for sample in (*SAMPLES, SAMPLES[0]):
            store.add(sample)
        assert store.samples_of(PLATFORM, SPACE.hub_sha256) == SAMPLES

    def test_what_is_kept_outlives_the_process(self, tmp_path):
        for sample in SAMPLES[:2]:
            with CostStore(url(tmp_path / "c.sqlite")) as one:
                one.add(sample)
        with CostStore(url(tmp_path / "c.sqlite")) as other:
            assert other.samples_of(PLATFORM, SPACE.hub_sha256) == SAMPLES[:2]

    @pytest.mark.parametrize(
        "changed",
        [
            {"device": "f" * 16},
            {"version": "2.0"},
            {"threads": 2},
            {"floating": "fp32"},
            {"batch_size": 8},
            {"isa": ("avx2",)},
            {"power_mode": "15W"},
        ],
        ids=str,
    )
    def test_costs_of_another_platform_are_not_mixed_in(self, store, changed):
        store.add(of_other(SAMPLES[0], **changed))
        assert store.samples_of(PLATFORM, SPACE.hub_sha256) == []
        assert store.samples_with(PLATFORM, {"Conv 3x3"}) == []

    def test_words_and_order_do_not_make_a_platform(self):
        reworded = msgspec.structs.replace(
            PLATFORM, title="else", isa=PLATFORM.isa[::-1], power_mode=Missing(code="not_told", why="in other words")
        )
        assert platform_key(reworded) == platform_key(PLATFORM)

    def test_other_networks_are_found_by_the_kinds_of_their_clusters(self, store):
        for sample in SAMPLES[:3]:
            store.add(sample)
        assert store.samples_with(PLATFORM, {"Conv 3x3 + Add", "Gemm"}) == SAMPLES[:3]
        assert store.samples_with(PLATFORM, {"Gemm"}) == []
        assert store.samples_with(PLATFORM, {"Conv 3x3"}, but=SPACE.hub_sha256) == []


class TestPlace:
    def test_is_the_users_folder_unless_told(self, monkeypatch, tmp_path):
        monkeypatch.delenv("HWBENCH_STORE", raising=False)
        monkeypatch.setenv("HWBENCH_HOME", str(tmp_path))
        assert default_url() == url(tmp_path / "costs.sqlite")
        monkeypatch.setenv("HWBENCH_STORE", "sqlite:////elsewhere/c.sqlite")
        assert default_url() == "sqlite:////elsewhere/c.sqlite"

    def test_no_url(self):
        with pytest.raises(UsageError, match="'nonsense' is no URL of a database"):
            CostStore("nonsense")

    def test_no_driver(self):
        with pytest.raises(UsageError, match="is not installed"):
            CostStore("nosuchdatabase://host/name")

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot make"):
            CostStore(url(tmp_path / "file" / "c.sqlite"))


class TestDamage:
    def test_a_file_that_is_no_database(self, tmp_path):
        (tmp_path / "c.sqlite").write_bytes(b"not a database " * 100)
        with pytest.raises(StorageError, match="file is not a database") as caught:
            CostStore(url(tmp_path / "c.sqlite"))
        assert "move the file away" in caught.value.hint

    def test_a_database_of_somebody_else(self, tmp_path):
        with sqlite3.connect(tmp_path / "c.sqlite") as other:
            other.execute("CREATE TABLE songs (name TEXT)")
        other.close()
        with pytest.raises(StorageError, match="not a store of hwbench's: it holds songs"):
            CostStore(url(tmp_path / "c.sqlite"))
        again = sqlite3.connect(tmp_path / "c.sqlite")
        assert [row[0] for row in again.execute("SELECT name FROM sqlite_master")] == ["songs"]
        again.close()

    def test_one_of_a_newer_hwbench(self, tmp_path):
        CostStore(url(tmp_path / "c.sqlite")).close()
        newer = sqlite3.connect(tmp_path / "c.sqlite")
        newer.execute("UPDATE hwbench_costs SET schema_version = 99")
        newer.commit()
        newer.close()
        with pytest.raises(StorageError, match=r"newer hwbench \(format 99"):
            CostStore(url(tmp_path / "c.sqlite"))

    def test_a_sample_that_cannot_be_read(self, tmp_path):
        with CostStore(url(tmp_path / "c.sqlite")) as store:
            store.add(SAMPLES[0])
        broken = sqlite3.connect(tmp_path / "c.sqlite")
        broken.execute("UPDATE samples SET body = '{}'")
        broken.commit()
        broken.close()
        with (
            CostStore(url(tmp_path / "c.sqlite")) as store,
            pytest.raises(StorageError, match="a sample that cannot be read"),
        ):
            store.samples_of(PLATFORM, SPACE.hub_sha256)


WRITER = """
import sys
import made_costs
from made_costs import Machine, some_designs
from hwbench.store.costs import CostStore

space = made_costs.space()
designs = some_designs(space, 12, seed=int(sys.argv[2]))
with CostStore(sys.argv[1]) as store:
    for at, design in enumerate(designs):
        store.add(Machine().sample(space, design, at))
"""


def test_two_processes_write_at_once(tmp_path):
    tests = Path(__file__).parents[2]
    where = url(tmp_path / "c.sqlite")
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, where, seed], cwd=tests, stderr=subprocess.PIPE)
        for seed in ("1", "2")
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert writer.returncode == 0, said.decode()
    with CostStore(where) as store:
        kept = store.samples_of(PLATFORM, SPACE.hub_sha256)
    expected = {str(each) for seed in (1, 2) for each in some_designs(SPACE, 12, seed=seed)}
    assert {str(each.design) for each in kept} == expected
