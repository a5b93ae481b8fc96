"""Bundles read: every file is listed, hashed and bounded, or nothing of it is used."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hwbench.bundles.arrays import read_arrays, require_fit
from hwbench.bundles.container import Container, damage, opened, read
from hwbench.bundles.hashing import Hash, file_sha256, update
from hwbench.bundles.layout import (
    ENGINE,
    EXAMPLE,
    EXPECTED,
    INPUTS,
    LICENCE,
    MANIFEST,
    REFUSED,
    REQUIRED,
    SUMS,
    VERIFICATION,
    engine_file,
    known,
    require_names,
)
from hwbench.errors import ModelError, StorageError
from hwbench.files import parse_record
from hwbench.records.base import Missing
from hwbench.records.bundle import BUNDLE_SCHEMA, Manifest, VerificationSummary
from hwbench.records.model import Artefact

_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>.+)")
_TAMPERED = "it was damaged or changed after it was built: get it again from where it was built"


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A bundle that has been checked: its manifest, and where its engine and arrays lie now."""

    manifest: Manifest
    folder: Path  # the engine's files by their names, ``inputs.npz`` and ``expected.npz``


def artefact_in(manifest: Manifest) -> Artefact:
    """Return the artefact that a manifest always has."""
    artefact = manifest.model.artefact
    assert artefact is not None
    return artefact


def read_manifest(path: Path) -> Manifest:
    """Read what a bundle says about itself, without checking the rest of it.

    Raises:
        ModelError: it is no bundle, it is of a newer format, or its manifest cannot be believed.
    """
    with opened(path) as container:
        return _manifest(container)


def check(path: Path) -> Manifest:
    """Check everything in a bundle, and return its manifest.

    Raises:
        ModelError: something is missing, not listed, changed, too large, of a newer format, or could do harm.
    """
    with opened(path) as container:
        return _checked(container, None)


def unpack(path: Path, folder: Path) -> Unpacked:
    """Check a bundle and copy what is needed to run it into ``folder``: the very bytes that were checked.

    Raises:
        ModelError: as :func:`check`; or the arrays do not fit the manifest.
        StorageError: ``folder`` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror}") from error
    with opened(path) as container:
        manifest = _checked(container, folder)
        inputs = read_arrays(folder / INPUTS, f"{container.where}: {INPUTS}")
        require_fit(inputs, manifest.model.inputs, f"{container.where}: {INPUTS}")
        read_arrays(folder / EXPECTED, f"{container.where}: {EXPECTED}")
    return Unpacked(manifest=manifest, folder=folder)


def bundle_sha256(path: Path) -> str:
    """Return the hash of a bundle as given: of the one file, or of the checksums of the folder."""
    with damage(f"the bundle '{path}'"):
        return file_sha256(path / SUMS if path.is_dir() else path)


def _manifest(container: Container) -> Manifest:
    what = f"{container.where}: {MANIFEST}"
    try:
        manifest = parse_record(read(container, MANIFEST), Manifest, schema=BUNDLE_SCHEMA, what=what)
    except StorageError as error:
        raise ModelError(error.message, hint=error.hint or "it is damaged, or hwbench did not write it") from error
    files = artefact_in(manifest).files
    require_names(files, what)
    if len(set(files)) != len(files) or {INPUTS, EXPECTED} & set(files):
        raise ModelError(f"{what} names files of the engine that cannot lie beside each other", hint=REFUSED)
    return manifest


def _checked(container: Container, folder: Path | None) -> Manifest:
    manifest = _manifest(container)
    sums = _sums(container)
    _require_all_listed(container, sums)
    _require_engine(container, manifest)
    artefact = artefact_in(manifest)
    engine = hashlib.sha256()
    for name in sorted(sums):
        inner = name.removeprefix(f"{ENGINE}/") if name.startswith(f"{ENGINE}/") else None
        if inner is not None:
            engine.update(f"{inner}\0{container.sizes[name]}\0".encode())
        kept = folder / (inner or name) if folder is not None and (inner or name in {INPUTS, EXPECTED}) else None
        digests: list[Hash] = [engine] if inner is not None else []
        if _hash(container, name, digests, kept) != sums[name]:
            raise ModelError(f"{container.where}: {name} is not what {SUMS} says", hint=_TAMPERED)
    if engine.hexdigest() != artefact.sha256:
        raise ModelError(f"{container.where}: the engine's files are not those of the manifest", hint=_TAMPERED)
    return manifest


def _hash(container: Container, name: str, others: list[Hash], kept: Path | None) -> str:
    """Return the SHA-256 of a file in the container, feed it to other hashes, and keep its bytes where wanted."""
    digest = hashlib.sha256()
    with contextlib.ExitStack() as held:
        sink: IO[bytes] | None = None
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            sink = held.enter_context(kept.open("wb"))
        with damage(f"{container.where}: {name}"), container.open(name) as stream:
            size = update([digest, *others], stream, sink)
    if size != container.sizes[name]:
        raise ModelError(f"{container.where}: {name} changed while it was read", hint=_TAMPERED)
    return digest.hexdigest()


def _sums(container: Container) -> dict[str, str]:
    """Return the checksums by name."""
    try:
        lines = read(container, SUMS).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{container.where}: {SUMS} is no text", hint=_TAMPERED) from error
    if lines.pop() != "":
        raise ModelError(f"{container.where}: {SUMS} is cut short", hint=_TAMPERED)
    found: dict[str, str] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match["name"] in found:
            raise ModelError(f"{container.where}: {SUMS} has a line {ascii(line)[:200]}", hint=_TAMPERED)
        found[match["name"]] = match["digest"]
    return found


def _require_all_listed(container: Container, sums: dict[str, str]) -> None:
    there = set(container.sizes) - {SUMS}
    absent = sorted({*sums, *REQUIRED} - there)
    if absent:
        raise ModelError(f"{container.where} has no {absent[0]}", hint=_TAMPERED)
    unlisted = sorted(there - set(sums))
    if unlisted:
        raise ModelError(
            f"{container.where} holds {unlisted[0]!a}, which {SUMS} does not list",
            hint="take it out if it is yours: a bundle holds what was built, and nothing else",
        )
    strange = sorted(name for name in there if not known(name))
    if strange:
        raise ModelError(f"{container.where} holds {strange[0]!a}, which no bundle has", hint=REFUSED)


def _require_engine(container: Container, manifest: Manifest) -> None:
    """Refuse a bundle whose files are not those that its manifest tells of."""
    sizes = {name: size for name, size in container.sizes.items() if name.startswith(f"{ENGINE}/")}
    told = {engine_file(name): size for name, size in manifest.sizes.items()}
    if sizes != told:
        differ = sorted(name for name in {*sizes, *told} if sizes.get(name) != told.get(name))
        raise ModelError(f"{container.where}: {differ[0]} is not what the manifest tells", hint=_TAMPERED)
    told_of = {
        EXAMPLE: not isinstance(manifest.run_example, Missing),
        LICENCE: not isinstance(manifest.licence, Missing),
        VERIFICATION: isinstance(manifest.verification, VerificationSummary),
    }
    for name, there in told_of.items():
        if (name in container.sizes) != there:
            raise ModelError(f"{container.where}: its manifest and {name} do not go together", hint=_TAMPERED)
