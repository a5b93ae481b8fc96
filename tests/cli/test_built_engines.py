"""A bundle in place of a model: measured, verified and compared as the engine that it is."""

import json
import shutil

import made_bundles
import numpy as np
import onnx_graphs
import pytest
from command import QUICK, failed, hwbench, result_of

pytest.importorskip("onnxruntime", reason="bundles are made with ONNX Runtime here")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A bundle in both forms, the network it was made from, and labelled samples that the network gets right."""
    folder = tmp_path_factory.mktemp("built")
    made_bundles.bundle(folder, "net", onnx_graphs.mlp(8))
    made_bundles.bundle(folder, "again.hwbundle", onnx_graphs.mlp(8))
    network = onnx_graphs.save(onnx_graphs.mlp("N"), folder)
    x = np.random.default_rng(0).standard_normal((400, 4)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    labels = made_bundles.outputs(network, folder / "x.npz")["y"].argmax(1)
    np.savez(folder / "data.npz", x=x, labels=labels)
    return folder


def test_profile(place):
    run = hwbench("profile", "net", *QUICK, "-o", "profiled", cwd=place)
    assert run.returncode in {0, 4}, run.stderr
    found = result_of(place / "profiled")
    artefact = found["model"]["artefact"]
    (measurement,) = found["measurements"]
    assert (measurement["engine"], measurement["precision_asked"]) == ("onnxruntime", "auto")
    assert measurement["artefact_sha256"] == artefact["sha256"]
    assert found["not_measured"] == [], "the other engines were not asked"
    assert measurement["memory"]["model_file_bytes"] == (place / "net" / "engine" / "model.onnx").stat().st_size


def test_verify_against_the_original(place):
    run = hwbench(
        "verify", "net", "again.hwbundle", "--data", "data.npz", "--reference", "net.onnx", "--max-drop", "2pp", "-o",
        "verified.json", cwd=place,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads((place / "verified.json").read_text())
    original, *rows = found["rows"]
    assert found["model"]["source"] == "net.onnx"
    assert original["artefact_sha256"]["kind"] == "missing"
    assert [row["certificate"]["word"] for row in rows] == ["CERTIFIED", "CERTIFIED"]
    assert {row["artefact_sha256"] for row in rows} == {
        json.loads((place / "net" / "manifest.json").read_text())["model"]["artefact"]["sha256"]
    }
    assert rows[0]["scores"][0]["value"] == 1.0


def test_verify_from_labels_alone(place):
    run = hwbench("verify", "net", "--data", "data.npz", "-o", "alone.json", cwd=place)
    assert run.returncode == 0, run.stderr
    found = json.loads((place / "alone.json").read_text())
    (row,) = found["rows"]
    assert row["scores"][0]["value"] == 1.0
    assert {row[name]["code"] for name in ("agreement", "outputs", "certificate")} == {"no_reference"}
    assert found["reference"]["code"] == "no_reference"


def test_compare_with_the_network(place):
    """Its engine is the bundle's, its inputs are the bundle's, and the precision that was asked for may differ."""
    run = hwbench(
        "compare", "net", "net.onnx", "-b", "8", "--budget", "1s", "--restarts", "1", "--json", "-q", cwd=place
    )
    assert run.returncode == 0, run.stderr
    (pair,) = json.loads(run.stdout)["pairs"]
    assert pair["a"]["engine"] == pair["b"]["engine"] == "onnxruntime"
    assert (pair["a"]["precision_asked"], pair["b"]["precision_asked"]) == ("auto", "fp32")
    assert pair["outputs"]["b"]["max_absolute"] == 0, "both were given the same values"
    names = {item["name"]: item["hinders"] for item in pair["differences"]}
    assert names["artefact"] is False
    assert "precision" not in names
    assert len(pair["a"]["artefact_sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("profile", "net", "-p", "fp32", *QUICK), 2, ["built already", "fp32"]),
        (("profile", "net", "-b", "2", *QUICK), 2, ["--batch-size 2", "a batch of 8"]),
        (("profile", "net", "-e", "openvino", *QUICK), 3, ["a built engine of onnxruntime"]),
        (("profile", "broken.hwbundle", *QUICK), 3, ["the bundle 'broken.hwbundle'", "get it again"]),
        (("verify", "net", "--data", "x.npz"), 2, ["nothing to hold a built engine against", "--reference"]),
        (("verify", "net", "--data", "data.npz", "--max-drop", "1pp"), 2, ["--reference"]),
        (("verify", "net", "--data", "data.npz", "--reference", "again.hwbundle"), 2, ["is a built engine itself"]),
        (("verify", "net", "--data", "data.npz", "--reference", "other.onnx"), 2, ["fixed|takes|--shapes"]),
        (("compare", "net", "net.onnx", "--budget", "1s"), 4, ["batch"]),
    ],
)
def test_refusals(place, arguments, code, parts):
    if not (place / "broken.hwbundle").exists():
        data = (place / "again.hwbundle").read_bytes()
        (place / "broken.hwbundle").write_bytes(data[: len(data) // 2])
        onnx_graphs.save(onnx_graphs.convnet(batch=8), place, "other.onnx")
    run = hwbench(*arguments, cwd=place)
    told = failed(run, code)
    assert all(any(word in told for word in part.split("|")) for part in parts), told
    shutil.rmtree(place / "hwbench-results", ignore_errors=True)
