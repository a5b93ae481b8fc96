"""The real worker: on ONNX Runtime where it is installed, and on engines of a package made for these tests."""

import importlib.util
import itertools
import os
import sys
import textwrap

import fixtures_results
import msgspec
import numpy as np
import pytest

from hwbench.children import run_child
from hwbench.errors import EngineError, PluginError, StorageError
from hwbench.measure.job import OUTPUTS, Job
from hwbench.measure.layers import reconcile
from hwbench.records.base import Missing
from hwbench.records.energy import EnergyReading
from hwbench.records.measurement import LayerRun, StopRule, TimedRun
from hwbench.testing import onnx_examples

needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"
)
THEIRS = """
import numpy as np, os, signal, time
from hwbench.protocols import LayerProfile
from hwbench.records.base import Missing, Support
from hwbench.records.measurement import Built

NONE = Missing(code="none", why="there are none")


class Engine:
    name = "theirs"
    timed_region = "a sleep"
    load_phase = None
    compile_phase = NONE

    def installed(self): return Support()
    def supports(self, model, files, device): return Support()
    def precisions(self, device): return ("fp32",)
    def start(self): return "1"
    def load(self, request): return self
    def compile(self): return self
    def bind(self, inputs): return self
    def run(self): time.sleep(0.002)
    def outputs(self): return {"y": np.ones(3)}
    def profile_layers(self, inputs, iterations): return NONE
    def close(self): pass
    def built(self):
        return Built(engine="theirs", version="1", precision="fp32", execution_units=("CPU",), threads=1, settings={},
                     layers=NONE)
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return onnx_examples(tmp_path_factory.mktemp("models"))[0]


@pytest.fixture(scope="module")
def job(example):
    settings = fixtures_results.make_settings(
        warmup=StopRule(name="count", settings={"count": 10}),
        stop=StopRule(name="count", settings={"count": 50}),
        layers=False,
        meter="none",
        threads=1,
        cpus=(min(os.sched_getaffinity(0)),) if hasattr(os, "sched_getaffinity") else (),
    )
    return Job(
        engine="onnxruntime",
        precision="fp32",
        model=example.model,
        files=example.files,
        device=fixtures_results.make_device(),
        settings=settings,
    )


@pytest.fixture(scope="module")
def timed(job, tmp_path_factory):
    """One run, looked at by several tests: result, folder and events."""
    folder, events = tmp_path_factory.mktemp("timed"), []
    module = "hwbench.measure.worker"
    keywords = {"what": "it", "failure": EngineError, "timeout_s": 60, "on_event": events.append}
    return run_child(module, job, TimedRun, folder=folder, **keywords), folder, events


def asked(job, **changes):
    """Return the job with other settings; ``engine`` is its own field."""
    engine = changes.pop("engine", job.engine)
    return msgspec.structs.replace(job, engine=engine, settings=msgspec.structs.replace(job.settings, **changes))


@pytest.fixture
def work(tmp_path):
    counter = itertools.count()

    def run(job, *, module="hwbench.measure.worker", result=TimedRun, **keywords):
        folder = tmp_path / f"run {next(counter)}"
        done = run_child(module, job, result, folder=folder, what="it", failure=EngineError, timeout_s=60, **keywords)
        return done, folder

    return run


@pytest.fixture
def theirs(tmp_path, monkeypatch, job):
    """Return a function that installs an engine of other people, its methods replaced by ``text``; returns the job."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = "[hwbench.engines]\ntheirs = theirs:Engine\n[hwbench.meters]\nbroken = theirs:NoSuchMeter\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)

    def install(text="", **settings):
        (site / "theirs.py").write_text(THEIRS + textwrap.indent(textwrap.dedent(text), "    "))
        return asked(job, engine="theirs", **settings)

    return install


