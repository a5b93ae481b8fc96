"""Bundles and files of a runtime brought in as models: what they are then, and what is refused."""

from __future__ import annotations

from pathlib import Path

import made_bundles
import msgspec
import numpy as np
import pytest

from hwbench import plugins
from hwbench.bundles.hashing import artefact_sha256, file_sha256
from hwbench.bundles.reader import check
from hwbench.engines.edge import artefact_of_another
from hwbench.engines.onnxruntime import OnnxRuntime
from hwbench.engines.openvino import OpenVino
from hwbench.errors import EngineError, ModelError, UsageError
from hwbench.graph.importer import import_model
from hwbench.inventory import engines_for, precisions_for, refuse_precisions, unusable
from hwbench.protocols import ArtefactFacts
from hwbench.records.base import Support, unsupported
from hwbench.records.model import ImportJob, TensorSpec
from hwbench.testing import example_cpu

pytest.importorskip("onnxruntime", reason="bundles are made with ONNX Runtime here")


def job(path, **changes):
    settings = {"batch_size": None, "shapes": {}, "input_data": None, "seed": 0, **changes}
    return ImportJob(model=str(path), **settings)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundles.bundle(tmp_path_factory.mktemp("made"), "net.hwbundle")


class TestABundle:
    def test_is_the_network_with_the_engine(self, bundle, tmp_path):
        imported = import_model(job(bundle), tmp_path / "in")
        model, files, manifest = imported.model, imported.files, check(bundle)
        assert (model.kind, model.name, model.source) == ("bundle", "net-fp32", str(bundle))
        assert model.source_sha256 == file_sha256(bundle)
        assert model.hub_sha256 == manifest.model.hub_sha256
        assert model.layers == manifest.model.layers
        assert model.artefact == manifest.model.artefact
        assert files.merged == {"bn": "conv"} == manifest.merged
        assert files.runtime_graph == "model.onnx"
        assert artefact_sha256(Path(files.folder), model.artefact.files) == model.artefact.sha256
        assert model.input_origin == "example"
        assert file_sha256(Path(files.folder) / files.inputs) == model.inputs_sha256

    def test_takes_other_input_values(self, bundle, tmp_path):
        values = np.full((1, 4, 5, 5), 3, np.float32)
        np.savez(tmp_path / "mine.npz", x=values)
        imported = import_model(job(bundle, input_data=str(tmp_path / "mine.npz")), tmp_path / "in")
        assert imported.model.input_origin == "file"
        with np.load(Path(imported.files.folder) / imported.files.inputs) as arrays:
            np.testing.assert_array_equal(arrays["x"], values)
        assert imported.model.inputs_sha256 != check(bundle).model.inputs_sha256

    @pytest.mark.parametrize(
        ("changes", "part"),
        [
            ({"batch_size": 2}, "has a batch of 1"),
            ({"shapes": {"x": (1, 4, 6, 6)}}, r"takes \[1, 4, 5, 5\]"),
            ({"shapes": {"z": (1,)}}, "which is no input"),
        ],
    )
    def test_keeps_its_shapes(self, bundle, tmp_path, changes, part):
        with pytest.raises(UsageError, match=part):
            import_model(job(bundle, **changes), tmp_path / "in")

    def test_may_be_told_the_shapes_it_has(self, bundle, tmp_path):
        import_model(job(bundle, batch_size=1, shapes={"x": (1, 4, 5, 5)}), tmp_path / "in")

    def test_damaged_is_refused(self, bundle, tmp_path):
        data = bytearray(bundle.read_bytes())
        data[data.index(b"conv")] ^= 1
        (tmp_path / "net.hwbundle").write_bytes(data)
        with pytest.raises(ModelError):
            import_model(job(tmp_path / "net.hwbundle"), tmp_path / "in")

    def test_runs_on_its_own_engine_alone(self, bundle, tmp_path):
        imported = import_model(job(bundle), tmp_path / "in")
        device = example_cpu()
        assert unusable(OnnxRuntime(), imported, device) is None
        assert unusable(OpenVino(), imported, device).code == "other_engine"
        for name in ("torch-eager", "torch-compile"):
            assert unusable(plugins.load("engines", name), imported, device).code == "other_engine"
        assert engines_for(imported, ()) == ("onnxruntime",)
        assert engines_for(imported, ("openvino",)) == ("openvino",)
        assert precisions_for(OpenVino(), imported, device, ()) == ("auto",)
        refuse_precisions(imported, ("auto",))
        with pytest.raises(UsageError, match="built already"):
            refuse_precisions(imported, ("fp32",))

    def test_needs_the_extensions_that_it_was_built_for(self, bundle, tmp_path):
        imported = import_model(job(bundle), tmp_path / "in")
        has = example_cpu().cpu.isa
        for isa, code in ((has[:1], None), ((*has[:1], "amx_of_tomorrow"), "other_isa")):
            artefact = msgspec.structs.replace(imported.model.artefact, isa=isa)
            model = msgspec.structs.replace(imported.model, artefact=artefact)
            reason = unusable(OnnxRuntime(), msgspec.structs.replace(imported, model=model), example_cpu())
            assert (None if reason is None else reason.code) == code

    def test_a_network_is_of_no_engine(self, tmp_path):
        assert artefact_of_another(made_bundles.imported(tmp_path).model, "anything") is None


