"""Whatever is done to a bundle's bytes, it is refused in words or is still what it was; nothing is written outside."""

from __future__ import annotations

import functools
import shutil
import tempfile
import zipfile
from pathlib import Path

import made_bundles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.bundles.reader import check, unpack
from hwbench.errors import ModelError

pytest.importorskip("onnxruntime", reason="bundles are made with ONNX Runtime here")

QUIET = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@functools.cache
def made():
    """One bundle in both forms: the folder and the file."""
    folder = Path(tempfile.mkdtemp(prefix="hwbench-bundle-"))
    return made_bundles.bundle(folder), made_bundles.bundle(folder, "net.hwbundle")


@functools.cache
def manifest():
    return check(made()[0])


def judged(path, folder):
    """Check and unpack it; return whether it was taken, which it may only be as it was."""
    try:
        found = check(path)
        unpacked = unpack(path, folder / "out")
    except ModelError:
        return False
    assert found == unpacked.manifest == manifest()
    return True


@QUIET
@given(data=st.data())
def test_bytes_of_the_file(data):
    original = made()[1].read_bytes()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "drop", "copy"]))
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        length = data.draw(st.integers(1, 64))
        if kind == "set" and changed:
            changed[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del changed[at:]
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=64))
        elif kind == "drop":
            del changed[at : at + length]
        else:
            to = data.draw(st.integers(0, max(0, len(changed) - 1)))
            changed[to : to + length] = changed[at : at + length]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.hwbundle").write_bytes(changed)
        judged(folder / "net.hwbundle", folder)
        assert {p.name for p in folder.iterdir()} <= {"net.hwbundle", "out"}


NAMES = st.one_of(
    st.sampled_from(
        ["../x", "/tmp/x", "engine/../../x", "..\\x", "C:\\x", "manifest.json", "engine/model.onnx", "con"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)


@QUIET
@given(names=st.lists(NAMES, min_size=1, max_size=3), renamed=st.booleans())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_in_the_file(names, renamed):
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(made()[1]) as source:
        folder = Path(name)
        with zipfile.ZipFile(folder / "net.hwbundle", "w") as archive:
            for number, entry in enumerate(source.namelist()):
                written = zipfile.ZipInfo(names[0] if renamed and number == 1 else entry)  # a name may be empty
                archive.writestr(written, source.read(entry))
            for extra in names[renamed:]:
                archive.writestr(zipfile.ZipInfo(extra), b"x")
        taken = judged(folder / "net.hwbundle", folder)
        assert not taken or (renamed and len(names) == 1)
        assert {p.name for p in folder.iterdir()} <= {"net.hwbundle", "out"}


@QUIET
@given(data=st.data())
def test_files_of_the_folder(data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = shutil.copytree(made()[0], folder / "net")
        files = sorted(p for p in path.rglob("*") if p.is_file())
        chosen = data.draw(st.sampled_from(files))
        kind = data.draw(st.sampled_from(["drop", "flip", "cut", "rename", "add", "folder"]))
        content = chosen.read_bytes()
        if kind == "drop":
            chosen.unlink()
        elif kind == "flip":
            at = data.draw(st.integers(0, len(content) - 1))
            chosen.write_bytes(
                content[:at] + bytes([content[at] ^ (1 << data.draw(st.integers(0, 7)))]) + content[at + 1 :]
            )
        elif kind == "cut":
            chosen.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        elif kind == "rename":
            chosen.rename(chosen.with_name(chosen.name + "x"))
        elif kind == "add":
            chosen.with_name("new").write_bytes(content)
        else:
            chosen.unlink()
            chosen.mkdir()
        assert not judged(path, folder)
