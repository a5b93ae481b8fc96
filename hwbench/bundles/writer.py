"""Bundles written: beside the place where they are to be, checked, and moved there in one step."""

from __future__ import annotations

import contextlib
import glob
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hwbench.bundles.container import opened
from hwbench.bundles.hashing import artefact_sha256, file_sha256
from hwbench.bundles.layout import (
    ENGINE,
    EXAMPLE,
    EXPECTED,
    INPUTS,
    LICENCE,
    MANIFEST,
    SUFFIX,
    SUMS,
    VERIFICATION,
    engine_file,
    known,
)
from hwbench.bundles.reader import artefact_in, check, read_manifest
from hwbench.errors import ModelError, StorageError, UsageError
from hwbench.files import encode, write_bytes, write_record
from hwbench.records.bundle import Manifest, verification_of
from hwbench.records.verification import Verification

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first day that a zip file knows
_MODE = (stat.S_IFREG | 0o644) << 16
_UNIX = 3


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What goes into a bundle. ``example`` is the text of ``run_example.py``, where the manifest tells of one."""

    manifest: Manifest
    engine: Path  # the folder with the artefact's files
    inputs: Path  # .npz, the arrays named as the model's inputs
    expected: Path  # .npz, the arrays named as its outputs
    example: str | None
    licence: Path | None


def write_bundle(contents: Contents, target: Path, *, replace: bool = False) -> None:
    """Write a bundle as a folder, or as one file where ``target`` ends in ``.hwbundle``.

    What is read back and checked is what is left; nothing half-written is ever at ``target``.

    Raises:
        UsageError: something is there already, and ``replace`` is not set or it is no bundle.
        StorageError: it cannot be written.
        ModelError: what was given does not go together; nothing is left.
    """
    with _placed(target, replace=replace) as folder:
        _fill(folder, contents)


def add_verification(path: Path, found: Verification, *, row: int) -> None:
    """Put a verification into a bundle, in place of an earlier one; ``row`` is the bundle's own in ``found``.

    Raises:
        ModelError: the bundle is damaged.
        UsageError: the row is of another engine.
        StorageError: it cannot be written.
    """
    manifest = check(path)
    verified = found.rows[row]
    if verified.artefact_sha256 != artefact_in(manifest).sha256:
        raise UsageError(f"the verification is of another engine than the bundle '{path}' holds")
    with _placed(path, replace=True) as folder:
        _copy_all(path, folder)
        write_record(folder / VERIFICATION, found)
        manifest = msgspec.structs.replace(manifest, verification=verification_of(found, verified))
        write_record(folder / MANIFEST, manifest)
        _write_sums(folder)


def licence_beside(source: Path) -> Path | None:
    """Return the licence file that lies in the folder of a model's file, where there is exactly one."""
    try:
        names = sorted(path for path in source.resolve().parent.iterdir() if path.is_file())
    except OSError:
        return None
    found = [path for path in names if path.name.upper().split(".")[0] in {"LICENSE", "LICENCE", "COPYING"}]
    return found[0] if len(found) == 1 else None


def require_free(target: Path, *, replace: bool) -> None:
    """Refuse a place that is taken, before anything is built for it.

    Raises:
        UsageError: something is there, and ``replace`` is not set or it is no bundle.
    """
    try:
        taken = target.exists() or target.is_symlink()
    except OSError as error:
        raise StorageError(f"'{target}' cannot be looked at: {error.strerror}") from error
    if taken and not replace:
        raise UsageError(f"'{target}' is there already", hint="give another name, or say that it is to be replaced")
    fault = _fault_of(target) if taken else None
    if fault is not None:
        raise UsageError(f"'{target}' is there, and no bundle: it is not replaced", hint=f"{fault}; give another name")
    if taken and target.is_dir() == (target.suffix.lower() == SUFFIX):
        raise UsageError(f"'{target}' is there, and its kind does not go with its name", hint="give another name")


