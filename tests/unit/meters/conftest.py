"""A powercap tree in a temporary folder, whose counters move with a fake clock."""

from __future__ import annotations

import pytest

from hwbench.testing import FakeClock

RANGE_UJ = 262_143_328_850


class RaplTree(FakeClock):
    """The machine: telling it that time passes moves its counters."""

    def __init__(self, root):
        super().__init__()
        self.root = root
        self.folder = root / "sys/class/powercap"
        self.folder.mkdir(parents=True)
        self._zones = {}

    def zone(self, entry, name, *, start_uj=1_000_000_000, watts=10.0, range_uj=RANGE_UJ):
        """Add a zone; ``range_uj=None`` leaves its range out."""
        path = self.folder / entry
        path.mkdir()
        (path / "name").write_text(f"{name}\n")
        if range_uj is not None:
            (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self._zones[entry] = {"uj": float(start_uj), "watts": watts, "range": range_uj}
        self._write(entry)

    def set(self, entry, *, watts=None, uj=None):
        """Change what a zone draws, or put its counter somewhere."""
        if watts is not None:
            self._zones[entry]["watts"] = watts
        if uj is not None:
            self._zones[entry]["uj"] = float(uj)
            self._write(entry)

    def advance(self, seconds):
        super().advance(seconds)
        for entry, zone in self._zones.items():
            zone["uj"] += zone["watts"] * seconds * 1e6
            if zone["range"] is not None:
                zone["uj"] %= zone["range"]
            self._write(entry)

    def _write(self, entry):
        (self.folder / entry / "energy_uj").write_text(f"{round(self._zones[entry]['uj'])}\n")

    def cpuinfo(self, flags):
        """Write the flags that the CPU shows."""
        (self.root / "proc").mkdir()
        (self.root / "proc/cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Example\nflags\t\t: {flags}\n\n")


@pytest.fixture
def tree(tmp_path):
    return RaplTree(tmp_path)


@pytest.fixture
def client_tree(tree):
    """A laptop: one package with its parts and DRAM, the platform, and the package again through MMIO."""
    tree.zone("intel-rapl:0", "package-0", watts=30.0)
    tree.zone("intel-rapl:0:0", "core", watts=20.0)
    tree.zone("intel-rapl:0:1", "uncore", watts=3.0)
    tree.zone("intel-rapl:0:2", "dram", watts=4.0, range_uj=65_712_999_613)
    tree.zone("intel-rapl:1", "psys", watts=50.0)
    tree.zone("intel-rapl-mmio:0", "package-0", watts=30.0)
    return tree
