"""Accuracy joined to speed: by the hash of the saved engine, and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hwbench.records.base import Missing
from hwbench.records.measurement import Accuracy, Measurement, ProfileResult
from hwbench.records.verification import Verification, accuracy_of
from hwbench.report.ranking import WAIVED

_WAIVED = Missing(code=WAIVED, why="--no-accuracy: it was not asked for")


def with_accuracy(
    results: Sequence[ProfileResult], verifications: Sequence[Verification], *, waived: bool
) -> list[ProfileResult]:
    """Return ``results`` with what ``verifications`` say of the same saved engines.

    ``waived``: of an engine whose accuracy is not known, speed may be claimed all the same.
    """
    known = {
        row.artefact_sha256: accuracy_of(
            row.artefact_sha256, each.data, row.scores if row.finite else (), row.certificate
        )
        for each in verifications
        for row in each.rows
        if isinstance(row.artefact_sha256, str)
    }
    return [
        msgspec.structs.replace(
            result, measurements=tuple(_joined(each, known, waived=waived) for each in result.measurements)
        )
        for result in results
    ]


def _joined(measurement: Measurement, known: dict[str, Accuracy | Missing], *, waived: bool) -> Measurement:
    digest = measurement.artefact_sha256
    if not isinstance(digest, str):
        return measurement
    found = known.get(digest, measurement.accuracy)
    if isinstance(found, Missing) and waived:
        found = _WAIVED
    return msgspec.structs.replace(measurement, accuracy=found)
