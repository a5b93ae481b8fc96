"""``hwbench build`` and ``hwbench measure`` from outside: one build that many tests look at, and what is refused."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from command import Running, assert_gone, environment, failed, hwbench, result_of, tiny_onnx
from sklearn.datasets import load_digits

from hwbench.bundles.hashing import artefact_sha256
from hwbench.bundles.reader import artefact_in, check

pytest.importorskip("onnxruntime", reason="bundles are made with ONNX Runtime here")

ENGINES = ("-e", "onnxruntime", "-e", "openvino")
INT8 = ("-p", "int8", "--data", "train.npz")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Real digits to calibrate with and others to judge on; too few of them."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    x = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    np.savez(folder / "train.npz", x=x[:320])
    np.savez(folder / "test.npz", x=x[900:1300], labels=labels[900:1300])
    np.savez(folder / "few.npz", x=x[:12])
    return folder


@pytest.fixture(scope="module")
def built(data):
    """One build of two engines, judged and timed."""
    (data / "LICENSE").write_text("To be used freely.\n")
    run = hwbench("build", "digits_cnn", *ENGINES, *INT8, "--verify-data", "test.npz", "--max-drop", "3pp",
                  "--duration", "100ms", "--license", "LICENSE", "--input-note", "divide by 16",
                  "-o", "out", "--json", cwd=data)  # fmt: skip
    assert run.returncode == 0, run.stderr
    folder = data / "out"
    found = json.loads(run.stdout)
    return SimpleNamespace(run=run, cwd=data, folder=folder, found=found, bundles=found["bundles"])


def no_scratch(folder):
    """Nothing half-made lies in a folder of bundles."""
    return not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_is_saved_is_what_is_told(built):
    assert built.found == json.loads((built.folder / "build.json").read_text())
    assert [item["engine"]["artefact"]["engine"] for item in built.bundles] == ["onnxruntime", "openvino"]
    assert built.found["not_built"] == []
    facts = built.found["calibration"]
    assert (facts["data"]["source"], facts["data"]["samples"], facts["warnings"]) == ("train.npz", 300, [])
    assert facts["took_s"] > 0
    assert built.found["reference"]["scores"][0]["value"] > 0.95
    for item in built.bundles:
        assert item["verified"]["certificate"]["word"] == "CERTIFIED"
        assert item["verified"]["scores"][0]["n"] == 400
        assert item["unmet"] == []
        assert 1e-6 < item["median_s"] < 1
        assert item["engine"]["lowered"]["layers"], "the quantised layers are listed"
    assert no_scratch(built.folder)


def test_every_bundle_is_whole_and_says_what_it_is(built):
    for item in built.bundles:
        folder = built.folder / item["path"]
        manifest = check(folder)
        assert artefact_in(manifest).sha256 == item["engine"]["artefact"]["sha256"]
        assert manifest.preprocessing == "divide by 16"
        assert (folder / "LICENSE.model").read_text() == "To be used freely.\n"
        assert manifest.plan.label == "int8"
        assert item["engine"]["size_bytes"] == sum(path.stat().st_size for path in (folder / "engine").iterdir())
        sums = [line.split("  ", 1) for line in (folder / "SHA256SUMS").read_text().splitlines()]
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert {name for _, name in sums} == names - {"SHA256SUMS"}
        assert str(built.cwd) not in (folder / "manifest.json").read_text()


def test_one_engine_one_hash(built):
    """The bundle, its verification, the build's record and a timed run of it speak of the same bytes."""
    for item in built.bundles:
        folder = built.folder / item["path"]
        hashes = {
            item["engine"]["artefact"]["sha256"],
            item["verified"]["artefact_sha256"],
            artefact_sha256(folder / "engine", artefact_in(check(folder)).files),
            *(row["artefact_sha256"] for row in result_of(built.folder / item["result"])["measurements"]),
        }
        assert len(hashes) == 1
        rows = json.loads((folder / "verification.json").read_text())["rows"]
        assert hashes <= {row["artefact_sha256"] for row in rows if isinstance(row["artefact_sha256"], str)}
    assert len({item["engine"]["artefact"]["sha256"] for item in built.bundles}) == 2


