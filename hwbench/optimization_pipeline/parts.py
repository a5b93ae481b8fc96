"""The data divided: what is learnt from, what is selected by, and what certifies and has chosen nothing."""

from __future__ import annotations

from pathlib import Path

from hwbench.data.split import split_stored
from hwbench.intake import Intake
from hwbench.records.data import DataResult
from hwbench.records.model import Model
from hwbench.records.optimization import OptimizeRequest, Part, PartName, Parts, Shares


def divide(request: OptimizeRequest, model: Model, intake: Intake, folder: Path) -> Parts:
    """Divide the data into three; or those to verify with into two, where they were given.

    Raises:
        UsageError: they cannot be read, do not fit the model, or are too few.
    """
    shares = Shares()
    if request.verify_data is None:
        found = _divided(
            request,
            (request.data, "data"),
            model,
            {"learn": shares.learn, "select": shares.select, "certify": shares.certify},
            intake,
            folder,
        )
    else:
        rest = shares.select + shares.certify
        learn = intake.data(request.data, model, "data", limit=request.samples, preprocess=request.preprocess)
        found = {"learn": _part("learn", learn, f"all of {request.data}")}
        found |= _divided(
            request,
            (request.verify_data, "verify-data"),
            model,
            {"select": shares.select / rest, "certify": shares.certify / rest},
            intake,
            folder,
        )
    return Parts(learn=found["learn"], select=found["select"], certify=found["certify"], seed=request.seed)


def _divided(
    request: OptimizeRequest,
    source: tuple[str, str],
    model: Model,
    shares: dict[PartName, float],
    intake: Intake,
    folder: Path,
) -> dict[PartName, Part]:
    text, where = source
    read = intake.data(text, model, where, limit=request.samples, preprocess=request.preprocess)
    found = split_stored(read, model, shares, request.seed, folder)
    return {
        name: _part(name, found[name], f"{share:.0%} of {text}, at random with seed {request.seed}")
        for name, share in shares.items()
    }


def _part(name: PartName, read: DataResult, taken: str) -> Part:
    return Part(name=name, facts=read.facts, folder=read.folder, taken=taken)
