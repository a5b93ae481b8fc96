"""A network under compression on disk, after each step: what a later run goes on from."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Subject
from hwbench.compress.codebooks import Codebook
from hwbench.errors import StorageError, UsageError
from hwbench.files import decode, read_bytes, write_record
from hwbench.graph.onnx_file import infer_shapes
from hwbench.graph.parts import write_graph
from hwbench.records.base import Record
from hwbench.records.compression import Applied, CompressRequest

_BOOKS, _GRAPH, _KEPT, _ORIGINAL = "books.json", "graph.onnx", "kept.npz", "original.onnx"
# What another value of these would not change in the steps that are done.
_FREE = ("verify", "emit", "replace", "resume", "device", "threads", "timeout_s")


class Books(Record, frozen=True, kw_only=True):
    """What is known of the network beside its graph; ``kept`` names the arrays of ``kept.npz``."""

    request: CompressRequest
    hub_sha256: str
    data_sha256: str | None
    applied: tuple[Applied, ...]
    kept: tuple[tuple[str, int], ...]
    held_zeros: tuple[str, ...]
    bits: dict[str, float]
    codebooks: dict[str, tuple[str, tuple[int, ...], int]]  # by initialiser: name, axes and most codes
    on_grid: tuple[str, ...] = ()
    transferred: bool = False  # whether the original is a graph of its own, beside this file


def save_graph(model: ir.Model, path: Path) -> tuple[str, ...]:
    """Write a graph, with its weights beside it where they are many; return the names of the files.

    Raises:
        StorageError: the disk is full, or not ours to write.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files = write_graph(model, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return tuple(file.name for file in files)


def save(folder: Path, subject: Subject, books: Books) -> None:
    """Write the network and its books into ``folder``.

    Each state has a folder of its own, and the books, which name it, are replaced last: a state is whole or not there.
    """
    here = folder / f"state-{len(books.applied)}"
    save_graph(subject.model, here / _GRAPH)
    if subject.transferred:
        save_graph(subject.original, here / _ORIGINAL)
    kept = {(name, axis): indices for name, axes in subject.kept.items() for axis, indices in axes.items()}
    try:
        np.savez(here / _KEPT, **{str(number): indices for number, indices in enumerate(kept.values())})  # type: ignore[arg-type]
    except OSError as error:
        raise StorageError(f"cannot write {here / _KEPT}: {error.strerror or error}") from error
    books = msgspec.structs.replace(
        books,
        kept=tuple(kept),
        transferred=subject.transferred,
        held_zeros=tuple(sorted(subject.held_zeros)),
        bits=dict(subject.bits),
        on_grid=tuple(sorted(subject.on_grid)),
        codebooks={tensor: (book.name, book.axes, book.codes) for tensor, book in subject.codebooks.items()},
    )
    write_record(folder / _BOOKS, books)
    for old in folder.glob("state-*"):
        if old != here:
            shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, subject: Subject, expected: Books) -> tuple[Applied, ...] | None:
    """Bring a network to where a run stopped, and return the steps that are done; None where there is no state.

    Raises:
        UsageError: the state is of another request, model or data.
        StorageError: it is damaged.
    """
    if not (folder / _BOOKS).exists():
        return None
    books = decode(read_bytes(folder / _BOOKS), Books, what=f"{folder / _BOOKS}")
    same = {name: getattr(expected.request, name) for name in _FREE}
    asked = msgspec.structs.replace(books.request, **same) == expected.request
    if not asked or (books.hub_sha256, books.data_sha256) != (expected.hub_sha256, expected.data_sha256):
        raise UsageError(
            f"what was begun in {folder.parent} is of another model, other data or other steps",
            hint="give the same command to go on, or --force to begin anew",
        )
    here = folder / f"state-{len(books.applied)}"
    subject.model = infer_shapes(ir.load(here / _GRAPH))
    if books.transferred:
        subject.original, subject.transferred = infer_shapes(ir.load(here / _ORIGINAL)), True
    with np.load(here / _KEPT) as arrays:
        for number, (name, axis) in enumerate(books.kept):
            subject.kept.setdefault(name, {})[axis] = arrays[str(number)]
    subject.held_zeros = set(books.held_zeros)
    subject.bits = dict(books.bits)
    subject.on_grid = set(books.on_grid)
    subject.codebooks = {
        tensor: Codebook(name=name, axes=axes, codes=codes) for tensor, (name, axes, codes) in books.codebooks.items()
    }
    return books.applied
