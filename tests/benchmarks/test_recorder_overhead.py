"""What recording costs: under 1 % of a core at 20 Hz with eight channels, and nothing that the latency shows.

Blocks of the same work with the recorder, without it, and without it again alternate in random order; the third is the
A/A control: its ratio shows what this machine can resolve.

    make bench PYTEST_ARGS="-k recorder"
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import statistics
import time

import pytest

from hwbench.energy.recorder import Recorder
from hwbench.records.energy import Channel
from hwbench.stats import mean_interval
from hwbench.units import MonotonicClock

CPU_BOUND = 0.01
CHANNELS, EVERY_S = 8, 0.05
ROUNDS, BLOCK_S = 60, 0.3


class Files:
    """Eight attributes in files, read anew each time, as sysfs sensors are."""

    every_s = EVERY_S

    def __init__(self, folder):
        self.files = []
        for number in range(CHANNELS):
            path = folder / f"power{number}_input"
            path.write_text("12345678\n")
            self.files.append(os.open(path, os.O_RDONLY))
        self.channels = tuple(
            Channel(name=f"rail{n}", quantity="power", role="total", source=f"power{n}_input", period_s=0.1)
            for n in range(CHANNELS)
        )

    def read(self):
        return tuple(int(os.pread(file, 32, 0)) / 1e6 for file in self.files)


class Instrument:
    meter, boundary, provenance, settings = "files", "eight files", "measured_onboard", {}

    def __init__(self, folder):
        self.sources = (Files(folder),)

    def close(self):
        for file in self.sources[0].files:
            os.close(file)


@pytest.mark.benchmark(group="recorder")
def test_recorder(benchmark, capsys, tmp_path):
    data = bytes(range(256)) * 4096  # a millisecond of one core's work, outside of the interpreter's lock
    draw = random.Random(0)

    def block():
        times, until = [], time.perf_counter() + BLOCK_S
        while time.perf_counter() < until:
            start = time.perf_counter()
            hashlib.sha256(data)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def recorded(spent):
        with Recorder(Instrument(tmp_path), clock=MonotonicClock()) as recorder:
            median = block()
            recorder.stop()
            spent.append((recorder.cpu_s, recorder.now_s()))
            assert len(recorder.trace.samples["rail0"]) >= 0.5 * BLOCK_S / EVERY_S
        return median

    def interleaved():
        ratios, control, spent = [], [], []
        block()
        for _ in range(ROUNDS):
            runs = [("with", lambda: recorded(spent)), ("without", block), ("again", block)]
            draw.shuffle(runs)
            median = {name: call() for name, call in runs}
            ratios.append(math.log(median["with"] / median["without"]))
            control.append(math.log(median["again"] / median["without"]))
        return ratios, control, sum(cpu for cpu, _ in spent) / sum(wall for _, wall in spent)

    ratios, control, share = benchmark.pedantic(interleaved, rounds=1, iterations=1)
    low, high = mean_interval(ratios)
    noise = max(abs(edge) for edge in mean_interval(control))
    benchmark.extra_info.update(cpu_share=share, ratio=math.exp(statistics.fmean(ratios)))
    with capsys.disabled():
        print(
            f"\nrecorder at {1 / EVERY_S:.0f} Hz, {CHANNELS} channels: {share:.2%} of one core; latency with / without "
            f"{math.expm1(statistics.fmean(ratios)):+.2%} [{math.expm1(low):+.2%}, {math.expm1(high):+.2%}], "
            f"without / without {math.expm1(statistics.fmean(control)):+.2%}, ±{math.expm1(noise):.2%}, {ROUNDS} rounds"
        )
    assert share < CPU_BOUND
    assert low <= 0 <= high or abs(statistics.fmean(ratios)) <= noise
