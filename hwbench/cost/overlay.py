"""Where calibrations are kept: one file a machine, in the user's folder, over whatever a device profile says."""

from __future__ import annotations

from pathlib import Path

from hwbench.errors import StorageError
from hwbench.files import read_record, write_record
from hwbench.records.profile import CALIBRATION_SCHEMA, Calibration
from hwbench.resources import user_folder


def overlay_path(fingerprint: str) -> Path:
    """Return where the calibration of the machine with ``fingerprint`` is kept."""
    return user_folder() / "calibrations" / f"{fingerprint}.json"


def save(calibration: Calibration) -> Path:
    """Keep a calibration, replacing an older one of the same machine; returns its path.

    Raises:
        StorageError: the file cannot be written.
    """
    path = overlay_path(calibration.fingerprint)
    write_record(path, calibration)
    return path


def load(fingerprint: str) -> Calibration | None:
    """Return the calibration of the machine with ``fingerprint``, or None when it was never calibrated.

    Raises:
        StorageError: there is a file and it cannot be read, or it belongs to another machine.
    """
    path = overlay_path(fingerprint)
    if not path.exists():
        return None
    calibration = read_record(path, Calibration, schema=CALIBRATION_SCHEMA)
    if calibration.fingerprint != fingerprint:
        msg = f"{path} is the calibration of another machine ({calibration.fingerprint})"
        raise StorageError(msg, hint="run 'hwbench calibrate' on this one")
    return calibration
