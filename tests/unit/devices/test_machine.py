from __future__ import annotations

import pytest

from hwbench.devices.machine import container, hypervisor
from hwbench.devices.tree import Tree
from hwbench.records.base import Missing

X86_GUEST = "processor : 0\nflags\t\t: fpu lm hypervisor avx2\n"
X86_METAL = "processor : 0\nflags\t\t: fpu lm avx2\n"
ARM = "processor : 0\nCPU implementer : 0x41\n"


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Tree(root)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"sys/class/dmi/id/sys_vendor": "VMware, Inc."}, "VMware"),
        (
            {
                "sys/class/dmi/id/sys_vendor": "Microsoft Corporation\n",
                "sys/class/dmi/id/product_name": "Virtual Machine\n",
            },
            "Hyper-V",
        ),
        ({"sys/class/dmi/id/sys_vendor": "QEMU"}, "KVM"),
        ({"sys/hypervisor/type": "xen"}, "Xen"),
        ({"proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2"}, "Hyper-V"),
        ({}, "unnamed"),
    ],
)
def test_hypervisors(tmp_path, files, name):
    assert hypervisor(write(tmp_path, files), X86_GUEST) == name


def test_x86_without_the_flag_is_bare_metal_whatever_the_vendor(tmp_path):
    tree = write(tmp_path, {"sys/class/dmi/id/sys_vendor": "Amazon EC2"})
    assert isinstance(hypervisor(tree, X86_METAL), Missing)


def test_an_arm_guest_without_dmi(tmp_path):
    tree = write(tmp_path, {"proc/device-tree/compatible": "linux,dummy-virt\0"})
    assert hypervisor(tree, ARM) == "unnamed"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": ""}, "podman"),
        ({"proc/self/cgroup": "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope"}, "kubernetes"),
        ({"proc/self/cgroup": "0::/system.slice/docker-0123456789abcdef.scope"}, "docker"),
        ({"run/systemd/container": "systemd-nspawn"}, "systemd-nspawn"),
    ],
)
def test_containers(tmp_path, files, name):
    assert container(write(tmp_path, files)) == name


def test_a_host_that_runs_docker_is_no_container(tmp_path):
    files = {
        "proc/self/cgroup": "0::/user.slice\n",
        "proc/self/mountinfo": "90 28 0:55 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw\n",
    }
    assert isinstance(container(write(tmp_path, files)), Missing)
