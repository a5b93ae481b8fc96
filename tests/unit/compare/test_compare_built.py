"""Engines that are built already, in a comparison: the same inputs on both sides, precisions that may differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_bundles
import numpy as np
import onnx_graphs
import pytest

from hwbench.bundles.hashing import file_sha256
from hwbench.compare.sides import Contender, artefact_words, live_facts, share_inputs
from hwbench.graph.importer import import_model
from hwbench.records.measurement import NOT_SAVED
from hwbench.records.model import ImportJob

pytest.importorskip("onnxruntime", reason="bundles are made with ONNX Runtime here")


def brought_in(model, folder, seed):
    return import_model(ImportJob(model=str(model), batch_size=None, shapes={}, input_data=None, seed=seed), folder)


@pytest.fixture
def sides(tmp_path):
    """A bundle, and the network it was built from with other random inputs."""
    bundle = brought_in(made_bundles.bundle(tmp_path), tmp_path / "a", 0)
    return bundle, brought_in(onnx_graphs.save(onnx_graphs.convnet(), tmp_path), tmp_path / "b", 7)


def arrays(imported):
    with np.load(Path(imported.files.folder) / imported.files.inputs) as found:
        return dict(found)


def test_the_other_side_gets_the_examples_of_the_bundle(sides):
    bundle, network = sides
    assert not np.array_equal(arrays(bundle)["x"], arrays(network)["x"])
    shared = share_inputs(bundle, network)
    np.testing.assert_array_equal(arrays(bundle)["x"], arrays(shared)["x"])
    assert shared.model.inputs_sha256 == file_sha256(Path(shared.files.folder) / shared.files.inputs)
    assert shared.model.input_origin == "example"


def test_inputs_of_other_shapes_are_left_as_they_are(sides, tmp_path):
    other = brought_in(onnx_graphs.save(onnx_graphs.mlp(), tmp_path, "mlp.onnx"), tmp_path / "c", 0)
    before = arrays(other)["x"]
    assert share_inputs(sides[0], other) == other
    np.testing.assert_array_equal(arrays(other)["x"], before)


def test_precisions_must_be_the_same_of_two_networks_only(sides):
    bundle, network = sides
    built = Contender(given="a", imported=bundle, engine="onnxruntime", precision="auto")
    plain = Contender(given="b", imported=network, engine="onnxruntime", precision="fp32")
    assert "precision" not in live_facts(built, plain)[0]
    assert "precision" not in live_facts(plain, built)[1]
    a, b = live_facts(plain, replace(plain, precision="bf16"))
    assert (a["precision"], b["precision"]) == ("fp32", "bf16")


def test_words():
    assert artefact_words("ab" * 32) == "abababababab"
    assert artefact_words(NOT_SAVED) == "built to be measured"
