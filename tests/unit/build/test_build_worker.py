"""One engine built and put into a bundle, and what is left when it fails at any step."""

import made_bundles
import msgspec
import numpy as np
import onnx_graphs
import pytest

from hwbench import plugins
from hwbench.build.worker import work
from hwbench.bundles.reader import check
from hwbench.bundles.writer import tidy
from hwbench.devices import environment
from hwbench.errors import EngineError, HwbenchError, Unsupported
from hwbench.records.base import Missing
from hwbench.records.build import BundleJob
from hwbench.records.measurement import Built
from hwbench.records.quantization import Lowered, PrecisionPlan
from hwbench.testing import example_cpu

STEPS = ("lower", "load", "compile", "bind", "run")


class Stub:
    """An engine that builds a file of one word; it fails at the step it is told to."""

    name = "stub"
    schemes = ("fp32",)

    def __init__(self, fails=None, error=None):
        self.fails, self.error = fails, error

    def at(self, step):
        if step == self.fails:
            raise self.error

    def installed(self):
        raise NotImplementedError

    supports = precisions = installed

    def start(self):
        return "1"

    def lower(self, request):
        self.at("lower")
        (request.folder / "model.bin").write_bytes(b"word")
        return Lowered(files=("model.bin",), arithmetic="fp32", settings={}, layers=(), same_bytes=True)

    def load(self, request):
        assert request.model.artefact.files == ("model.bin",)
        assert request.precision == "auto"
        self.at("load")
        return self

    def compile(self):
        self.at("compile")
        return self

    def bind(self, inputs):
        self.at("bind")
        self.shape = next(iter(inputs.values())).shape
        return self

    def run(self):
        self.at("run")

    def outputs(self):
        return {"y": np.ones(self.shape, np.float32)}

    def built(self):
        return Built(engine="stub", version="1", precision="fp32", execution_units=("CPU",), threads=1, settings={},
                     layers=Missing(code="stub", why="a stub"))  # fmt: skip

    def close(self):
        pass


@pytest.fixture
def job(tmp_path):
    return BundleJob(
        engine="stub", imported=made_bundles.imported(tmp_path, onnx_graphs.mlp(2)), device=example_cpu(),
        plan=PrecisionPlan(default="float", floating="fp32"), calibration=None, environment=environment.capture(),
        threads=1, name="net", target=str(tmp_path / "out" / "net"), replace=False, licence=None,
        preprocessing_note="as it is", postprocessing_note=None,
    )  # fmt: skip


@pytest.fixture
def at_work(job, tmp_path, monkeypatch):
    """Do the job with a stub that fails at a step, or at none."""

    def do(engine):
        monkeypatch.setattr(plugins, "load", lambda group, name: engine)
        scratch = tmp_path / "work"
        scratch.mkdir()
        return work(job, scratch, lambda event: None)

    return do


def test_a_bundle_of_what_was_built(at_work, tmp_path):
    found = at_work(Stub())
    manifest = check(tmp_path / "out" / "net")
    assert manifest.model.artefact == found.artefact
    assert found.size_bytes == len(b"word")
    assert manifest.run_example.code == "no_example"
    assert manifest.preprocessing == "as it is"
    with np.load(tmp_path / "out" / "net" / "expected.npz") as expected:
        assert (expected["y"] == 1).all()


@pytest.mark.parametrize("step", STEPS)
def test_an_engine_that_fails_leaves_nothing(at_work, tmp_path, step):
    with pytest.raises(EngineError, match="out of order"):
        at_work(Stub(step, EngineError("out of order")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", ["bind", "run"])
def test_a_runtime_s_own_error_is_named(at_work, tmp_path, step):
    with pytest.raises(EngineError, match="stub failed while running: a bug"):
        at_work(Stub(step, ValueError("a\n  bug")))
    assert not (tmp_path / "out").exists()


def test_an_engine_that_cannot_build_this(at_work):
    with pytest.raises(Unsupported, match="no int8 here"):
        at_work(Stub("lower", Unsupported("no int8 here")))


def test_an_engine_that_saves_nothing(at_work):
    class Runs(Stub):
        lower = property()  # no engine has it

    engine = Runs()
    with pytest.raises(Unsupported, match="cannot save what it runs"):
        at_work(engine)


def test_sparse_kernels_are_for_engines_that_take_them(job, tmp_path, monkeypatch):
    sparse = msgspec.structs.replace(job, plan=PrecisionPlan(default="float", kernels={"layer": "vw16"}))
    engine = Stub()
    monkeypatch.setattr(plugins, "load", lambda group, name: engine)
    (tmp_path / "refused").mkdir()
    with pytest.raises(Unsupported, match="kernels for 1 layers, and 'stub' takes none"):
        work(sparse, tmp_path / "refused", lambda event: None)
    engine.takes_kernels = True
    (tmp_path / "taken").mkdir()
    work(sparse, tmp_path / "taken", lambda event: None)
    check(tmp_path / "out" / "net")


def test_a_licence_that_has_gone(at_work, job, tmp_path, monkeypatch):
    gone = msgspec.structs.replace(job, licence=str(tmp_path / "gone"))
    monkeypatch.setattr(plugins, "load", lambda group, name: Stub())
    (tmp_path / "other").mkdir()
    with pytest.raises(HwbenchError, match="cannot write"):
        work(gone, tmp_path / "other", lambda event: None)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_writer_left_is_tidied(at_work, tmp_path):
    at_work(Stub())
    out = tmp_path / "out"
    other = out / ".net2.abc"
    other.mkdir()
    (out / ".net.abc" / "new").mkdir(parents=True)
    tidy(out / "net")
    assert sorted(path.name for path in out.iterdir()) == [".net2.abc", "net"]
    # killed between taking the old bundle away and putting the new one there
    (out / ".net.def").mkdir()
    (out / "net").rename(out / ".net.def" / "old")
    tidy(out / "net")
    check(out / "net")
    assert sorted(path.name for path in out.iterdir()) == [".net2.abc", "net"]
