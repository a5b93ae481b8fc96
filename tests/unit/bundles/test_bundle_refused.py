"""Bundles that were damaged, or made to hurt: refused in words, and nothing written outside."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import zipfile

import made_bundles
import numpy as np
import pytest

from hwbench.bundles import container
from hwbench.bundles.layout import fault_of
from hwbench.bundles.reader import check, read_manifest, unpack
from hwbench.errors import ModelError

pytest.importorskip("onnxruntime", reason="bundles are made with ONNX Runtime here")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_bundles.bundle(tmp_path_factory.mktemp("made"), licence=None)


@pytest.fixture
def bundle(made, tmp_path):
    """A folder of its own, to be damaged."""
    return shutil.copytree(made, tmp_path / "net")


def sign(path):
    """Make the checksums anew, as somebody who knows how would."""
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (path / "SHA256SUMS").write_text("".join(sums))


def edited(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    sign(path)
    return path


def zipped(folder, target, *, rename=None, method=zipfile.ZIP_STORED, extra=()):
    """Pack a folder, some names changed."""
    with zipfile.ZipFile(target, "w", method) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            archive.writestr((rename or {}).get(name, name), path.read_bytes())
        for entry, data in extra:
            archive.writestr(entry, data)
    return target


def refused(path, tmp_path, *parts):
    """Check that it is refused by whoever reads it, and that nothing is written but into the folder named."""
    before = {p for p in tmp_path.rglob("*") if "out" not in p.relative_to(tmp_path).parts}
    messages = []
    for call in (check, lambda one: unpack(one, tmp_path / "out")):
        with pytest.raises(ModelError) as caught:
            call(path)
        messages.append(str(caught.value).replace(str(tmp_path), ""))  # which bears the name of the test
    after = {p for p in tmp_path.rglob("*") if "out" not in p.relative_to(tmp_path).parts}
    assert after == before
    for part in parts:
        assert part in messages[0], messages[0]
    assert caught.value.hint


@pytest.mark.parametrize("name", ["manifest.json", "engine/model.onnx", "inputs.npz", "expected.npz", "run_example.py"])
class TestAFile:
    def test_that_is_gone(self, bundle, tmp_path, name):
        (bundle / name).unlink()
        refused(bundle, tmp_path, name)

    def test_with_one_bit_flipped(self, bundle, tmp_path, name):
        data = bytearray((bundle / name).read_bytes())
        data[len(data) // 2] ^= 1
        (bundle / name).write_bytes(data)
        refused(bundle, tmp_path, name)

    def test_that_is_cut_short(self, bundle, tmp_path, name):
        (bundle / name).write_bytes((bundle / name).read_bytes()[:-1])
        refused(bundle, tmp_path, name)

    @pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
    def test_that_is_a_link(self, bundle, tmp_path, name):
        (tmp_path / "elsewhere").write_bytes((bundle / name).read_bytes())
        (bundle / name).unlink()
        (bundle / name).symlink_to(tmp_path / "elsewhere")
        refused(bundle, tmp_path, "is a link")


def test_a_file_that_is_not_listed(bundle, tmp_path):
    (bundle / "engine" / "more.bin").write_bytes(b"x")
    refused(bundle, tmp_path, "engine/more.bin", "does not list")


def test_a_listed_file_that_no_bundle_has(bundle, tmp_path):
    (bundle / "setup.py").write_bytes(b"x")
    sign(bundle)
    refused(bundle, tmp_path, "setup.py", "which no bundle has")


def test_an_engine_file_that_the_manifest_does_not_tell_of(bundle, tmp_path):
    (bundle / "engine" / "more.bin").write_bytes(b"x")
    sign(bundle)
    refused(bundle, tmp_path, "engine/more.bin", "not what the manifest tells")


def test_another_engine_under_the_same_manifest(bundle, tmp_path):
    data = bytearray((bundle / "engine" / "model.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "engine" / "model.onnx").write_bytes(data)
    sign(bundle)
    refused(bundle, tmp_path, "not those of the manifest")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda m: m.update(schema_version=2), "newer hwbench"),
        (lambda m: m.update(schema_version=0), "no schema_version"),
        (lambda m: m.pop("schema_version"), "no schema_version"),
        (lambda m: m.update(more=1), "unknown field"),
        (lambda m: m["model"].update(artefact=None), "must have an artefact"),
        (lambda m: m["model"]["artefact"].update(sha256="0" * 64), "not those of the manifest"),
        (lambda m: m["model"]["artefact"].update(files=["../model.onnx"]), "sizes"),
        (lambda m: m["sizes"].update({"model.onnx": 1}), "not what the manifest tells"),
        (lambda m: m.update(licence="LICENSE"), "do not go together"),
        (lambda m: m.update(run_example={"kind": "missing", "code": "a", "why": "b"}), "do not go together"),
    ],
)
def test_a_manifest_that_does_not_hold(bundle, tmp_path, change, part):
    refused(edited(bundle, change), tmp_path, part)


def test_a_newer_manifest_says_what_to_do(bundle):
    with pytest.raises(ModelError) as caught:
        read_manifest(edited(bundle, lambda m: m.update(schema_version=99)))
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/model.onnx", "a/../../b", "c:evil", "a\\b", "nul", "x/"])
def test_an_engine_file_whose_name_leads_out(bundle, tmp_path, name):
    def change(manifest):
        manifest["model"]["artefact"]["files"] = [name]
        manifest["sizes"] = {name: manifest["sizes"]["model.onnx"]}

    refused(edited(bundle, change), tmp_path, ascii(name))


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../x", "a//x", "./x", "C:/x", "a\\x", "..\\x", "x\0y", "", "x" * 300, "con", "a/NUL.txt",
     "x.", "x ", "a:b", "\u202e", "x\ny"],
)  # fmt: skip
class TestANameThatLeadsOut:
    def test_has_a_fault(self, name):
        assert fault_of(name)

    def test_is_refused_in_a_zip_file(self, bundle, tmp_path, name):
        path = tmp_path / "net.hwbundle"
        zipped(bundle, path, extra=[("placeholder", b"x")])
        placed = name.encode()
        if name.isascii() and len(placed) < len(b"placeholder"):  # zipfile itself would not write all of these
            path.write_bytes(path.read_bytes().replace(b"placeholder", placed + b"/" + b"x" * (10 - len(placed))))
        else:
            zipped(bundle, path, extra=[(name, b"x")])
        refused(path, tmp_path, "file called")

    def test_is_refused_in_the_checksums(self, bundle, tmp_path, name):
        with (bundle / "SHA256SUMS").open("a") as sums:
            sums.write(f"{'0' * 64}  {name}\n")
        refused(bundle, tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "engine/model.bin", "a b.c", "ü.bin", ".hidden", "a..b", "comma,"])
def test_a_plain_name_is_fine(name):
    assert fault_of(name) is None


class TestAZipFile:
    def path(self, tmp_path):
        return tmp_path / "net.hwbundle"

    def test_is_read_as_the_folder_is(self, bundle, tmp_path):
        assert check(zipped(bundle, self.path(tmp_path))) == check(bundle)

    def test_compressed(self, bundle, tmp_path):
        refused(zipped(bundle, self.path(tmp_path), method=zipfile.ZIP_DEFLATED), tmp_path, "compressed")

    def test_bomb(self, bundle, tmp_path):
        path = self.path(tmp_path)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("manifest.json", b"\0" * (64 << 20))
        assert path.stat().st_size < 1 << 20
        refused(path, tmp_path, "compressed")

    def test_entries_that_share_their_bytes(self, bundle, tmp_path):
        """The overlapping entries of a quoted bomb: each stored, all of them the same bytes."""
        path = zipped(bundle, self.path(tmp_path), extra=[("engine/big", b"x" * 100_000)])
        data = path.read_bytes()
        last = data.rindex(b"PK\x05\x06")
        at = int.from_bytes(data[last + 16 : last + 20], "little")
        entries, end = data[at:last], bytearray(data[last:])
        big = entries[entries.index(b"engine/big") - 46 :][: 46 + len("engine/big")]
        copies = b"".join(big.replace(b"engine/big", b"engine/b%02d" % n) for n in range(20))
        number = int.from_bytes(end[8:10], "little") + 20
        end[8:10] = end[10:12] = number.to_bytes(2, "little")
        end[12:16] = (len(entries) + len(copies)).to_bytes(4, "little")
        path.write_bytes(data[:at] + entries + copies + bytes(end))
        refused(path, tmp_path, "more bytes than the file has")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_with_a_name_twice(self, bundle, tmp_path):
        path = zipped(bundle, self.path(tmp_path), extra=[("run_example.py", b"import os")])
        refused(path, tmp_path, "two files")

    def test_with_names_that_are_one_where_case_does_not_count(self, bundle, tmp_path):
        refused(zipped(bundle, self.path(tmp_path), extra=[("RUN_example.py", b"x")]), tmp_path, "holds both")

    def test_with_a_link(self, bundle, tmp_path):
        entry = zipfile.ZipInfo("engine/link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        refused(zipped(bundle, self.path(tmp_path), extra=[(entry, b"/etc/passwd")]), tmp_path, "link")

    def test_encrypted(self, bundle, tmp_path):
        path = zipped(bundle, self.path(tmp_path))
        data = bytearray(path.read_bytes())
        last = data.rindex(b"PK\x05\x06")
        at = int.from_bytes(data[last + 16 : last + 20], "little")
        data[at + 8] |= 1
        path.write_bytes(data)
        refused(path, tmp_path, "encrypted")

    @pytest.mark.parametrize("keep", [0, 1, 10, 0.5, -1, -30])
    def test_cut_short(self, bundle, tmp_path, keep):
        path = zipped(bundle, self.path(tmp_path))
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
        refused(path, tmp_path)

    def test_with_more_files_than_any_bundle(self, bundle, tmp_path, monkeypatch):
        monkeypatch.setattr(container, "MOST_FILES", 3)
        refused(zipped(bundle, self.path(tmp_path)), tmp_path, "files")
        refused(bundle, tmp_path, "files")

    def test_that_is_not_there_or_no_zip_file(self, tmp_path):
        refused(self.path(tmp_path), tmp_path, "there is no bundle")
        self.path(tmp_path).write_bytes(b"hello")
        refused(self.path(tmp_path), tmp_path, "cannot be read")


def test_a_manifest_larger_than_any(bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(container.LARGEST, "manifest.json", 10)
    refused(bundle, tmp_path, "manifest.json", "no bundle needs that")


class TestTheArrays:
    def put(self, bundle, data):
        (bundle / "inputs.npz").write_bytes(data)
        sign(bundle)
        return bundle

    def refused(self, bundle, tmp_path, part):
        with pytest.raises(ModelError, match=part):
            unpack(bundle, tmp_path / "out")

    def test_of_another_shape(self, bundle, tmp_path):
        np.savez(bundle / "inputs.npz", x=np.zeros((1, 4, 5, 6), np.float32))
        sign(bundle)
        self.refused(bundle, tmp_path, r"x float32\[1, 4, 5, 6\], the manifest says x float32\[1, 4, 5, 5\]")

    def test_compressed(self, bundle, tmp_path):
        np.savez_compressed(bundle / "inputs.npz", x=np.zeros((1, 4, 5, 5), np.float32))
        sign(bundle)
        self.refused(bundle, tmp_path, "compressed")

    def test_that_would_have_to_be_unpickled(self, bundle, tmp_path):
        np.savez(bundle / "inputs.npz", x=np.array([{}], dtype=object), allow_pickle=True)
        sign(bundle)
        self.refused(bundle, tmp_path, "cannot be read|no numbers")

    def test_that_claim_to_be_endless(self, bundle, tmp_path):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 10)}
        )
        with zipfile.ZipFile(bundle / "inputs.npz", "w") as archive:
            archive.writestr("x.npy", stream.getvalue())
        sign(bundle)
        self.refused(bundle, tmp_path, "cannot be read")

    @pytest.mark.parametrize("data", [b"", b"PK", b"\x93NUMPY"])
    def test_that_are_none(self, bundle, tmp_path, data):
        self.refused(self.put(bundle, data), tmp_path, "cannot be read")
