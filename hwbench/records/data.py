"""Data on their way to a model."""

from __future__ import annotations

from hwbench.records.base import Record
from hwbench.records.model import DataFacts, Model


class DataJob(Record, frozen=True, kw_only=True):
    """Data to bring in, for the model's inputs; ``preprocess`` says how a picture becomes a sample."""

    data: str
    model: Model
    limit: int | None
    preprocess: str | None = None


class DataResult(Record, frozen=True, kw_only=True):
    """What the data are, and in which folder :mod:`hwbench.data.store` has laid them down."""

    facts: DataFacts
    folder: str
