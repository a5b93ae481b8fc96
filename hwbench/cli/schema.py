"""``hwbench schema``: the JSON schema of what ``hwbench profile`` writes."""

from __future__ import annotations

from hwbench.cli.terminal import command, write_stdout


@command
def schema() -> None:
    """Print the JSON schema of a profile result."""
    write_stdout(profile_schema())


def profile_schema() -> bytes:
    """Return the schema as JSON text; the copy in ``docs/schemas`` is this, and a test holds them together."""
    import msgspec

    from hwbench.records.measurement import ProfileResult

    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(ProfileResult)), indent=1) + b"\n"
