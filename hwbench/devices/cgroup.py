"""What a container may use: the CPU quota and the memory limit of this process's control group, v1 and v2.

A limit on any ancestor binds too, so the smallest on the way up to the mount point counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from hwbench.devices.tree import Tree, as_integer
from hwbench.records.base import Missing

# v1 says "no limit" with a number just under 2**63, rounded to the page size.
_UNLIMITED_BYTES = 2**62


@dataclass(frozen=True, kw_only=True)
class _Mount:
    """One mounted control-group hierarchy; ``controllers`` is empty for v2."""

    point: str
    root: str
    controllers: frozenset[str]


def quota_cpus(tree: Tree) -> float | Missing:
    """Return the CPU time this process may use, in CPUs; Missing (``no_limit``) when nothing limits it."""
    found = [quota for folder in _folders(tree, "cpu") if (quota := _quota(tree, folder)) is not None]
    return min(found) if found else _none(tree, "CPU quota")


def memory_limit_bytes(tree: Tree) -> int | Missing:
    """Return the memory this process may use; Missing (``no_limit``) when nothing limits it."""
    found = [limit for folder in _folders(tree, "memory") if (limit := _memory(tree, folder)) is not None]
    return min(found) if found else _none(tree, "memory limit")


def cpu_folders(tree: Tree) -> tuple[str, ...]:
    """Return the folders of this process's groups that may limit its CPU time, the closest first."""
    return tuple(_folders(tree, "cpu"))


def _none(tree: Tree, what: str) -> Missing:
    if tree.text("proc/self/cgroup") is None:
        return Missing(code="not_exposed", why=f"control groups are not shown here, so a {what} cannot be seen")
    return Missing(code="no_limit", why=f"no {what} is set")


def _quota(tree: Tree, folder: str) -> float | None:
    text = tree.text(f"{folder}/cpu.max")
    if text is not None:
        quota, _, period = text.partition(" ")
        return _ratio(as_integer(quota), as_integer(period))
    return _ratio(tree.integer(f"{folder}/cpu.cfs_quota_us"), tree.integer(f"{folder}/cpu.cfs_period_us"))


def _ratio(quota: int | None, period: int | None) -> float | None:
    # "max" in v2 is no integer; -1 in v1 means none.
    return quota / period if quota is not None and period and quota > 0 else None


def _memory(tree: Tree, folder: str) -> int | None:
    limit = tree.integer(f"{folder}/memory.max")
    if limit is None:
        limit = tree.integer(f"{folder}/memory.limit_in_bytes")
    return limit if limit is not None and limit < _UNLIMITED_BYTES else None


def _folders(tree: Tree, controller: str) -> Iterator[str]:
    """Yield the folders of this process's groups that may limit ``controller``, from the leaf up to the mount."""
    groups = _own_groups(tree)
    for mount in _mounts(tree):
        if mount.controllers and controller not in mount.controllers:
            continue
        group = groups.get(controller if mount.controllers else "", "/")
        inside = _below(group, mount.root)
        while True:
            yield f"{mount.point}/{inside}".rstrip("/").lstrip("/")
            if not inside:
                break
            inside = inside.rpartition("/")[0]


def _below(group: str, root: str) -> str:
    """Return ``group`` relative to the mount's root, ``""`` when the mount does not reach it.

    Without a cgroup namespace a container sees its own folder mounted as the top, but its path as the host
    writes it; with one, a group outside of the namespace starts with ``/..``.
    """
    path = PurePosixPath(group)
    if ".." in path.parts or not path.is_relative_to(root):
        return ""
    return str(path.relative_to(root)).removeprefix(".")


def _own_groups(tree: Tree) -> dict[str, str]:
    """Return this process's group by controller; v2 under the empty name."""
    groups = {}
    for line in (tree.text("proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for name in controllers.split(",") if number != "0" else [""]:
            groups[name] = path
    return groups


def _mounts(tree: Tree) -> list[_Mount]:
    """Return the cgroup mounts; fields as in proc_pid_mountinfo(5)."""
    mounts = []
    for line in (tree.text("proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        options = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset[str]()
        mounts.append(_Mount(point=fields[4], root=fields[3], controllers=options))
    return mounts