def test_the_example_runs_where_hwbench_is_not(built):
    for item in built.bundles:
        script = built.folder / item["path"] / "run_example.py"
        assert "hwbench" not in script.read_text().replace("hwbench build", "")
        run = subprocess.run(
            [sys.executable, script], cwd="/", env=environment(built.cwd), capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr


def test_a_person_sees_it(built):
    for part in ("2 bundles in out", "calibrated on 300 samples", "CERTIFIED", "accuracy", "run_example.py"):
        assert part in built.run.stderr


def test_measure_takes_the_bundle_as_it_is(built):
    quick = ("--iterations", "20", "--warmup", "10ms", "--no-layers")
    bundle = f"out/{built.bundles[0]['path']}"
    run = hwbench("measure", bundle, *quick, "-o", "measured", cwd=built.cwd)
    assert run.returncode in {0, 4}, run.stderr
    (row,) = result_of(built.cwd / "measured")["measurements"]
    assert (row["engine"], row["precision_asked"]) == ("onnxruntime", "auto")
    assert row["artefact_sha256"] == built.bundles[0]["engine"]["artefact"]["sha256"]
    assert row["accuracy"]["certificate"] == "CERTIFIED"
    failed(hwbench("measure", bundle, "-p", "fp32", *quick, cwd=built.cwd), 2, "built already")
    failed(hwbench("measure", "digits_cnn", *quick, cwd=built.cwd), 2, "'digits_cnn' is a model", "hwbench profile")


def test_speed_is_claimed_with_accuracy_alone(built, unverified):
    """A timed run of a bundle that nobody verified; then with a verification of those very bytes, and of others."""
    judged = "out/" + built.bundles[0]["path"]
    assert "No speed is claimed" not in hwbench("report", "out/measurements", cwd=built.cwd).stdout
    silent = hwbench("report", unverified.timed, cwd=built.cwd)
    assert "No speed is claimed" in silent.stdout
    waived = hwbench("report", unverified.timed, "--no-accuracy", cwd=built.cwd)
    assert "No speed is claimed" not in waived.stdout
    other = hwbench("report", unverified.timed, "--accuracy", f"{judged}/verification.json", cwd=built.cwd)
    assert "No speed is claimed" in other.stdout, "it judges another engine"
    hwbench("verify", unverified.bundle, "--data", "test.npz", "-o", "late.json", cwd=built.cwd)
    joined = hwbench("report", unverified.timed, "--accuracy", "late.json", cwd=built.cwd)
    assert "No speed is claimed" not in joined.stdout
    assert "accuracy: " in joined.stdout


@pytest.fixture(scope="module")
def unverified(data):
    """A plan by layers, with one more kept in floating point, in one file: timed, and judged by nobody."""
    (data / "plan.toml").write_text('default = "int8-weights"\n[layers]\n"features.3" = "float"\n')
    run = hwbench("build", "digits_cnn", "-e", "onnxruntime", "--plan", "plan.toml", "--keep-float", "features.7*",
                  "--duration", "100ms", "--one-file", "-o", "plain", cwd=data)  # fmt: skip
    assert run.returncode == 0, run.stderr
    (bundle,) = (data / "plain").glob("*.hwbundle")
    return SimpleNamespace(run=run, bundle=bundle.relative_to(data), timed=f"plain/measurements/{bundle.stem}")


def test_one_file_by_a_plan(built, unverified):
    found = json.loads((built.cwd / "plain" / "build.json").read_text())
    (item,) = found["bundles"]
    assert item["path"] == unverified.bundle.name == "digits_cnn-onnxruntime-int8-weights-mixed.hwbundle"
    manifest = check(built.cwd / unverified.bundle)
    assert manifest.plan.layers["features.3"] == manifest.plan.layers["features.7"] == "float"
    layers = {layer["layer"]: layer for layer in item["engine"]["lowered"]["layers"]}
    assert layers["fc"]["got"] == "int8-weights"
    assert layers["features.0"]["got"] == "float"
    assert "linear layers only" in layers["features.0"]["why"]
    assert "linear layers only" in unverified.run.stdout.replace("\n", " ")
    assert not {"features.3", "features.7"} & set(layers), "nobody asked for them to be quantised"
    assert found["calibration"]["code"] == "not_needed"
    assert item["verified"]["code"] == "not_asked"
    assert no_scratch(built.cwd / "plain")


def test_what_is_there_is_not_replaced_unasked(built):
    name = built.bundles[0]["path"]
    before = (built.folder / name / "manifest.json").read_bytes()
    run = hwbench("build", "digits_cnn", *ENGINES, *INT8, "--no-measure", "-o", "out", cwd=built.cwd)
    failed(run, 2, name, "is there already")
    assert (built.folder / name / "manifest.json").read_bytes() == before
    copy = built.cwd / "copy"
    shutil.copytree(built.folder / name, copy / name)
    run = hwbench("build", "digits_cnn", "-e", "onnxruntime", *INT8, "--no-measure", "--force", "-o", "copy",
                  "--require-precision", "fp32", cwd=built.cwd)  # fmt: skip
    assert run.returncode == 1, "it is int8, and that is not what was required"
    assert "fp32" in run.stdout
    assert "features.0" in run.stdout
    again = check(copy / name)
    assert artefact_in(again).sha256 == built.bundles[0]["engine"]["artefact"]["sha256"], "the same bytes again"
    assert not (copy / name / "verification.json").exists()
    assert no_scratch(copy)


def test_what_data_are_wrong_with(tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx")
    torn = np.zeros((12, 3, 8, 8), np.float32)
    torn[3, 0, 2, 2] = np.nan
    np.savez(tmp_path / "nan.npz", x=torn)
    nan = hwbench("build", "tiny.onnx", *ENGINES, "-p", "int8", "--data", "nan.npz", "-o", "no", cwd=tmp_path)
    failed(nan, 2, "nan.npz", "NaN")
    late = hwbench("build", "tiny.onnx", "-p", "fp32", "--verify-data", "nowhere.npz", "-o", "no", cwd=tmp_path)
    failed(late, 2, "nowhere.npz")
    assert list((tmp_path / "no").iterdir()) == [], "it is said before anything is built"


def test_few_samples_are_warned_of(data):
    run = hwbench("build", "digits_cnn", "-e", "onnxruntime", "-p", "int8", "-p", "int8-weights", "--keep-float",
                  "features.0", "--data", "few.npz", "--no-measure", "-o", "few", cwd=data)  # fmt: skip
    assert run.returncode == 0, run.stderr
    (warning,) = json.loads((data / "few" / "build.json").read_text())["calibration"]["warnings"]
    assert "12" in warning
    assert "300" in warning
    assert "warning: " in run.stdout
    assert len(list((data / "few").glob("*/manifest.json"))) == 2, "both are mixed, and each has a name of its own"


def test_a_folder_of_pictures_calibrates(tmp_path):
    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(random.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(pictures / f"{number}.png")
    model = tiny_onnx(tmp_path / "tiny.onnx")
    recipe = "resize = 12\ncrop = 8\ndivide = 255\n"
    (tmp_path / "pre.toml").write_text(recipe)
    run = hwbench("build", model, "-e", "onnxruntime", "-p", "int8", "--data", "pictures", "--preprocess", "pre.toml",
                  "--no-measure", "-o", "out", cwd=tmp_path)  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "out" / "build.json").read_text())
    assert found["calibration"]["data"]["samples"] == 6
    assert check(tmp_path / "out" / found["bundles"][0]["path"]).preprocessing == recipe


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("-p", "int8", *ENGINES), 2, ("int8 needs the ranges", "--data")),
        (("-p", "int7"), 2, ("'int7'", "int8-dynamic")),
        ((), 2, ("nothing says what is to be built", "--precision")),
        (("-p", "fp32", "-e", "nosuch"), 2, ("no engine is called 'nosuch'",)),
        (("-p", "int8-weights", "--keep-float", "convv"), 2, ("'convv'", "conv")),
        (("-p", "fp32", "--plan", "plan.toml"), 2, ("--precision and --plan",)),
        (("--plan", "nowhere.toml"), 2, ("nowhere.toml",)),
        (("-p", "fp32", "-e", "torch-eager"), 3, ("nothing could be built", "torch-eager", "saves nothing")),
        (("-p", "fp32", "--max-drop", "1pp"), 2, ("--verify-data",)),
        (("-p", "fp32", "--license", "gone.txt"), 2, ("gone.txt", "no such file")),
        (("-p", "int8", "--percentile", "99"), 2, ("--estimator percentile",)),
    ],
)
def test_refusals(tmp_path, arguments, code, parts):
    tiny_onnx(tmp_path / "tiny.onnx")
    failed(hwbench("build", "tiny.onnx", *arguments, "-o", "out", cwd=tmp_path), code, *parts)