@needs_onnxruntime
class TestOnnxRuntime:
    def test_samples(self, timed):
        run, _, _ = timed
        assert (len(run.samples_ns), len(run.warmup_ns)) == (50, 10)
        assert (run.stopped_by, run.target_reached) == ("count", True)
        assert run.clock == "time.perf_counter_ns"
        assert sum(run.samples_ns) / 1e9 <= run.window_s < 10
        assert 0 < run.process_cpu_s < 10

    def test_phases(self, timed):
        run, _, _ = timed
        assert isinstance(run.phases.load_s, Missing)
        assert 0 < run.phases.compile_s < 30
        assert 0 < run.phases.first_inference_s < 30
        assert run.host_after.monotonic_s > run.host_before.monotonic_s

    def test_events_tell_the_phases_in_order(self, timed):
        phases = [event["phase"] for event in timed[2]]
        order = ["start", "load", "compile", "warm-up", "measure"]
        assert [phase for phase in order if phase in phases] == list(dict.fromkeys(phases))
        assert {"start", "load", "compile"} <= set(phases)

    def test_memory(self, timed):
        memory = timed[0].memory
        assert memory.model_file_bytes > 0
        if sys.platform == "linux":
            assert memory.baseline_rss_bytes > 10 * 2**20
            assert memory.loaded_rss_bytes >= memory.baseline_rss_bytes
            assert memory.peak_load_rss_bytes >= memory.loaded_rss_bytes - 2**20  # the kernel's counters lag a little
            assert memory.peak_run_rss_bytes >= memory.loaded_rss_bytes - 2**20
            assert memory.loaded_pss_bytes <= memory.loaded_rss_bytes

    def test_outputs(self, timed, example):
        with (
            np.load(timed[1] / OUTPUTS) as outputs,
            np.load(f"{example.files.folder}/{example.files.inputs}") as inputs,
        ):
            assert np.allclose(outputs["y"], example.reference(dict(inputs))["y"], rtol=1e-4, atol=1e-5)

    def test_what_was_built(self, timed):
        built = timed[0].built
        assert (built.engine, built.precision, built.threads) == ("onnxruntime", "fp32", 1)
        assert isinstance(timed[0].throughput, Missing)
        assert timed[0].energy.code == "not_asked"

    def test_throughput(self, job, work):
        stop = StopRule(name="duration", settings={"seconds": 0.6})
        run, _ = work(asked(job, mode="throughput", streams=2, threads=2, stop=stop))
        rate = run.throughput
        assert rate.streams == 2
        assert rate.inferences <= len(run.samples_ns) <= rate.inferences + 2
        assert rate.window_s == pytest.approx(0.6, abs=0.5)
        assert rate.inferences_per_s == pytest.approx(rate.inferences / rate.window_s)
        assert rate.low_per_s <= rate.inferences_per_s <= rate.high_per_s
        assert sum(rate.sub_window_per_s) / len(rate.sub_window_per_s) == pytest.approx(rate.inferences_per_s)
        assert rate.items_per_s == pytest.approx(rate.inferences_per_s * job.model.batch_size)
        assert run.window_s >= rate.window_s

    def test_layers(self, job, work):
        run, _ = work(
            msgspec.structs.replace(job, layer_iterations=20), module="hwbench.measure.layers", result=LayerRun
        )
        table = reconcile(run, job.model.layers, 1e-3)
        assert table.iterations == 20
        assert {name for row in table.rows for name in row.unit.members} <= {layer.name for layer in job.model.layers}
        assert sum(row.scaled_s for row in table.rows) + table.unattributed_s == pytest.approx(1e-3)

    def test_energy_from_a_trace(self, job, work, tmp_path):
        trace = tmp_path / "trace.jsonl"
        trace.write_text("".join(f'{{"t_s": {at / 100}, "power_w": 25.0}}\n' for at in range(3000)))
        stop = StopRule(name="duration", settings={"seconds": 0.3})
        run, _ = work(asked(job, meter="replay", stop=stop), env={"HWBENCH_REPLAY_TRACE": str(trace)})
        assert isinstance(run.energy, EnergyReading)
        assert run.energy.energy_j == pytest.approx(25 * run.energy.window_s)
        assert run.energy.window_s == pytest.approx(run.window_s, rel=0.2)

    def test_refused_precision(self, job, work):
        with pytest.raises(EngineError, match="onnxruntime was asked for bf16 and built fp32"):
            work(msgspec.structs.replace(job, precision="bf16"))

    def test_a_model_that_is_damaged(self, job, work, tmp_path):
        (tmp_path / "model.onnx").write_bytes(b"not a protobuf")
        (tmp_path / "inputs.npz").write_bytes((tmp_path / "model.onnx").read_bytes())
        files = msgspec.structs.replace(job.files, folder=str(tmp_path))
        with pytest.raises(EngineError):
            work(msgspec.structs.replace(job, files=files))

    def test_inputs_that_are_gone(self, job, work):
        files = msgspec.structs.replace(job.files, inputs="gone.npz")
        with pytest.raises(StorageError, match=r"cannot read .*gone.npz"):
            work(msgspec.structs.replace(job, files=files))


