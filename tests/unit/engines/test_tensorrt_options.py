"""Options that do not go with the model, the plan or the place are refused by name; every one of RTX's is tried."""

import msgspec
import pytest

from hwbench.bundles.describe import manifest_of
from hwbench.devices import environment
from hwbench.engines.tensorrt import TensorRt, TensorRtRtx
from hwbench.engines.tensorrt_options import RTX_DESCRIPTIONS
from hwbench.errors import Unsupported, UsageError
from hwbench.inventory import find_or_describe
from hwbench.protocols import LowerRequest
from hwbench.records.base import Missing
from hwbench.records.quantization import Lowered, PrecisionPlan
from hwbench.testing import onnx_examples

RTX = {
    "sparse": "on", "level": "5", "timings": "4", "workspace": "64", "aux-streams": "1", "refit": "yes",
    "strip": "yes", "stream": "yes", "batch": "1:8:32",
}  # fmt: skip
ON_THE_CARD = {"refit", "strip"}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Two products, for a batch of four."""
    pytest.importorskip("onnxruntime", reason="examples are made with it")
    return onnx_examples(tmp_path_factory.mktemp("nets"))[0]


def request(example, folder, options, plan=None):
    return LowerRequest(
        model=example.model, files=example.files, plan=plan or PrecisionPlan(default="float", floating="fp16"),
        calibration=None, device=find_or_describe("nvidia-rtx-4090").device, folder=folder, options=options,
    )  # fmt: skip


def test_every_option_of_rtx_is_tried():
    assert set(RTX) == set(RTX_DESCRIPTIONS)
    for name in ON_THE_CARD:
        assert "on the card only" in RTX_DESCRIPTIONS[name]


@pytest.mark.parametrize(("name", "value"), [*RTX.items(), ("refit", "identical")])
def test_an_option_of_rtx_is_built_or_refused_by_name(example, tmp_path, name, value):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    asked = request(example, tmp_path, {name: value})
    if name not in ON_THE_CARD:
        assert "model.rtx" in TensorRtRtx().lower(asked).files
        return
    with pytest.raises(Unsupported, match=f"--option {name}={value} on the card only"):
        TensorRtRtx().lower(asked)


@pytest.mark.parametrize("batch", ["8:16:32", "1:2:3"])
def test_batches_that_leave_out_the_models_own_are_refused(example, tmp_path, batch):
    """Such a bundle could not run its own example."""
    best = batch.split(":")[1]
    with pytest.raises(UsageError, match=f"batch={batch} leaves out 4") as caught:
        TensorRt().lower(request(example, tmp_path, {"batch": batch}))
    assert f"--batch-size {best}" in caught.value.hint


@pytest.mark.parametrize(
    "plan", [PrecisionPlan(default="int8"), PrecisionPlan(default="float", floating="fp16", layers={"first": "int8"})]
)
def test_dla_takes_no_int8(example, tmp_path, plan):
    with pytest.raises(Unsupported, match=r"DLA takes no explicit Q/DQ pairs, and int8") as caught:
        TensorRt().lower(request(example, tmp_path, {"dla": "0"}, plan))
    assert "-p fp16" in caught.value.hint


def test_a_plan_that_needs_plugins_of_hwbenchs_has_no_example(example, tmp_path):
    """It does not load before they are registered."""
    why = Missing(code="timed", why="kernels are timed")
    found = Lowered(files=("model.engine",), arithmetic="fp16", settings={}, layers=(), same_bytes=why, graph=None)
    (tmp_path / "model.engine").write_bytes(b"plan")
    manifest = manifest_of("net", "tensorrt", request(example, tmp_path, {}), found, environment.capture())

    def with_route(route):
        artefact = msgspec.structs.replace(manifest.model.artefact, settings={"kernels": "s24 vw16", "plugins": route})
        return msgspec.structs.replace(manifest, model=msgspec.structs.replace(manifest.model, artefact=artefact))

    told = TensorRt().run_example(with_route("python-v3"))
    assert isinstance(told, Missing)
    assert "s24, vw16" in told.why
    assert isinstance(TensorRt().run_example(with_route("ahead-of-time")), str)
