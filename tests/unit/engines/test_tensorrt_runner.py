from __future__ import annotations

import threading
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from fake_cuda import FakeCuda, Kernel, Work
from fake_tensorrt_engine import FakeEngine, Io

from hwbench.engines.tensorrt_runner import GRAPH, TensorRtRunner
from hwbench.errors import EngineError, Unsupported, UsageError
from hwbench.protocols import Bound, LayerProfile, Runner
from hwbench.records.base import Missing
from hwbench.records.measurement import Built

X = np.arange(6, dtype=np.float32).reshape(2, 3)
BUILT = Built(
    engine="tensorrt",
    version="10.3.0",
    precision="fp16",
    execution_units=("GPU",),
    threads=Missing(code="not_told", why="a GPU"),
    settings={"level": "3"},
    layers=Missing(code="not_told", why="a fake"),
    notes=("built before",),
)
SQUARE = {"x": Io(shape=(2, 3)), "y": Io(shape=(2, 3), is_input=False)}


def squares(arrays):
    return {"y": arrays["x"] ** 2}


class Setup:
    """A runner of an engine on a fake GPU."""

    def __init__(self, io=None, compute=squares, *, graph=True, layers=False, streams=1, profile=None, **engine):
        self.cuda = FakeCuda()
        self.engine = FakeEngine(self.cuda, io or SQUARE, compute, **engine)
        self.runner = TensorRtRunner(
            engine=self.engine,
            context_of=self.engine.create_execution_context,
            cuda=self.cuda,
            request=SimpleNamespace(profile_layers=layers, streams=streams),
            built=lambda: BUILT,
            profile=profile or (lambda *_: Missing(code="not_told", why="no profiler")),
            complaint=self.engine.complaint,
            graph=graph,
        )

    @property
    def enqueued(self):
        return [context.enqueued for context in self.engine.contexts]

    @property
    def settings(self):
        return self.runner.built().settings


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv(GRAPH, raising=False)


def test_it_is_a_runner():
    def takes(runner: Runner) -> Bound:
        return runner.bind({"x": X})

    assert callable(takes(Setup().runner).run)


@pytest.mark.parametrize("graph", [True, False])
def test_what_an_inference_gives(graph):
    setup = Setup(graph=graph)
    bound = setup.runner.bind({"x": X})
    for _ in range(4):
        bound.run()
    np.testing.assert_array_equal(bound.outputs()["y"], X**2)
    assert setup.enqueued == ([3] if graph else [4])  # twice before, once captured, then the graph alone
    assert setup.cuda.done.count("inference") == (6 if graph else 4)  # the graph is launched once to try it
    assert setup.settings["cuda_graph"] == ("on" if graph else "off")


def test_a_run_copies_nothing():
    setup = Setup()
    bound = setup.runner.bind({"x": X})
    bound.run()
    before = len(setup.cuda.done)
    bound.run()
    assert setup.cuda.done[before:] == ["inference"]


def test_every_run_computes():
    counted = []

    def compute(arrays):
        counted.append(1)
        return {"y": arrays["x"] + len(counted)}

    bound = Setup(compute=compute).runner.bind({"x": X})
    bound.run()
    first = bound.outputs()["y"]
    bound.run()
    np.testing.assert_array_equal(bound.outputs()["y"], first + 1)


def test_outputs_are_copies():
    bound = Setup().runner.bind({"x": X})
    bound.run()
    bound.outputs()["y"][:] = 0
    np.testing.assert_array_equal(bound.outputs()["y"], X**2)


def test_several_contexts_from_several_threads():
    setup = Setup(streams=2)
    others = [np.full_like(X, number) for number in (2, 3)]
    bound = [setup.runner.bind({"x": other}) for other in others]
    bound[0].run()
    errors = []

    def work(item):
        try:
            for _ in range(3):
                item.run()
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    for item in bound:
        thread = threading.Thread(target=work, args=(item,))
        thread.start()
        thread.join()
    assert not errors
    assert len({id(item.context) for item in bound}) == 2
    assert [context.active_optimization_profile for context in setup.engine.contexts] == [0, 0]
    for item, other in zip(bound, others, strict=True):
        np.testing.assert_array_equal(item.outputs()["y"], other**2)
    assert setup.settings["streams"] == "2"


@pytest.mark.parametrize("graph", [True, False])
def test_a_thread_with_the_number_of_a_dead_one_gets_the_context(graph):
    """Python gives numbers of threads again as soon as they are free; CUDA knows nothing of them."""
    bound = Setup(graph=graph).runner.bind({"x": X})
    bound.run()
    numbers, errors = [], []

    def work():
        numbers.append(threading.get_ident())
        try:
            bound.run()
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    if len(set(numbers)) == len(numbers):
        pytest.skip("no number was given twice")
    assert not errors