def tidy(target: Path) -> None:
    """Remove what a writer that was killed left beside ``target``, and put back the bundle that it was to replace.

    No other may be writing the same bundle.
    """
    with contextlib.suppress(OSError):
        for scratch in target.parent.glob(f".{glob.escape(target.name)}.*"):
            old = scratch / "old"
            if old.exists() and not target.exists():
                old.replace(target)
            shutil.rmtree(scratch, ignore_errors=True)


def _fault_of(target: Path) -> str | None:
    """Return why what is there is not what this module writes, or None: a manifest.json is in many a folder."""
    if target.is_symlink():
        return "it is a link"
    if not (target.is_file() or target.is_dir()):
        return "it is no plain file"
    try:
        if not target.is_dir():
            read_manifest(target)
            return None
        with opened(target) as container:
            names = set(container.sizes)
    except ModelError as error:
        return error.message
    absent = sorted({MANIFEST, SUMS} - names)
    strange = sorted(name for name in names if not known(name))
    return f"it has no {absent[0]}" if absent else f"it holds {strange[0]!a}" if strange else None


@contextlib.contextmanager
def _placed(target: Path, *, replace: bool) -> Iterator[Path]:
    """Give a folder to be filled, and move it, or the one file made of it, to ``target``."""
    require_free(target, replace=replace)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise StorageError(f"cannot write beside {target}: {error.strerror or error}") from error
    try:
        made = staging / "new"
        made.mkdir()
        yield made
        require_free(target, replace=replace)  # another build may have been faster
        if target.suffix.lower() == SUFFIX:
            packed = staging / f"new{SUFFIX}"
            _pack(made, packed)
            check(packed)
            packed.replace(target)
        else:
            check(made)
            _swap(made, target, staging / "old")
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(made: Path, target: Path, old: Path) -> None:
    """Move a folder to where another may be, which no system does in one step: the other comes back if that fails.

    If this process is killed between the two, :func:`tidy` brings it back.
    """
    try:
        if target.exists():
            target.replace(old)
        made.replace(target)
    except BaseException:  # Ctrl-C too
        if old.exists() and not target.exists():
            old.replace(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def _fill(folder: Path, contents: Contents) -> None:
    manifest = contents.manifest
    artefact = artefact_in(manifest)
    for name in artefact.files:
        place = folder / ENGINE / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(contents.engine / name, place)
    shutil.copyfile(contents.inputs, folder / INPUTS)
    shutil.copyfile(contents.expected, folder / EXPECTED)
    if contents.licence is not None:
        shutil.copyfile(contents.licence, folder / LICENCE)
    if contents.example is not None:
        write_bytes(folder / EXAMPLE, contents.example.encode())
    artefact = msgspec.structs.replace(artefact, sha256=artefact_sha256(folder / ENGINE, artefact.files))
    model = msgspec.structs.replace(
        manifest.model, artefact=artefact, inputs_sha256=file_sha256(folder / INPUTS), input_origin="example"
    )
    sizes = {name: (folder / engine_file(name)).stat().st_size for name in artefact.files}
    licence = manifest.licence if contents.licence is None else contents.licence.name
    manifest = msgspec.structs.replace(manifest, model=model, sizes=sizes, licence=licence)
    write_bytes(folder / MANIFEST, encode(manifest) + b"\n")
    _write_sums(folder)


def _write_sums(folder: Path) -> None:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in names if name != SUMS]
    write_bytes(folder / SUMS, "".join(lines).encode())


def _copy_all(path: Path, folder: Path) -> None:
    """Copy the files of a bundle that has been checked."""
    with opened(path) as container:
        for name in container.sizes:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with container.open(name) as stream, place.open("wb") as sink:
                shutil.copyfileobj(stream, sink)


def _pack(folder: Path, target: Path) -> None:
    """Write a folder as a zip file whose bytes depend on names and contents alone."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.external_attr, entry.create_system = _MODE, _UNIX
            entry.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as stream, archive.open(entry, "w") as sink:
                shutil.copyfileobj(stream, sink)