class Reader:
    """A stub of an engine that takes files of two parts."""

    suffixes = (".xml",)
    support = Support()
    shape = (2, 3)
    files = ("net.xml", "net.bin")

    def installed(self):
        return self.support

    def describe(self, path, shapes, batch_size):
        if self.shape is None and "a" not in shapes:
            raise ModelError("an axis is open")
        shape = shapes.get("a", self.shape)
        return ArtefactFacts(
            inputs=tuple(TensorSpec(name=n, dtype=kind, shape=shape) for n, kind in (("a", "float32"), ("i", "uint8"))),
            outputs=(), layers=(), arithmetic="int8", parameters=3, weight_bytes=5, files=self.files,
        )  # fmt: skip


class TestAFileOfARuntime:
    @pytest.fixture
    def net(self, tmp_path):
        (tmp_path / "net.xml").write_bytes(b"graph")
        (tmp_path / "net.bin").write_bytes(b"weights")
        return tmp_path / "net.xml"

    @pytest.fixture
    def reader(self, monkeypatch):
        stub = Reader()
        monkeypatch.setattr(plugins, "available", lambda kind: {"openvino": None})
        monkeypatch.setattr(plugins, "load", lambda kind, name: stub)
        return stub

    def test_is_taken_as_it_is(self, net, reader, tmp_path):
        imported = import_model(job(net), tmp_path / "in")
        model, place = imported.model, Path(imported.files.folder)
        assert (model.kind, model.name, model.arithmetic, model.batch_size) == ("engine", "net", "int8", 2)
        assert model.artefact.engine == "openvino"
        assert model.artefact.label == "xml"
        assert model.artefact.files == ("net.xml", "net.bin")
        assert model.hub_sha256 == model.artefact.sha256 == artefact_sha256(tmp_path, ["net.xml", "net.bin"])
        assert imported.files.runtime_graph == "net.xml"
        assert (place / "net.bin").read_bytes() == b"weights"
        with np.load(place / imported.files.inputs) as arrays:
            assert arrays["a"].shape == (2, 3)
            assert arrays["i"].dtype == np.uint8
            assert arrays["i"].max() > 1, "quantised pixels are of the whole range"

    def test_open_axes_are_those_of_the_given_inputs(self, net, reader, tmp_path):
        reader.shape = None
        with pytest.raises(ModelError, match="an axis is open"):
            import_model(job(net), tmp_path / "in")
        np.savez(tmp_path / "mine.npz", a=np.zeros((4, 5), np.float32), i=np.zeros((4, 5), np.uint8))
        imported = import_model(job(net, input_data=str(tmp_path / "mine.npz")), tmp_path / "in")
        assert imported.model.inputs[0].shape == (4, 5)
        assert imported.model.input_origin == "file"

    def test_needs_its_runtime(self, net, reader, tmp_path, monkeypatch):
        reader.support = unsupported("not_installed", "it is not installed", "install it")
        with pytest.raises(EngineError, match="it is not installed"):
            import_model(job(net), tmp_path / "in")
        monkeypatch.setattr(plugins, "available", lambda kind: {})
        with pytest.raises(EngineError, match="not registered"):
            import_model(job(net), tmp_path / "in")

    def test_of_an_engine_that_takes_none(self, net, monkeypatch, tmp_path):
        monkeypatch.setattr(plugins, "available", lambda kind: {"openvino": None})
        monkeypatch.setattr(plugins, "load", lambda kind, name: OnnxRuntime())
        with pytest.raises(EngineError, match="does not take files as they are"):
            import_model(job(net), tmp_path / "in")

    def test_whose_parts_are_called_as_the_inputs(self, net, reader, tmp_path):
        reader.files = ("net.xml", "inputs.npz")
        with pytest.raises(ModelError, match=r"inputs\.npz"):
            import_model(job(net), tmp_path / "in")
