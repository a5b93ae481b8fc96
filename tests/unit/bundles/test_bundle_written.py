"""What a bundle holds, that writing it again gives the same bytes, and that its example runs without hwbench."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import made_bundles
import msgspec
import numpy as np
import pytest

from hwbench.bundles import layout, writer
from hwbench.bundles.describe import last_part
from hwbench.bundles.examples import example_for
from hwbench.bundles.hashing import artefact_sha256
from hwbench.bundles.reader import bundle_sha256, check, unpack
from hwbench.bundles.runtimes import version_warnings
from hwbench.bundles.writer import licence_beside, write_bundle
from hwbench.errors import ModelError, StorageError, UsageError
from hwbench.records.base import Missing
from hwbench.records.bundle import Runtime

pytest.importorskip("onnxruntime", reason="bundles are made with ONNX Runtime here")


def run_example(folder):
    """Run it as a user would: isolated from this checkout, from another folder."""
    return subprocess.run(
        [sys.executable, "-I", str(folder / "run_example.py")], cwd=folder.parent, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def test_the_checksums_are_those_that_sha256sum_reads(tmp_path):
    path = made_bundles.bundle(tmp_path)
    lines = (path / "SHA256SUMS").read_text().splitlines()
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == digest
    listed = {line.split("  ")[1] for line in lines}
    assert listed == {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    sha256sum = shutil.which("sha256sum")
    if sha256sum:
        subprocess.run([sha256sum, "--strict", "-c", "SHA256SUMS"], cwd=path, check=True, capture_output=True)


def test_the_artefact_hash_is_over_names_lengths_and_bytes(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "sub" / "a").write_bytes(b"")
    by_hand = hashlib.sha256(b"b\x003\x00two" + b"sub/a\x000\x00").hexdigest()
    assert artefact_sha256(tmp_path, ["sub/a", "b"]) == by_hand
    assert artefact_sha256(tmp_path, ["b", "sub/a"]) == by_hand
    manifest = check(made_bundles.bundle(tmp_path))
    path = tmp_path / "net" / "engine"
    assert manifest.model.artefact.sha256 == artefact_sha256(path, ["model.onnx"])


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    made = [made_bundles.bundle(tmp_path / place, "net.hwbundle") for place in ("here", "some/where/else")]
    assert made[0].read_bytes() == made[1].read_bytes()
    folders = [made_bundles.bundle(tmp_path / f"{place}-again") for place in ("here", "there")]
    assert (folders[0] / "SHA256SUMS").read_bytes() == (folders[1] / "SHA256SUMS").read_bytes()
    with zipfile.ZipFile(made[0]) as archive:
        assert archive.read("SHA256SUMS") == (folders[0] / "SHA256SUMS").read_bytes()


def test_the_manifest_holds_no_path_and_no_date(tmp_path):
    path = made_bundles.bundle(tmp_path)
    text = (path / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert "created_at" not in text
    assert json.loads(text)["model"]["source"] == "net.onnx"


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("/a/b/net.onnx", "net.onnx"), ("a/net.py:make", "net.py:make"), ("pkg.nets:make", "pkg.nets:make"),
        ("C:\\models\\net.onnx", "net.onnx"), ("zoo:resnet8", "zoo:resnet8"),
    ],
)  # fmt: skip
def test_a_source_without_its_folder(source, kept):
    assert last_part(source) == kept


def test_the_example_runs_and_notices_other_outputs(tmp_path):
    good = run_example(made_bundles.bundle(tmp_path / "good"))
    assert good.returncode == 0, good.stderr
    assert "y (1, 6, 5, 5): largest difference 0" in good.stdout
    bad = run_example(made_bundles.bundle(tmp_path / "bad", off=1.0))
    assert bad.returncode == 1
    assert not bad.stderr


def test_the_example_notices_outputs_that_are_no_numbers(tmp_path):
    path = made_bundles.bundle(tmp_path)
    np.savez(path / "expected.npz", y=np.full((1, 6, 5, 5), np.nan, np.float32))
    assert run_example(path).returncode == 1


def test_the_example_is_short(tmp_path):
    path = made_bundles.bundle(tmp_path)
    code = [line for line in (path / "run_example.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 22
    assert "hwbench" not in "\n".join(code[1:])


@pytest.mark.parametrize("engine", ["openvino", "litert", "torch-aoti"])
def test_the_examples_of_the_other_runtimes_are_programs(tmp_path, engine):
    manifest = made_bundles.contents(tmp_path, engine=engine).manifest
    text = example_for(manifest, None)
    compile(text, "run_example.py", "exec")
    assert "engine/model.onnx" in text


def test_the_example_of_openvino_runs(tmp_path):
    pytest.importorskip("openvino", reason="it is what runs")
    run = run_example(made_bundles.bundle(tmp_path, engine="openvino", settings={"INFERENCE_PRECISION_HINT": "f32"}))
    assert run.returncode == 0, run.stderr
    assert "y (1, 6, 5, 5)" in run.stdout


def test_an_engine_without_an_example_says_so(tmp_path):
    path = made_bundles.bundle(tmp_path, engine="somebodys")
    assert not (path / "run_example.py").exists()
    assert "somebodys" in check(path).run_example.why


def test_a_plugin_may_bring_its_own_example(tmp_path):
    class Plugin:
        def run_example(self, manifest):
            return f"# {manifest.name}\n"

    assert example_for(made_bundles.contents(tmp_path).manifest, Plugin()) == "# net-fp32\n"


def test_a_licence_is_passed_through_and_never_made_up(tmp_path):
    licence = tmp_path / "COPYING.txt"
    licence.write_text("do as you like\n")
    path = made_bundles.bundle(tmp_path, licence=licence)
    assert (path / "LICENSE.model").read_text() == "do as you like\n"
    assert check(path).licence == "COPYING.txt"
    without = made_bundles.bundle(tmp_path, "without")
    assert not (without / "LICENSE.model").exists()
    assert isinstance(check(without).licence, Missing)


def test_the_licence_beside_a_model(tmp_path):
    model = tmp_path / "net.onnx"
    assert licence_beside(model) is None
    (tmp_path / "License.md").write_text("a")
    (tmp_path / "licenses_of_others.txt").write_text("b")
    assert licence_beside(model).name == "License.md"
    (tmp_path / "COPYING").write_text("c")  # which of the two is it?
    assert licence_beside(model) is None
    assert licence_beside(tmp_path / "not" / "there") is None


class TestTheTarget:
    def test_is_not_replaced_unless_told(self, tmp_path):
        path = made_bundles.bundle(tmp_path)
        before = (path / "SHA256SUMS").read_bytes()
        other = made_bundles.contents(tmp_path, off=1.0)
        with pytest.raises(UsageError, match="there already"):
            write_bundle(other, path)
        assert (path / "SHA256SUMS").read_bytes() == before
        write_bundle(other, path, replace=True)
        assert (path / "SHA256SUMS").read_bytes() != before
        check(path)

    @pytest.mark.parametrize("name", ["mine", "mine.hwbundle"])
    def test_is_not_replaced_where_it_is_no_bundle(self, tmp_path, name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("x")
        with pytest.raises(UsageError):
            write_bundle(made_bundles.contents(tmp_path), tmp_path / name, replace=True)
        assert (tmp_path / name / "precious").read_text() == "x"

    @pytest.mark.parametrize(
        "there",
        [
            {"manifest.json": "{}"},  # as a web extension has
            {"manifest.json": "{}", "src/app.js": "x"},
            {"manifest.json": "{}", "SHA256SUMS": "", "notes.txt": "x"},
        ],
    )
    def test_is_not_replaced_where_a_folder_only_looks_like_a_bundle(self, tmp_path, there):
        path = tmp_path / "mine"
        for name, text in there.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        with pytest.raises(UsageError, match="no bundle: it is not replaced"):
            write_bundle(made_bundles.contents(tmp_path), path, replace=True)
        found = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        assert found == set(there)

    def test_is_not_replaced_where_a_bundle_holds_something_of_the_users(self, tmp_path):
        path = made_bundles.bundle(tmp_path)
        (path / "results").mkdir()
        (path / "results" / "result.json").write_text("precious")
        with pytest.raises(UsageError, match="no bundle") as refused:
            write_bundle(made_bundles.contents(tmp_path), path, replace=True)
        assert "results/result.json" in refused.value.hint
        assert (path / "results" / "result.json").read_text() == "precious"

    def test_is_not_replaced_where_a_file_has_the_suffix_alone(self, tmp_path):
        path = tmp_path / "notes.hwbundle"
        path.write_text("precious")
        with pytest.raises(UsageError, match="no bundle: it is not replaced"):
            write_bundle(made_bundles.contents(tmp_path), path, replace=True)
        assert path.read_text() == "precious"

    def test_of_one_file_is_replaced(self, tmp_path):
        path = made_bundles.bundle(tmp_path, "net.hwbundle")
        before = path.read_bytes()
        write_bundle(made_bundles.contents(tmp_path, off=1.0), path, replace=True)
        assert path.read_bytes() != before
        check(path)

    @pytest.mark.parametrize("name", ["net", "net.hwbundle"])
    def test_is_not_replaced_where_another_build_was_faster(self, tmp_path, monkeypatch, name):
        other = made_bundles.bundle(tmp_path / "other", name)
        made, path = made_bundles.contents(tmp_path, off=1.0), tmp_path / name
        fill = writer._fill

        def slowly(folder, contents):
            fill(folder, contents)
            shutil.copytree(other, path) if other.is_dir() else shutil.copyfile(other, path)

        monkeypatch.setattr(writer, "_fill", slowly)
        with pytest.raises(UsageError, match="there already"):
            write_bundle(made, path)
        assert bundle_sha256(path) == bundle_sha256(other)

    def test_is_left_alone_when_what_is_written_does_not_hold(self, tmp_path):
        path = made_bundles.bundle(tmp_path)
        before = {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}
        made = made_bundles.contents(tmp_path)
        (made.engine / "model.onnx").unlink()
        with pytest.raises(StorageError):
            write_bundle(made, path, replace=True)
        assert {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()} == before
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".net")], "nothing half-written is left"

    @pytest.mark.parametrize("after", [False, True])
    def test_comes_back_when_stopped_while_folders_are_swapped(self, tmp_path, monkeypatch, after):
        """Ctrl-C comes right before, or right after, the new folder is moved to where the old one was."""
        path = made_bundles.bundle(tmp_path)
        before = (path / "SHA256SUMS").read_bytes()
        made = made_bundles.contents(tmp_path, off=1.0)
        move = Path.replace

        def stopped(self, target):
            if self.name != "new":
                return move(self, target)
            if after:
                move(self, target)
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_bundle(made, path, replace=True)
        check(path)
        assert ((path / "SHA256SUMS").read_bytes() == before) != after
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".net")], "nothing is left beside it"


def test_what_is_unpacked_is_what_runs(tmp_path):
    path = made_bundles.bundle(tmp_path, "net.hwbundle", file="deep/model.onnx")
    unpacked = unpack(path, tmp_path / "out")
    found = made_bundles.outputs(tmp_path / "out" / "deep" / "model.onnx", tmp_path / "out" / layout.INPUTS)
    with np.load(io.BytesIO((unpacked.folder / layout.EXPECTED).read_bytes())) as expected:
        np.testing.assert_array_equal(found["y"], expected["y"])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"deep", "inputs.npz", "expected.npz"}


class TestAnotherVersionOfTheRuntime:
    def manifest(self, tmp_path, engine, version):
        manifest = made_bundles.contents(tmp_path).manifest
        return msgspec.structs.replace(manifest, runtime=Runtime(package="onnxruntime", version=version)), engine

    def test_is_warned_of(self, tmp_path):
        manifest, engine = self.manifest(tmp_path, "onnxruntime", "1.2.3")
        (warning,) = version_warnings(manifest, engine)
        assert "1.2.3" in warning

    def test_is_refused_where_it_cannot_load(self, tmp_path):
        manifest, engine = self.manifest(tmp_path, "torch-aoti", "1.2.3")
        with pytest.raises(ModelError, match=r"built for onnxruntime 1\.2\.3"):
            version_warnings(manifest, engine)

    def test_the_same_says_nothing(self, tmp_path):
        manifest = made_bundles.contents(tmp_path).manifest
        assert version_warnings(manifest, "torch-aoti") == ()


def test_the_example_tells_the_session_what_the_engine_tells_it(tmp_path):
    settings = {
        "graph_optimization_level": "ORT_DISABLE_ALL",
        "optimization.disable_specified_optimizers": "SkipLayerNormFusion",
    }
    path = made_bundles.bundle(tmp_path, settings=settings)
    text = (path / "run_example.py").read_text()
    assert "GraphOptimizationLevel.ORT_DISABLE_ALL" in text
    assert "{'optimization.disable_specified_optimizers': 'SkipLayerNormFusion'}" in text
    assert run_example(path).returncode == 0
