"""The kernel's energy events, made up: a PMU in a tree, and the calls that count by a machine's clock."""

from __future__ import annotations

import struct

from hwbench.meters.perf_calls import ATTR_SIZE

PMU = "sys/bus/event_source/devices/power"
SCALE = "2.3283064365386962890625e-10"  # 2^-32 J, as the kernel writes it
WATTS = {1: 40.0, 2: 60.0, 3: 5.0, 4: 3.0, 5: 90.0}  # by event code: cores, package, DRAM, GPU, platform


class FakeKernel:
    """Counts energy by the clock of a machine, from zero at each opening."""

    def __init__(self, machine, watts=WATTS, refuse=None):
        self.machine, self.watts, self.refuse = machine, watts, refuse or {}
        self.open_files, self.opened = {}, []

    def open(self, attr, cpu):
        kind, size, config = struct.unpack_from("=IIQ", attr)
        assert kind == 22
        assert size == len(attr) == ATTR_SIZE
        number = self.refuse.get(config)
        if number is not None:
            raise OSError(number, "refused")
        file = len(self.opened) + 100
        self.opened.append((config, cpu))
        self.open_files[file] = (config, self.machine.elapsed_s)
        return file

    def read(self, file):
        config, since_s = self.open_files[file]
        return int(self.watts[config] * (self.machine.elapsed_s - since_s) * 2**32)

    def close(self, file):
        del self.open_files[file]


def pmu(machine, cpus="0", packages=None, events=("pkg", "ram", "cores", "gpu", "psys"), vendor="GenuineIntel"):
    machine.put(PMU, type=22, cpumask=cpus)
    numbers = {"cores": 1, "pkg": 2, "ram": 3, "gpu": 4, "psys": 5}
    for name in events:
        files = {f"energy-{name}": f"event=0x{numbers[name]:02x}", f"energy-{name}.scale": SCALE}
        machine.put(f"{PMU}/events", **files, **{f"energy-{name}.unit": "Joules"})
    for cpu, package in (packages or {0: 0}).items():
        machine.put(f"sys/devices/system/cpu/cpu{cpu}/topology", physical_package_id=package)
    machine.put("proc", cpuinfo=f"processor\t: 0\nvendor_id\t: {vendor}\n")
    return machine
