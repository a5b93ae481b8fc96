"""The machine around the CPU: its memory, and whether it is a virtual machine or a container."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hwbench.devices import cgroup
from hwbench.devices.tree import Tree
from hwbench.records.base import Missing

# DMI vendor and product, in the order they are tried; a bare-metal product of the same vendor comes first.
_DMI: Final = (
    (r"amazon ec2.*\.metal", None),
    (r"amazon ec2|qemu|google compute engine|digitalocean|alibaba cloud ecs|red hat kvm|openstack", "KVM"),
    (r"vmware", "VMware"),
    (r"microsoft corporation virtual machine", "Hyper-V"),
    (r"^xen|hvm domu", "Xen"),
    (r"virtualbox|innotek", "VirtualBox"),
    (r"parallels", "Parallels"),
    (r"apple virtualization", "Apple Virtualization"),
)
_CLOCKSOURCES: Final = (("kvm-clock", "KVM"), ("hyperv_clocksource", "Hyper-V"), ("xen", "Xen"))
# What a runtime leaves in the path of the control group, or in where a few files of the container are mounted from.
_CONTAINERS: Final = (
    (r"kubepods|/kubelet/pods/", "kubernetes"),
    (r"docker[/-][0-9a-f]{12}|/docker/", "docker"),
    (r"libpod|/containers/storage/", "podman"),
    (r"/lxc", "lxc"),
    (r"containerd", "containerd"),
)
_CONTAINER_MOUNTS: Final = frozenset({"/", "/etc/hosts", "/etc/hostname"})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts that every device of one machine shares."""

    memory_bytes: int | Missing
    memory_limit_bytes: int | Missing
    virtual: str | Missing
    container: str | Missing
    board: str | None  # from the device tree, or an Arm server's firmware; x86 machines have none


def read_machine(tree: Tree, cpuinfo: str | None = None) -> Machine:
    """Read them; ``cpuinfo`` is the text of ``/proc/cpuinfo`` where the caller has it already."""
    cpuinfo = cpuinfo if cpuinfo is not None else tree.text("proc/cpuinfo") or ""
    return Machine(
        memory_bytes=memory_bytes(tree),
        memory_limit_bytes=cgroup.memory_limit_bytes(tree),
        virtual=hypervisor(tree, cpuinfo),
        container=container(tree),
        board=tree.text("proc/device-tree/model")
        or tree.text("sys/firmware/devicetree/base/model")
        or (_firmware_product(tree) if "CPU implementer" in cpuinfo else None),
    )


def _firmware_product(tree: Tree) -> str | None:
    """Return maker and product (``Amazon EC2 c7g.large``): Arm servers name their CPU nowhere else."""
    told = [tree.text(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    return " ".join(part for part in told if part) or None


def memory_bytes(tree: Tree) -> int | Missing:
    """Return the installed memory that the kernel manages, in bytes."""
    match = re.search(r"^MemTotal:\s*(\d+) kB", tree.text("proc/meminfo") or "", re.MULTILINE)
    if match is None:
        return Missing(code="not_exposed", why="/proc/meminfo does not tell the memory size")
    return int(match[1]) * 1024


def hypervisor(tree: Tree, cpuinfo: str) -> str | Missing:
    """Return the name of the hypervisor, ``"unnamed"`` when there is one that does not tell, Missing on bare metal.

    x86 has a flag for it, and without the flag nothing else is asked: a cloud's bare-metal machine may carry
    the same vendor name as its virtual ones. Other architectures have no flag, so the firmware's tables decide.
    """
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    flagged = flags is not None and "hypervisor" in flags[1].split()
    if flags is None or flagged:
        name = _named_by_firmware(tree) or ("unnamed" if flagged else None)
        if name is not None:
            return name
    return Missing(code="bare_metal", why="nothing here points to a hypervisor")


def _named_by_firmware(tree: Tree) -> str | None:
    product = " ".join(tree.text(f"sys/class/dmi/id/{name}") or "" for name in ("sys_vendor", "product_name")).lower()
    for pattern, maker in _DMI:
        if re.search(pattern, product):
            return maker
    if tree.text("sys/hypervisor/type") == "xen":
        return "Xen"
    if "microsoft" in (tree.text("proc/sys/kernel/osrelease") or "").lower():  # WSL 2
        return "Hyper-V"
    clocks = tree.text("sys/devices/system/clocksource/clocksource0/available_clocksource") or ""
    for clock, maker in _CLOCKSOURCES:
        if clock in clocks:
            return maker
    # QEMU, crosvm and Firecracker give an Arm guest a machine of this name.
    return "unnamed" if "linux,dummy-virt" in (tree.text("proc/device-tree/compatible") or "") else None


def container(tree: Tree) -> str | Missing:
    """Return what kind of container this process is in, Missing when there is no sign of one."""
    signs = (tree.text("proc/self/cgroup") or "") + "\n" + _mounted_from(tree)
    for pattern, name in _CONTAINERS:
        if re.search(pattern, signs):
            return name
    if tree.exists("run/.containerenv"):
        return "podman"
    if tree.exists(".dockerenv"):
        return "docker"
    told = tree.text("run/systemd/container")
    return told or Missing(code="no_container", why="nothing here points to a container")


def _mounted_from(tree: Tree) -> str:
    """Return the mount lines of the files that a container runtime puts in place; a host's own show nothing."""
    lines = (line for line in (tree.text("proc/self/mountinfo") or "").splitlines())
    return "\n".join(line for line in lines if line.count(" ") > 4 and line.split()[4] in _CONTAINER_MOUNTS)
