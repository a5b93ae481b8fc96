"""What TensorRT and TensorRT-RTX must both do on a GPU that is there. A file for each: a process has one of them."""

import numpy as np
import pytest
from gpu_networks import TOLERANCE, assert_as_on_the_cpu, assert_close, inputs_of, zoo

from hwbench import plugins
from hwbench.bundles.describe import manifest_of
from hwbench.cuda.choose import installed_backends
from hwbench.devices import environment
from hwbench.errors import Unsupported
from hwbench.protocols import BuildRequest, LowerRequest
from hwbench.records.model import ModelFiles
from hwbench.records.quantization import PrecisionPlan
from hwbench.testing import EngineContract

NETS = ("digits_cnn", "resnet8", "ds_cnn", "vit_tiny", "bert_small")


def usable(name, device):
    """Skip where something is missing, and say what."""
    engine = plugins.load("engines", name)
    support = engine.installed()
    if not support.usable:
        pytest.skip(f"{name}: {support}")
    if not installed_backends():
        pytest.skip("neither pycuda nor cuda-python is installed")
    if name == "tensorrt-rtx" and device.kind != "jetson":
        support = engine.builds_for(device)
        if not support.usable:
            pytest.skip(f"{name}: {support}")


class ContractOnGpu(EngineContract):
    __test__ = False
    name = ""

    @pytest.fixture
    def device(self, attached_gpu):
        return attached_gpu

    @pytest.fixture(autouse=True)
    def _here(self, attached_gpu):
        """Skip all of it, names too, where the engine cannot run: a step that ran nothing must not look done."""
        usable(self.name, attached_gpu)

    def make(self):
        return plugins.load("engines", self.name)


class ParityOnGpu:
    """Outputs against the CPU's: of the network itself, and of the typed graph that a plan was built from."""

    __test__ = False
    name = ""

    @pytest.fixture(autouse=True)
    def _here(self, attached_gpu):
        usable(self.name, attached_gpu)

    @pytest.mark.parametrize("model", NETS)
    @pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
    def test_outputs_are_those_of_the_cpu(self, attached_gpu, tmp_path, precision, model):
        pytest.importorskip("torch", reason="torch computes what is right")
        runner = assert_as_on_the_cpu(self.name, model, precision, attached_gpu, tmp_path)
        assert runner.built().settings["cuda_graph"] in {"on", "off: it cannot be captured"}
        runner.close()

    @pytest.mark.parametrize("model", ["digits_cnn", "resnet8"])
    @pytest.mark.parametrize("plan", ["float", "int8"])
    def test_a_saved_plan_computes_its_graph(self, attached_gpu, tmp_path, plan, model):
        pytest.importorskip("torch", reason="built-in models are torch's")
        pytest.importorskip("onnxruntime", reason="ONNX Runtime computes the graph")
        from tensorrt_lowering import calibration_of, min_max, run

        engine = plugins.load("engines", self.name)
        engine.start()
        imported = zoo(model, tmp_path / "model", batch_size=2)
        inputs = inputs_of(imported)
        ranges = min_max(f"{imported.files.folder}/{imported.files.runtime_graph}", inputs)
        request = LowerRequest(
            model=imported.model, files=imported.files, plan=PrecisionPlan(default=plan, floating="fp16"),
            calibration=calibration_of(ranges), device=attached_gpu, folder=_made(tmp_path / "engine"),
        )  # fmt: skip
        try:
            lowered = engine.lower(request)
        except Unsupported as error:
            pytest.skip(f"{self.name}: {error.message}")
        assert plan == "float" or any(layer.got == "int8" for layer in lowered.layers)
        manifest = manifest_of(model, self.name, request, lowered, environment.capture())
        files = ModelFiles(
            folder=str(request.folder), hub=lowered.files[0], runtime_graph=lowered.files[0],
            merged=imported.files.merged,
        )  # fmt: skip
        runner = engine.load(
            BuildRequest(
                model=manifest.model, files=files, device=attached_gpu, precision="auto", threads=1, streams=1,
                profile_layers=False, workdir=_made(tmp_path / "scratch"),
            )
        ).compile()  # fmt: skip
        bound = runner.bind(inputs)
        bound.run()
        found = {name: np.asarray(array, np.float64) for name, array in bound.outputs().items()}
        runner.close()
        tolerance = TOLERANCE["int8" if plan == "int8" else "fp16"]
        assert_close(found, run(request.folder / lowered.graph, inputs), tolerance)


def _made(folder):
    folder.mkdir()
    return folder
