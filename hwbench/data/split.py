"""Samples that lie on disk, divided at random into parts without a sample in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from hwbench.data.store import LABELS, InputWriter, stored_inputs
from hwbench.errors import UsageError
from hwbench.records.data import DataResult
from hwbench.records.model import DataFacts, Model

Name = TypeVar("Name", bound=str)

_BATCH = 64  # samples copied at a time


def split_stored(
    read: DataResult, model: Model, shares: Mapping[Name, float], seed: int, folder: Path
) -> dict[Name, DataResult]:
    """Divide samples; each part is laid down in a folder of its own under ``folder``, in the order of the source.

    Where a label belongs to several samples in a row (a pair of sentences), these stay together.

    Args:
        read: what a data child has laid down.
        model: whose inputs they are.
        shares: by part, its share; they add up to 1, and each part has one sample at least.
        seed: of the division.
        folder: gets the parts.

    Raises:
        UsageError: there are fewer samples than parts, or labels do not go evenly into samples.
    """
    source = Path(read.folder)
    total = read.facts.samples
    labels = np.load(source / LABELS, allow_pickle=False) if read.facts.labels else None
    units = total if labels is None else len(labels)
    each = total // max(1, units)
    if each == 0 or total - each * units >= each:  # one that is half of a pair is left out
        raise UsageError(
            f"'{read.facts.source}' has {units} labels for {total} samples: they cannot be divided",
            hint="give a label for each sample, or for each so many in a row",
        )
    if units < len(shares):
        what = f"{total} samples" if units == total else f"{units} labels"
        raise UsageError(f"'{read.facts.source}' has {what}, too few to be divided into {', '.join(shares)}")
    inputs = stored_inputs(source)
    found: dict[Name, DataResult] = {}
    for name, chosen in _rows(units, shares, seed).items():
        rows = (chosen[:, None] * each + np.arange(each)).ravel()
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        with InputWriter(place, model.inputs) as writer:
            for start in range(0, len(rows), _BATCH):
                writer.add({key: array[rows[start : start + _BATCH]] for key, array in inputs.items()})
            writer.finish()
        own = None if labels is None else labels[chosen]
        if own is not None:
            np.save(place / LABELS, own)
        facts = DataFacts(
            source=read.facts.source, sha256=writer.sha256(own), samples=len(rows), labels=own is not None
        )
        found[name] = DataResult(facts=facts, folder=str(place.resolve()))
    return found


def _rows(
    total: int, shares: Mapping[Name, float], seed: int
) -> dict[Name, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    order = np.random.default_rng(seed).permutation(total)
    sizes = [max(1, int(total * share)) for share in shares.values()]
    sizes[int(np.argmax(sizes))] += total - sum(sizes)  # what rounding left, to the largest
    ends = np.cumsum(sizes)
    return {name: np.sort(order[end - size : end]) for name, size, end in zip(shares, sizes, ends, strict=True)}
