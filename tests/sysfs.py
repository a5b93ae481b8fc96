"""Made-up ``/sys`` trees for the tests of meters."""

from __future__ import annotations

from hwbench.testing import FakeClock


class Machine(FakeClock):
    """A machine under ``root`` whose attributes change as its clock moves."""

    def __init__(self, root):
        super().__init__()
        self.root = root
        self.elapsed_s = 0.0
        self._moving = {}

    def put(self, folder, **files):
        """Write attributes into a folder and return it."""
        path = self.root / folder
        path.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (path / name).write_text(f"{text}\n")
        return path

    def move(self, file, value):
        """Let a file hold ``value(seconds since the start)``, rounded."""
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        self._moving[file] = value
        self._write()

    def advance(self, seconds):
        super().advance(seconds)
        self.elapsed_s += seconds
        self._write()

    def _write(self):
        for file, value in self._moving.items():
            (self.root / file).write_text(f"{round(value(self.elapsed_s))}\n")


def measure(machine, meter, device, seconds):
    """Return the reading of one window, in which the instrument is read as often as it wants to be."""
    from hwbench.testing import let, opened

    with opened(meter, device, machine) as recorder, recorder.window() as window:
        let(recorder, machine, seconds)
    return window.reading()


def codes(meter, device):
    """Return the codes of the reasons against a meter."""
    return [reason.code for reason in meter.supports(device).reasons]