def test_what_is_told_of_running():
    setup = Setup()
    bound = setup.runner.bind({"x": X})
    bound.run()
    built = setup.runner.built()
    assert built.settings == {
        "level": "3",
        "cuda_graph": "on",
        "streams": "1",
        "host_waits_by": "spin",
        "transfers": "outside the timed region, told apart",
        "optimization_profile": "0",
        "gpu": setup.cuda.facts.uuid,
        "cuda_backend": "fake 1",
        "cuda_of_driver": "13.0",
    }
    assert built.notes[0] == "built before"
    assert "first inference" in built.notes[1]
    assert "synchronised" in setup.runner.timed_region


def test_a_capture_that_fails_is_told_and_runs_go_on():
    setup = Setup()
    setup.cuda.refuses_capture = True
    bound = setup.runner.bind({"x": X})
    for _ in range(3):
        bound.run()
    np.testing.assert_array_equal(bound.outputs()["y"], X**2)
    built = setup.runner.built()
    assert built.settings["cuda_graph"].startswith("off")
    assert any("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in note for note in built.notes)


@pytest.mark.parametrize(("capturable", "graph"), [(True, "on"), (False, "off: it cannot be captured")])
def test_tensorrt_is_asked_where_it_tells_what_can_be_captured(capturable, graph):
    setup = Setup(capturable=capturable)
    setup.runner.bind({"x": X}).run()
    assert setup.settings["cuda_graph"] == graph


def test_the_environment_says_whether_there_are_graphs(monkeypatch):
    monkeypatch.setenv(GRAPH, "off")
    setup = Setup(graph=None)
    setup.runner.bind({"x": X}).run()
    assert setup.enqueued == [1]
    monkeypatch.setenv(GRAPH, "maybe")
    with pytest.raises(UsageError, match="maybe"):
        Setup(graph=None)


def test_layers_are_profiled_without_a_graph():
    seen = []

    def profile(context, run, iterations):
        for _ in range(iterations):
            run()
        seen.append(context)
        return LayerProfile(units=(), end_to_end_s=(), method="fake")

    setup = Setup(layers=True, profile=profile)
    found = setup.runner.profile_layers({"x": X}, 5)
    assert isinstance(found, LayerProfile)
    assert setup.enqueued == [5]
    assert seen == setup.engine.contexts
    setup.runner.bind({"x": X}).run()
    assert setup.enqueued == [5, 1]


def test_transfers_are_timed_apart():
    setup = Setup()
    setup.runner.bind({"x": X}).run()
    found = setup.runner.transfers({"x": X})
    assert found.n == 20
    assert (found.bytes_in, found.bytes_out, found.pinned) == (X.nbytes, X.nbytes, True)
    assert found.h2d_median_s == pytest.approx(1e-6)  # one copy of the fake's
    assert found.d2h_s == pytest.approx([1e-6] * 20)
    assert "share one memory" in found.method
    assert len(setup.engine.contexts) == 1


def test_transfers_of_an_engine_that_was_not_bound():
    assert Setup().runner.transfers({"x": X}).bytes_in == X.nbytes


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, np.uint8, np.bool_, np.int64])
def test_element_types(dtype):
    io = {"x": Io(shape=(3,), dtype=dtype), "y": Io(shape=(3,), dtype=dtype, is_input=False)}
    x = np.array([0, 1, 1]).astype(dtype)
    bound = Setup(io, lambda arrays: {"y": arrays["x"]}).runner.bind({"x": x})
    bound.run()
    out = bound.outputs()["y"]
    assert out.dtype == x.dtype
    assert out.tobytes() == x.tobytes()


def test_integers_are_narrowed_where_they_fit():
    io = {"x": Io(shape=(2,), dtype=np.int32), "y": Io(shape=(2,), dtype=np.int32, is_input=False)}
    setup = Setup(io, lambda arrays: {"y": arrays["x"] + 1})
    bound = setup.runner.bind({"x": np.array([1, -7], np.int64)})
    bound.run()
    assert bound.outputs()["y"].tolist() == [2, -6]
    with pytest.raises(EngineError, match="int64"):
        setup.runner.bind({"x": np.array([1, 1 << 40], np.int64)})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"z": X}, "asks for an input 'x', there are: z"),
        ({"x": X.T}, "shape"),
        ({"x": X[0]}, "shape"),
        ({"x": X.astype(np.float16)}, "float16"),
    ],
)
def test_inputs_that_do_not_fit(inputs, words):
    with pytest.raises(EngineError, match=words):
        Setup().runner.bind(inputs)


def test_an_input_with_gaps():
    bound = Setup().runner.bind({"x": np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]})
    bound.run()
    assert bound.outputs()["y"].tolist() == [[0, 4, 16], [36, 64, 100]]


def test_a_scalar_and_a_tensor_without_elements():
    io = {
        "x": Io(shape=()),
        "none": Io(shape=(0, 4)),
        "y": Io(shape=(), is_input=False),
        "void": Io(shape=(0, 4), is_input=False),
    }
    setup = Setup(io, lambda arrays: {"y": arrays["x"] * 2, "void": arrays["none"]})
    bound = setup.runner.bind({"x": np.float32(3.0), "none": np.empty((0, 4), np.float32)})
    bound.run()
    out = bound.outputs()
    assert out["y"] == 6
    assert out["void"].shape == (0, 4)