class TestForeignEngine:
    def test_as_it_should_be(self, theirs, work):
        run, folder = work(theirs())
        assert min(run.samples_ns) >= 2_000_000
        assert run.phases.load_s > 0
        assert run.phases.compile_s.code == "none"
        assert (folder / OUTPUTS).exists()

    def test_raises_while_running(self, theirs, work):
        with pytest.raises(EngineError, match="theirs failed while running: the kernel fell over"):
            work(theirs('def run(self): raise RuntimeError("the kernel\\n fell over")'))

    def test_raises_in_a_stream(self, theirs, work):
        text = """
            calls = 0
            def run(self):
                Engine.calls += 1
                if Engine.calls > 20: raise RuntimeError("the 21st")
        """
        job = theirs(text, mode="throughput", streams=2, stop=StopRule(name="duration", settings={"seconds": 5}))
        with pytest.raises(EngineError, match="the 21st"):
            work(job)

    def test_raises_while_loading(self, theirs, work):
        with pytest.raises(EngineError, match="it: KeyError: 'weights'"):
            work(theirs("def load(self, request): return {}['weights']"))

    def test_kills_itself(self, theirs, work):
        with pytest.raises(EngineError, match="SIGKILL"):
            work(theirs("def run(self): os.kill(os.getpid(), signal.SIGKILL)"))

    def test_allocates_beyond_what_there_is(self, theirs, work):
        text = """
            def start(self):
                import resource
                resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, resource.RLIM_INFINITY))
                return "1"
            def run(self): np.ones(2**30)
        """
        with pytest.raises(EngineError, match=r"failed while running: Unable to allocate 8.00 GiB"):
            work(theirs(text))

    def test_exits(self, theirs, work):
        with pytest.raises(EngineError, match="SystemExit"):
            work(theirs("def run(self): raise SystemExit(0)"))

    def test_prints_while_it_is_timed(self, theirs, work):
        run, folder = work(theirs("def run(self): os.write(1, b'chatter\\n')"))
        assert len(run.samples_ns) == 50
        assert (folder / "log.txt").read_bytes().count(b"chatter") > 60

    def test_outputs_that_are_text(self, theirs, work):
        _, folder = work(theirs("def outputs(self): return {'label': np.array(['cat', 'dog'], dtype=object)}"))
        with np.load(folder / OUTPUTS) as outputs:
            assert list(outputs["label"]) == ["cat", "dog"]

    def test_layers_that_are_not_offered(self, theirs, work):
        run, _ = work(theirs(), module="hwbench.measure.layers", result=LayerRun)
        assert run.units.code == "none"

    def test_a_broken_meter_is_a_reason_and_not_an_end(self, theirs, work):
        run, _ = work(theirs(meter="auto"))
        assert isinstance(run.energy, EnergyReading) or "the meter plugin 'broken'" in run.energy.why

    def test_a_broken_meter_that_was_asked_for_is_an_error(self, theirs, work):
        with pytest.raises(PluginError, match="the meter plugin 'broken'"):
            work(theirs(meter="broken"))
