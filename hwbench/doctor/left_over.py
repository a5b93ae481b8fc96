"""What an earlier ``hwbench doctor --apply`` has changed and not put back."""

from __future__ import annotations

from hwbench.doctor import journal
from hwbench.doctor.answers import cannot_tell, info, warning
from hwbench.doctor.subject import Subject
from hwbench.errors import StorageError
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck


def left_changed(subject: Subject) -> HealthCheck | None:
    """Check that no killed run has left the machine changed; None where there is no journal of one."""
    name, root = "left_changed", subject.tree.root
    try:
        left = journal.read_journal(root)
    except StorageError as error:
        return cannot_tell(name, Missing(code="unreadable", why=error.message, cure="remove it"))
    if left is None:
        return None
    settings = ", ".join(dict.fromkeys(change.setting for change in left.changes))
    during = f"hwbench doctor --apply has changed {settings} while {' '.join(left.command)} runs"
    if journal.is_held(root):
        return info(name, during)
    return warning(
        name,
        f"hwbench doctor --apply was killed at {left.created_at} or later, and had changed {settings}",
        "the machine is not set as usual: faster, slower or hotter, and it saves no power",
        "sudo hwbench doctor --restore",
    )