RANGES = (((1, 3), (1, 3), (4, 3)), ((1, 3), (8, 3), (8, 3)), ((2, 3), (2, 3), (4, 3)))


def moving(**engine):
    io = {"x": Io(shape=(-1, 3), profiles=RANGES), "y": Io(shape=(-1, 3), is_input=False)}
    return Setup(io, shapes=lambda given: {"y": given["x"]}, num_optimization_profiles=3, **engine)


@pytest.mark.parametrize(("batch", "profile"), [(1, "0"), (2, "2"), (3, "0"), (8, "1"), (5, "1")])
def test_the_profile_that_was_tuned_for_the_shapes(batch, profile):
    setup = moving()
    x = np.ones((batch, 3), np.float32)
    bound = setup.runner.bind({"x": x})
    bound.run()
    assert bound.outputs()["y"].shape == (batch, 3)
    assert setup.settings["optimization_profile"] == profile


def test_shapes_that_no_profile_covers():
    with pytest.raises(EngineError, match=r"\(9, 3\).*\(1, 3\) to \(4, 3\) or \(1, 3\) to \(8, 3\)"):
        moving().runner.bind({"x": np.ones((9, 3), np.float32)})


def test_an_output_whose_size_depends_on_values():
    setup = Setup(shapes=lambda given: {"y": (-1, 3)})
    with pytest.raises(Unsupported, match="'y' depends"):
        setup.runner.bind({"x": X})


def test_an_input_that_is_a_shape_stays_with_the_host():
    io = {**SQUARE, "size": Io(shape=(2,), dtype=np.int32, location="HOST")}
    setup = Setup(io)
    bound = setup.runner.bind({"x": X, "size": np.array([2, 3])})
    bound.run()
    np.testing.assert_array_equal(bound.outputs()["y"], X**2)
    assert setup.runner.transfers({}).bytes_in == X.nbytes


@pytest.mark.parametrize(
    ("io", "words"), [(Io(shape=(2, 3), dtype="int4"), "INT4"), (Io(shape=(2, 3), layout="CHW32"), "CHW32")]
)
def test_tensors_that_cannot_be_fed(io, words):
    with pytest.raises(Unsupported, match=words):
        Setup({"x": io, "y": SQUARE["y"]})


def test_what_tensorrt_says_is_in_the_errors():
    with pytest.raises(EngineError, match="OutOfMemory"):
        Setup(most_contexts=0).runner.bind({"x": X})
    setup = Setup(fails_after=0)
    with pytest.raises(EngineError, match="invalid resource handle"):
        setup.runner.bind({"x": X}).run()
    setup = moving()
    setup.engine.num_optimization_profiles = 1
    first = setup.runner.bind({"x": np.ones((1, 3), np.float32)})
    first.run()


def test_a_failure_while_capturing_is_told(monkeypatch):
    setup = Setup(fails_after=2)
    with pytest.raises(EngineError, match="invalid resource handle"):
        setup.runner.bind({"x": X}).run()  # the context is broken, so the run after the capture fails too


def test_a_failure_on_the_gpu_says_what_tensorrt_said():
    setup = Setup()
    setup.engine.log.append("IExecutionContext::executeV3: Error Code 1")
    bound = setup.runner.bind({"x": X})

    def fail():
        raise EngineError("waiting for a stream: CUDA_ERROR_ILLEGAL_ADDRESS (700)", hint="run it again")

    bound._stream.put(Work("a kernel that fails", fail))
    with pytest.raises(EngineError, match=r"\(700\); TensorRT said: IExecutionContext") as error:
        bound.run()
    assert error.value.hint == "run it again"


@pytest.mark.parametrize("graph", [True, False])
def test_closing_gives_everything_back(graph):
    setup = Setup(graph=graph, streams=2)
    for _ in range(2):
        setup.runner.bind({"x": X}).run()
    assert setup.cuda.alive() == 8
    setup.runner.close()
    setup.runner.close()
    assert setup.cuda.alive() == 0
    assert setup.cuda.closed
    with pytest.raises(EngineError, match="closed"):
        setup.runner.bind({"x": X})


def test_memory_is_given_back_where_binding_fails():
    setup = Setup(shapes=lambda given: {"y": (-1, 3)})
    with pytest.raises(Unsupported):
        setup.runner.bind({"x": X})
    assert setup.cuda.alive() == 0


def test_the_fake_catches_what_it_must():
    """Of the fake itself: a copy that is still under way when its memory goes, and a read that comes too early."""
    cuda = FakeCuda({"nothing": Kernel(lambda *_: None)})
    stream, buffer, back = cuda.stream(), cuda.allocate(4), np.zeros(4, np.uint8)
    cuda.fill(buffer.address, 7, 4, stream)
    cuda.copy_out(back, buffer.address, stream)
    assert back.tolist() == [0] * 4
    buffer.free()
    with pytest.raises(AssertionError, match="freed"):
        stream.wait()
    small = cuda.allocate(4)
    with pytest.raises(AssertionError, match="beyond its end"):
        cuda.fill(small.address, 0, 5, stream)
