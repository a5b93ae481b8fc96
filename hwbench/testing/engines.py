"""The contract of an engine."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
import numpy as np
import pytest

from hwbench.errors import EngineError
from hwbench.files import encode
from hwbench.protocols import BuildRequest, Engine, LayerProfile, Runner, TellsMemory, Tensors
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.measurement import Built
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import ImportResult, Model
from hwbench.testing.basics import assert_explained, assert_name, assert_support, example_cpu
from hwbench.testing.examples import Example, onnx_examples, tflite_examples, torch_examples

_TOLERANCE = {"fp64": 1e-5, "fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}  # of the largest output
_ITERATIONS = 12
_EXAMPLES = pytest.StashKey[dict[str, tuple[Example, ...]]]()
_ASK = """
import importlib, sys
import msgspec
from hwbench.records.device import Device
from hwbench.records.model import ImportResult

module, name, folder, *runtimes = sys.argv[1:]
imported = msgspec.json.decode(open(folder + "/imported.json", "rb").read(), type=ImportResult)
device = msgspec.json.decode(open(folder + "/device.json", "rb").read(), type=Device)
engine = getattr(importlib.import_module(module), name)()
engine.installed()
engine.supports(imported.model, imported.files, device)
engine.precisions(device)
print(*sorted(set(runtimes) & set(sys.modules)))
"""


class EngineContract:
    """What every engine must do. It is skipped, with the reason, where the engine's runtime is not installed.

    Override ``make``; ``takes`` if the engine runs torch modules, or files of LiteRT; ``device`` if it is not for a
    CPU; ``runtimes`` to name what it must not import too early.
    """

    takes: ClassVar[Literal["onnx", "torch", "tflite"]] = "onnx"
    runtimes: ClassVar[tuple[str, ...]] = (
        "torch", "onnx", "onnxruntime", "openvino", "tensorrt", "jax", "tensorflow", "ai_edge_litert",
    )  # fmt: skip

    def make(self) -> Engine:
        """Return the engine under test."""
        raise NotImplementedError("override make()")

    @pytest.fixture
    def device(self) -> Device:
        """The device to run on."""
        return example_cpu()

    @pytest.fixture
    def examples(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, ...]:
        """Models to run; imported once a session."""
        made = request.config.stash.setdefault(_EXAMPLES, {})
        if self.takes not in made:
            importing = {"onnx": onnx_examples, "torch": torch_examples, "tflite": tflite_examples}[self.takes]
            made[self.takes] = importing(tmp_path_factory.mktemp("examples"))
        return made[self.takes]

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine, its runtime imported."""
        engine = self.make()
        support = engine.installed()
        if not support.usable:
            pytest.skip(f"{engine.name}: {support}")
        assert engine.start().strip(), "start() returns the runtime's version"
        return engine

    def test_name(self) -> None:
        """A name that can be typed."""
        assert_name(self.make().name)

    def test_support(self, examples: tuple[Example, ...], device: Device) -> None:
        """Yes, or reasons; yes to the examples where the runtime is installed; no to another kind of device."""
        engine = self.make()
        assert_support(engine.installed())
        for example in examples:
            support = engine.supports(example.model, example.files, device)
            assert_support(support)
            assert support.usable == engine.installed().usable, f"{example.name}: {support}"
            elsewhere = msgspec.structs.replace(device, name="elsewhere", kind="android", cpu=None, gpu=None)
            refusal = engine.supports(example.model, example.files, elsewhere)
            assert_support(refusal)
            assert device.kind == elsewhere.kind or not refusal.usable, "it says it runs on any device"

    def test_support_without_a_torch_source(self, examples: tuple[Example, ...], device: Device) -> None:
        """A model that came as an ONNX file holds no torch module."""
        files = msgspec.structs.replace(examples[0].files, torch_source=None, torch_state=None)
        support = self.make().supports(examples[0].model, files, device)
        assert_support(support)
        assert self.takes != "torch" or not support.usable

    def test_asking_imports_no_runtime(self, examples: tuple[Example, ...], device: Device, tmp_path: Path) -> None:
        """``hwbench devices`` asks every engine."""
        kind = type(self.make())
        imported = ImportResult(model=examples[0].model, files=examples[0].files)
        (tmp_path / "imported.json").write_bytes(encode(imported))
        (tmp_path / "device.json").write_bytes(encode(device))
        command = [sys.executable, "-c", _ASK, kind.__module__, kind.__qualname__, str(tmp_path), *self.runtimes]
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.split() == [], "asking what is supported imported a runtime"

    def test_precisions(self, device: Device) -> None:
        """At least one, each a word."""
        precisions = self.make().precisions(device)
        assert precisions
        assert len(set(precisions)) == len(precisions)
        for precision in precisions:
            assert_name(precision)

    def test_inference(
        self,
        engine: Engine,
        examples: tuple[Example, ...],
        device: Device,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        """Outputs are right, from two threads at once; what was built is told; closing twice does no harm."""
        for example in examples:
            for precision in engine.precisions(device):
                runner = _compile(engine, example, device, precision, tmp_path_factory)
                assert runner.timed_region.strip(), "timed_region says what one run covers"
                built = runner.built()
                assert_built(built, engine, precision)
                _check_threads(runner, example, _TOLERANCE.get(built.precision, 1e-1))
                runner.close()
                runner.close()

    def test_phases(
        self, engine: Engine, examples: tuple[Example, ...], device: Device, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """A phase that has no time of its own says why, and not both of them."""
        program = engine.load(_request(examples[0], device, engine.precisions(device)[0], tmp_path_factory))
        untold = [phase for phase in (program.load_phase, program.compile_phase) if phase is not None]
        assert len(untold) < 2
        for reason in untold:
            assert_explained(reason)

    def test_no_such_precision(
        self, engine: Engine, examples: tuple[Example, ...], device: Device, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """What is no precision is refused."""
        with pytest.raises(EngineError):
            _compile(engine, examples[0], device, "no-such-precision", tmp_path_factory)

    @pytest.mark.parametrize("precision", ["fp64", "fp16", "bf16", "fp8", "int8", "int4"])
    def test_other_precisions(
        self,
        engine: Engine,
        examples: tuple[Example, ...],
        device: Device,
        precision: str,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        """A precision is built as asked for, or refused; never another in its place."""
        try:
            runner = _compile(engine, examples[0], device, precision, tmp_path_factory)
        except EngineError:
            return
        assert runner.built().precision == precision
        runner.close()

    def test_layers(
        self, engine: Engine, examples: tuple[Example, ...], device: Device, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Times of units that stand for the model's own layers, or why there are none."""
        named: list[str] = []
        profiles = 0
        for example in examples:
            request = _request(example, device, engine.precisions(device)[0], tmp_path_factory, profile_layers=True)
            runner = engine.load(request).compile()
            profile = runner.profile_layers(example.inputs, _ITERATIONS)
            runner.close()
            if isinstance(profile, Missing):
                assert_explained(profile)
            else:
                assert_layer_profile(profile, example.model)
                profiles += 1
                named.extend(name for times in profile.units for name in times.unit.members)
        assert named or not profiles, "not one unit stands for a layer of a model"

    def test_memory(
        self, engine: Engine, examples: tuple[Example, ...], device: Device, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Where the runtime tells its memory: numbers or reasons, and the runner works on."""
        for example in examples:
            runner = _compile(engine, example, device, engine.precisions(device)[0], tmp_path_factory)
            if not isinstance(runner, TellsMemory):
                runner.close()
                return
            assert_memory(runner.memory(example.inputs))
            bound = runner.bind(example.inputs)
            bound.run()
            _assert_close(bound.outputs(), example.reference(example.inputs), 1e-1, example.name)
            runner.close()


def assert_memory(memory: object) -> None:
    """Check that ``memory`` is a complete :class:`RuntimeMemory`, or a reason."""
    if not isinstance(memory, RuntimeMemory):
        assert_explained(memory)
        return
    assert memory.method.strip()
    for value in (memory.weights_bytes, memory.activations_bytes, memory.workspace_bytes, memory.arena_bytes):
        if isinstance(value, Missing):
            assert_explained(value)
        else:
            assert isinstance(value, int)


def assert_built(built: Built, engine: Engine, asked: str) -> None:
    """Check that ``built`` tells what was built, and that it is what was asked for."""
    assert built.engine == engine.name
    assert built.version == engine.start()
    assert built.precision.strip()
    assert asked in {"auto", built.precision}, f"{asked} was asked for, {built.precision} was built"
    assert built.execution_units
    assert all(unit.strip() for unit in built.execution_units)
    if isinstance(built.layers, Missing):
        assert_explained(built.layers)
    if isinstance(built.threads, Missing):
        assert_explained(built.threads)
    else:
        assert built.threads >= 1


def assert_layer_profile(profile: LayerProfile, model: Model) -> None:
    """Check that every unit has one plausible time an inference, and that its members are layers of ``model``."""
    assert profile.method.strip()
    assert len(profile.end_to_end_s) == _ITERATIONS
    assert all(math.isfinite(time) and time > 0 for time in profile.end_to_end_s)
    assert profile.units, "a profile without units is a Missing"
    known = {layer.name for layer in model.layers}
    members = [name for times in profile.units for name in times.unit.members]
    assert set(members) <= known, f"no layers of the model: {set(members) - known}"
    assert len(members) == len(set(members)), f"a layer runs in one unit only: {sorted(members)}"
    for times in profile.units:
        assert len(times.times_s) == _ITERATIONS, f"{times.unit.name} has {len(times.times_s)} times"
        assert all(math.isfinite(time) and time >= 0 for time in times.times_s)


def _request(
    example: Example, device: Device, precision: str, factory: pytest.TempPathFactory, *, profile_layers: bool = False
) -> BuildRequest:
    return BuildRequest(
        model=example.model,
        files=example.files,
        device=device,
        precision=precision,
        threads=2,
        streams=1 if profile_layers else 2,
        profile_layers=profile_layers,
        workdir=factory.mktemp("build"),
    )


def _compile(
    engine: Engine, example: Example, device: Device, precision: str, factory: pytest.TempPathFactory
) -> Runner:
    return engine.load(_request(example, device, precision, factory)).compile()


def _check_threads(runner: Runner, example: Example, tolerance: float) -> None:
    """Run two bound executables from two threads, on different inputs."""
    given = (example.inputs, example.other_inputs())
    bound = [runner.bind(inputs) for inputs in given]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            for running in [pool.submit(item.run) for item in bound]:
                running.result()
    for item, inputs in zip(bound, given, strict=True):
        _assert_close(item.outputs(), example.reference(inputs), tolerance, example.name)


def _assert_close(actual: Tensors, expected: Tensors, tolerance: float, name: str) -> None:
    assert list(actual) == list(expected), f"{name}: outputs go by the model's names, in its order"
    for output, array in expected.items():
        assert actual[output].shape == array.shape, f"{name}, {output}"
        right = np.asarray(array, dtype=np.float64)
        error = float(np.abs(np.asarray(actual[output], dtype=np.float64) - right).max())
        assert error <= tolerance * float(np.abs(right).max()), f"{name}, {output}: off by {error}"
