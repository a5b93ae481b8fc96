"""The probe pack: it runs without hwbench, what it writes is read, and nothing else is."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwbench.devices.profiles import load_profiles
from hwbench.errors import StorageError, UsageError
from hwbench.prediction.predict import predictor_of
from hwbench.prediction.probe import pack, program
from hwbench.prediction.probe.anchors import ANCHORS, BY_NAME
from hwbench.prediction.probe.onnx_files import write_onnx
from hwbench.prediction.probe.pack import write_pack
from hwbench.prediction.probe.read import doubts, read_probe

GENOA = load_profiles()["amd-epyc-genoa"]
SMALL = ("conv3-16-32", "conv1-960-7", "depthwise-384-14", "dense-1-chain", "small-chain", "model-residual")
WITHOUT_HWBENCH = (
    "import sys, runpy; sys.modules['hwbench'] = None; sys.argv = ['run_probe.py', *sys.argv[1:]]; "
    "runpy.run_path('run_probe.py', run_name='__main__')"
)


@pytest.fixture(scope="module")
def small_anchors():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "ANCHORS", tuple(BY_NAME[name] for name in SMALL))
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory, small_anchors):
    """The ``probe.json`` of a short run of a small pack, in a process that cannot import hwbench."""
    folder = tmp_path_factory.mktemp("probe") / "pack"
    write_pack(folder, "onnx")
    command = [sys.executable, "-c", WITHOUT_HWBENCH, "--seconds", "0.5", "--clock", "cpu", "-o", "probe.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "probe.json"


def changed(path, tmp_path, *, sign=True, **fields):
    """Return a copy with other fields, its checksum put right or not."""
    content = {**json.loads(path.read_text()), **fields}
    if sign:
        content["sha256"] = program.digest(content)
    copy = tmp_path / "probe.json"
    copy.write_text(json.dumps(content))
    return copy


class TestProgram:
    def test_it_is_python_3_8(self):
        ast.parse(Path(program.__file__).read_text(), feature_version=(3, 8))

    def test_what_it_writes_is_read(self, measured):
        probe = read_probe(measured)
        assert {(point.anchor, point.precision) for point in probe.points} == {
            (name, precision) for name in SMALL for precision in ("fp32", "int8")
        }
        assert (probe.runtime, probe.threads, probe.failed) == ("onnxruntime", 1, {})
        assert all(len(point.samples_ns) >= 3 for point in probe.points)
        assert probe.peak_rss_bytes > 10**7
        assert {"machine", "python", "cpus"} <= set(probe.facts)
        assert any("not of the clock on the wall" in doubt for doubt in doubts(probe))

    def test_it_lifts_a_prediction_to_tier_b(self, measured):
        pytest.importorskip("scipy")
        adapted = predictor_of(GENOA, engine="onnxruntime", probe=read_probe(measured))
        found = adapted.interval(1e-3)
        assert (found.tier, found.n, adapted.probe) == ("B", 12, read_probe(measured).sha256)
        assert "conformal" in found.method

    def test_of_another_runtime_or_number_of_threads(self, measured):
        probe = read_probe(measured)
        with pytest.raises(UsageError, match="the probe is of onnxruntime"):
            predictor_of(GENOA, engine="openvino", probe=probe)
        with pytest.raises(UsageError, match="ran with 1 threads"):
            predictor_of(GENOA, engine="onnxruntime", threads=2, probe=probe)

    def test_logs_of_android(self, tmp_path, small_anchors, capsys):
        write_pack(tmp_path / "pack", "torch")
        logs = tmp_path / "logs"
        logs.mkdir()
        for turn, taken in enumerate(("1.2e+03", "1100.5", "1300")):
            text = f"INFO: count=1 curr=7\nINFO: Inference timings in us: Init: 5, Inference (avg): {taken}\n"
            (logs / f"small-chain-int8.{turn}.log").write_text(text)
        (logs / "conv3-16-32-fp32.1.log").write_text("ERROR: no such file")
        (tmp_path / "pack" / "probe.json").unlink(missing_ok=True)
        namespace = {"HERE": str(tmp_path / "pack")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(program, "HERE", namespace["HERE"])
            out = tmp_path / "probe.json"
            assert program.main(["--logs", str(logs), "-o", str(out)]) == 0
        (point,) = json.loads(out.read_text())["points"]
        assert (point["anchor"], point["precision"]) == ("small-chain", "int8")
        assert sorted(point["samples_ns"]) == [1_100_500, 1_200_000, 1_300_000]
        assert point["median_s"] == pytest.approx(1.2e-3)
        assert "1 anchors measured" in capsys.readouterr().out


class TestWhatIsRefused:
    def test_a_number_that_was_changed(self, measured, tmp_path):
        with pytest.raises(StorageError, match="checksum does not fit"):
            read_probe(changed(measured, tmp_path, sign=False, threads=4))

    def test_a_median_that_is_none(self, measured, tmp_path):
        points = json.loads(measured.read_text())["points"]
        points[0]["median_s"] *= 2
        with pytest.raises(StorageError, match="not the median of its samples"):
            read_probe(changed(measured, tmp_path, points=points))

    def test_another_pack(self, measured, tmp_path):
        with pytest.raises(StorageError, match="of pack 99"):
            read_probe(changed(measured, tmp_path, pack=99))

    def test_too_few(self, measured, tmp_path):
        points = json.loads(measured.read_text())["points"][:4]
        with pytest.raises(StorageError, match="4 anchors, and a prediction takes 9"):
            read_probe(changed(measured, tmp_path, points=points))

    def test_unknown_anchors(self, measured, tmp_path):
        points = json.loads(measured.read_text())["points"]
        points[0]["anchor"] = "elsewhere"
        with pytest.raises(StorageError, match="elsewhere"):
            read_probe(changed(measured, tmp_path, points=points))

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 9}'])
    def test_what_is_no_probe(self, tmp_path, text):
        path = tmp_path / "probe.json"
        path.write_text(text)
        with pytest.raises(StorageError, match=r"probe\.json"):
            read_probe(path)

    def test_a_folder_that_holds_something(self, tmp_path):
        (tmp_path / "mine").write_text("dear")
        with pytest.raises(StorageError, match="not empty"):
            write_pack(tmp_path, "torch")


class TestAnchors:
    @pytest.mark.parametrize("name", ["conv3-16-32", "conv1-960-7", "depthwise-384-14", "dense-1-chain", "add-112-32"])
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_both_files_compute_the_same(self, name, precision, tmp_path):
        runtime = pytest.importorskip("onnxruntime")
        litert = pytest.importorskip("ai_edge_litert.interpreter")
        from hwbench.prediction.probe.tflite_files import write_anchor

        write_onnx(BY_NAME[name], precision, tmp_path / "a.onnx")
        write_anchor(BY_NAME[name], precision, tmp_path / "a.tflite")
        session = runtime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
        x = np.random.default_rng(1).standard_normal(session.get_inputs()[0].shape).astype(np.float32)
        expected = session.run(None, {"x": x})[0]
        interpreter = litert.Interpreter(str(tmp_path / "a.tflite"))
        interpreter.allocate_tensors()
        pictures = x.ndim == 4
        entry, end = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.set_tensor(entry["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1) if pictures else x))
        interpreter.invoke()
        found = interpreter.get_tensor(end["index"])
        found = found.transpose(0, 3, 1, 2) if pictures else found
        step = 0.1 if precision == "int8" else 1e-4  # two steps of the grid: the runtimes round in their own ways
        assert np.abs(found - expected).max() <= step
        assert np.abs(expected).max() > 1

    def test_every_parameter_is_seen(self):
        ops = {step.op for anchor in ANCHORS for step in anchor.steps}
        assert ops == {"conv", "depthwise", "dense", "add", "mean", "swish", "softmax"}
        assert sum(anchor.name.startswith("model-") for anchor in ANCHORS) == 3

    def test_half_files_hold_halves(self, tmp_path):
        write_onnx(BY_NAME["model-residual"], "fp16", tmp_path / "h.onnx")
        graph = onnx.load(tmp_path / "h.onnx").graph
        assert {tensor.data_type for tensor in graph.initializer} == {onnx.TensorProto.FLOAT16}
