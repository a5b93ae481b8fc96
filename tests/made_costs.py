"""A network by hand and a machine by formula: what clusters, borders and whole networks take there is known exactly."""

from __future__ import annotations

import math
import random

import numpy as np

from hwbench.plan.designs import sizes_of
from hwbench.records.base import Missing
from hwbench.records.planning import (
    BorderTime,
    Cluster,
    ClusterTime,
    CostSample,
    Design,
    Option,
    Platform,
    Site,
    Space,
)
from hwbench.tables.borders import crossings
from hwbench.tables.draw import at_random

HUB = "a" * 64
START_S = 3e-5
NOT_TIMED = Missing(code="not_timed", why="it was not")
PLATFORM = Platform(
    device="0123456789abcdef",
    title="a made machine",
    engine="made",
    version="1.0",
    isa=("avx2", "avx512f", "avx512_vnni"),
    threads=1,
    batch_size=1,
    floating="auto",
    power_mode=Missing(code="not_told", why="nobody says"),
)


def conv(name, into, out, positions, *, kind="Conv 3x3", widths_in=None, widths_out=None, blocks=(), readers=None):
    return Cluster(
        name=name,
        layers=(name, f"{name}.relu"),
        kind=kind,
        channels_in=into,
        channels_out=out,
        groups=1,
        macs=9 * into * out * positions,
        elements_in=into * positions,
        elements_out=out * positions,
        weights=9 * into * out,
        depthwise=False,
        widths_in=widths_in or {},
        widths_out=widths_out or {},
        precision=f"precision:{name}",
        rank=None,
        blocks=blocks,
        readers=readers or {},
    )


def space(blocks=3, positions=256):
    """A stem, residual blocks of two convolutions at 64 channels each, and a last convolution."""
    names = ["stem", *(f"{n}.{k}" for n in range(blocks) for k in "ab"), "last"]
    size = 64 * positions
    clusters = [conv("stem", 3, 64, positions, readers={"0.a": size, "0.b": size})]
    for n in range(blocks):
        group, gone = f"width:{n}.a", (f"depth:{n}",)
        behind = {f"{n + 1}.a": size, f"{n + 1}.b": size} if n + 1 < blocks else {"last": size}
        clusters += [
            conv(f"{n}.a", 64, 64, positions, widths_out={group: 1}, blocks=gone, readers={f"{n}.b": size}),
            conv(f"{n}.b", 64, 64, positions, kind="Conv 3x3 + Add", widths_in={group: 1}, blocks=gone, readers=behind),
        ]
    clusters.append(conv("last", 64, 32, positions))
    both = (Option(name="float", scheme="float"), Option(name="int8", scheme="int8"))
    counts = (64, 56, 48, 40, 32, 16)
    widths = tuple(Option(name=f"{count} of 64", units=count) for count in counts)
    sites = [
        *(Site(kind="precision", about=name, options=both) for name in names),
        *(Site(kind="width", about=f"{n}.a", options=widths) for n in range(blocks)),
        *(
            Site(kind="depth", about=str(n), options=(Option(name="kept"), Option(name="dropped", dropped=True)))
            for n in range(blocks)
        ),
    ]
    return Space(hub_sha256=HUB, sites=tuple(sites), clusters=tuple(clusters))


class Machine:
    """Takes time by a formula with stairs of 16 channels.

    ``refuses``: clusters that it builds in float whatever is asked. ``noise``: standard deviation of the logarithm of a
    part's time and of the whole's. ``slower``: where set, how much slower it is at each sample in turn. ``profiler``:
    what it takes for a unit, and what share of that it counts as the unit's.
    """

    def __init__(self, noise=0.0, refuses=(), slower=(), slow_widths=(), profiler=(0.0, 0.0)):
        self.noise, self.refuses, self.slower, self.slow_widths = noise, refuses, slower, slow_widths
        self.profiler = profiler
        self.rng = np.random.default_rng(7)

    def scheme(self, cluster, design):
        return "float" if cluster.name in self.refuses else design.of(cluster.name)

    def part(self, cluster, sizes, scheme):
        stairs = -(-sizes.channels_in // 16) * -(-sizes.channels_out // 16) / (sizes.channels_in * sizes.channels_out)
        rate = 4e10 if scheme == "int8" else 1.5e10
        more = 1.4 if sizes.channels_out in self.slow_widths else 1.0
        own = 1.05 if cluster.kind.endswith("Add") else 1.0
        return more * own * (2e-6 + 256 * sizes.macs * stairs / rate + 2e-10 * sizes.elements_out)

    def border(self, crossing):
        return 1e-6 + crossing.elements * (3e-10 if crossing.scheme_to == "int8" else 5e-10)

    def whole(self, space, design):
        """What a network takes from end to end, without noise."""
        parts = 0.0
        for cluster in space.clusters:
            sizes = sizes_of(cluster, space, design)
            if sizes is not None:
                parts += 1.1 * self.part(cluster, sizes, self.scheme(cluster, design)) + 5e-7
        return START_S + parts + 1.1 * sum(self.border(each) for each in crossings(space, design))

    def sample(self, space, design, number=0):
        slow = self.slower[number % len(self.slower)] if self.slower else 1.0
        each, own = slow * self.profiler[0], slow * self.profiler[0] * self.profiler[1]
        clusters = []
        for cluster in space.clusters:
            sizes = sizes_of(cluster, space, design)
            if sizes is not None:
                scheme = self.scheme(cluster, design)
                time = slow * self._noisy(self.part(cluster, sizes, scheme)) + own
                clusters.append(
                    ClusterTime(cluster=cluster.name, kind=cluster.kind, scheme=scheme, sizes=sizes, time_s=time)
                )
        found = crossings(space, design)
        elements = {one.kind: 0 for one in found}
        for one in found:
            elements[one.kind] += one.elements
        median = slow * self._noisy(self.whole(space, design))
        return CostSample(
            platform=PLATFORM,
            hub_sha256=space.hub_sha256,
            design=design,
            clusters=tuple(clusters),
            border=BorderTime(
                elements=elements, time_s=sum(slow * self.border(one) + own for one in found), units=len(found)
            ),
            samples_ns=(round(median * 1e9),),
            median_s=median,
            reference_s=slow * self.whole(space, Design()),
            profiled_s=median + each * (len(clusters) + len(found)),
            units=len(clusters) + len(found),
        )

    def _noisy(self, time):
        return time * math.exp(self.noise * self.rng.standard_normal())


def some_designs(made, count, seed=0):
    source = at_random(made, random.Random(seed))
    return [next(source) for _ in range(count)]