def test_a_bundle_is_not_built_again(built):
    run = hwbench("build", f"out/{built.bundles[0]['path']}", "-p", "fp32", "-o", "again", cwd=built.cwd)
    failed(run, 2, "is a built engine already", "the source model")


@pytest.mark.parametrize("group", [True, False], ids=["group", "alone"])
def test_ctrl_c_keeps_what_is_finished(stubs, tmp_path, group):
    """The second engine takes its time; the first one's bundle stays, whole, and nothing else does."""
    temp = tmp_path / "temp"
    temp.mkdir()
    env = environment(tmp_path / "home", path=[stubs], TMPDIR=str(temp), STUB_LOWER_S="60")
    tiny_onnx(tmp_path / "tiny.onnx")
    running = Running("build", "tiny.onnx", "-p", "fp32", "-e", "onnxruntime", "-e", "stub-writes", "--no-measure",
                      "-o", "out", cwd=tmp_path, env=env)  # fmt: skip
    running.wait_for("building stub-writes")
    started = running.descendants()
    code, said = running.interrupt(group=group)
    assert code == 130, said
    assert "Traceback" not in said
    assert "bundles that are finished: tiny-onnxruntime-fp32" in said
    assert_gone(started)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny-onnxruntime-fp32"]
    check(tmp_path / "out" / "tiny-onnxruntime-fp32")
    assert [path.name for path in temp.iterdir() if "hwbench" in path.name] == []


def test_an_engine_that_fails_takes_none_of_the_others_with_it(stubs, tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx")
    run = hwbench("build", "tiny.onnx", "-p", "fp32", "-e", "stub-torn", "-e", "onnxruntime", "--no-measure", "-o",
                  "out", cwd=tmp_path, path=[stubs])  # fmt: skip
    assert run.returncode == 3, run.stderr
    found = json.loads((tmp_path / "out" / "build.json").read_text())
    assert [item["engine"]["artefact"]["engine"] for item in found["bundles"]] == ["onnxruntime"]
    (lost,) = found["not_built"]
    assert (lost["engine"], lost["failed"]) == ("stub-torn", True)
    assert "SIGSEGV" in lost["reason"]["why"] or "SIGKILL" in lost["reason"]["why"]
    assert "stub-torn fp32: not built" in run.stdout
