from __future__ import annotations

import pytest

from hwbench.devices.cgroup import memory_limit_bytes, quota_cpus
from hwbench.devices.tree import Tree
from hwbench.records.base import Missing

V2_MOUNT = "30 24 0:26 {root} /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"


@pytest.fixture
def tree(tmp_path):
    def make(files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return Tree(tmp_path)

    return make


def test_the_smallest_limit_on_the_way_up_counts(tree):
    here = tree(
        {
            "proc/self/cgroup": "0::/a/b/c\n",
            "proc/self/mountinfo": V2_MOUNT.format(root="/"),
            "sys/fs/cgroup/a/b/c/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/a/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/memory.max": "1048576\n",
            "sys/fs/cgroup/a/b/c/memory.max": "max\n",
        }
    )
    assert quota_cpus(here) == 0.5
    assert memory_limit_bytes(here) == 2**20


def test_a_container_without_cgroup_namespace_sees_its_own_folder_as_the_top(tree):
    here = tree(
        {
            "proc/self/cgroup": "0::/docker/0123\n",
            "proc/self/mountinfo": V2_MOUNT.format(root="/docker/0123"),
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/memory.max": "4096\n",
        }
    )
    assert quota_cpus(here) == 2.0
    assert memory_limit_bytes(here) == 4096


def test_a_group_outside_of_the_namespace_falls_to_the_mount(tree):
    here = tree(
        {
            "proc/self/cgroup": "0::/../../other\n",
            "proc/self/mountinfo": V2_MOUNT.format(root="/"),
            "sys/fs/cgroup/cpu.max": "100000 100000\n",
        }
    )
    assert quota_cpus(here) == 1.0


def test_version_one(tree):
    here = tree(
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/jobs/7\n4:memory:/jobs/7\n1:name=systemd:/\n",
            "proc/self/mountinfo": (
                "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
                "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            ),
            "sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": "8192\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        }
    )
    assert quota_cpus(here) == 3.0
    assert memory_limit_bytes(here) == 8192


def test_no_limit_and_not_shown_are_different_reasons(tree):
    assert quota_cpus(tree({})).code == "not_exposed"
    unlimited = tree({"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2_MOUNT.format(root="/")})
    limit = memory_limit_bytes(unlimited)
    assert isinstance(limit, Missing)
    assert limit.code == "no_limit"
