"""hwbench's int8 for LiteRT against litert-quantizer's own ready recipes.

The rival is the road without hwbench: litert-torch on the torch module (or on the torch view, where only ONNX is
there), litert-quantizer with ``static_wi8_ai8`` or ``dynamic_wi8_afp32``, ranges by its own calibration. Speed: blocks
of all alternate in one process, and a second interpreter of the rival is the A/A control. Accuracy: real networks.

    make bench PYTEST_ARGS="-k int8_litert"
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import onnx_ir
import pytest

pytest.importorskip("litert_torch", reason="needs the extra mobile-convert")

import real_tasks
from ai_edge_litert.interpreter import Interpreter
from litert_quantizer import quantizer, recipe
from stored_data import lay_down

from hwbench.engines.litert_lower import lower
from hwbench.graph.importer import import_model
from hwbench.protocols import LowerRequest
from hwbench.quantize.calibrate import work
from hwbench.records.model import DataFacts, ImportJob
from hwbench.records.quantization import CalibrateJob, CalibrationSettings, PrecisionPlan

SLOWER = 1.03
BLOCK_S = 0.1
ROUNDS = 15

pytestmark = pytest.mark.filterwarnings("ignore")


def imported(model, folder):
    job = ImportJob(model=str(model), batch_size=1, shapes={}, input_data=None, seed=0)
    return import_model(job, folder / "imported")


def without_hwbench(module, arguments):
    """The float file as litert-torch gives it."""
    import litert_torch

    return bytes(litert_torch.convert(module.eval(), arguments).model_content())


def by_recipe(content, rules, samples):
    """The file quantised by a ready recipe; ``samples`` by the hub's names, in the order of the inputs."""
    tool = quantizer.Quantizer(bytearray(content), rules)
    result = None
    if tool.need_calibration:
        interpreter = Interpreter(model_content=content)
        (signature,) = interpreter.get_signature_list().values()
        kinds = [detail["dtype"] for detail in sorted(interpreter.get_input_details(), key=lambda d: d["index"])]
        arrays = [array.astype(kind) for array, kind in zip(samples.values(), kinds, strict=True)]
        names = sorted(signature["inputs"])
        count = len(arrays[0])
        feeds = [{name: array[i : i + 1] for name, array in zip(names, arrays, strict=True)} for i in range(count)]
        result = tool.calibrate({"serving_default": feeds}, num_threads=2)
    return bytes(tool.quantize(result, enable_progress_report=False).quantized_model)


def ours(result, samples, folder, scheme, settings):
    folder.mkdir()
    lay_down(folder, **samples)
    plan = PrecisionPlan(default=scheme)
    files, calibration = result.files, None
    if plan.needs_ranges:
        data = DataFacts(source="benchmark", sha256="0" * 64, samples=len(next(iter(samples.values()))), labels=False)
        job = CalibrateJob(model=result.model, files=files, plan=plan, settings=settings, data=data,
                           data_folder=str(folder), threads=2)  # fmt: skip
        calibrated = work(job, folder, lambda event: None)
        files, calibration = calibrated.files, calibrated.calibration
    (folder / "lowered").mkdir()
    request = LowerRequest(model=result.model, files=files, plan=plan, calibration=calibration, device=None,
                           folder=folder / "lowered")  # fmt: skip
    return (folder / "lowered" / lower(request).files[0]).read_bytes()


def partitions(content):
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())


def ready(content, threads=1):
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        values = np.random.default_rng(0).standard_normal(detail["shape"])
        interpreter.set_tensor(detail["index"], np.abs(values).clip(0, 1).astype(detail["dtype"]))
    interpreter.invoke()
    return interpreter


def ratios(interpreters):
    """The median over rounds of each one's fastest inference in a block, over that of the first."""
    best = {name: [] for name in interpreters}
    for number in range(ROUNDS):
        for name in list(interpreters) if number % 2 else reversed(interpreters):
            run, times, end = interpreters[name].invoke, [], time.perf_counter() + BLOCK_S
            while len(times) < 2 or time.perf_counter() < end:
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            best[name].append(min(times))
    first = next(iter(best.values()))
    return {name: statistics.median(a / b for a, b in zip(times, first, strict=True)) for name, times in best.items()}


@pytest.mark.benchmark(group="int8 litert")
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "bert_small", "vit_tiny"])
def test_int8_litert_speed(benchmark, capsys, tmp_path, name):
    from hwbench.models.zoo import create

    result = imported(f"zoo:{name}", tmp_path)
    samples = dict(np.load(Path(result.files.folder) / "inputs.npz"))
    module, inputs = create(name)
    plain = without_hwbench(module, tuple(inputs.values()))
    settings = CalibrationSettings(estimator="minmax", bias_correction=False)
    files = {"static recipe": by_recipe(plain, recipe.static_wi8_ai8(), {k: v.numpy() for k, v in inputs.items()})}
    files["int8"] = ours(result, samples, tmp_path / "int8", "int8", settings)
    files["static recipe again"] = files["static recipe"]
    files["dynamic recipe"] = by_recipe(plain, recipe.dynamic_wi8_afp32(), {})
    files["int8-dynamic"] = ours(result, samples, tmp_path / "dynamic", "int8-dynamic", settings)
    files["float"] = plain
    found = benchmark.pedantic(ratios, args=({key: ready(value) for key, value in files.items()},), rounds=1)
    with capsys.disabled():
        cells = ", ".join(f"{key} {value:.3f} ({partitions(files[key])} part.)" for key, value in found.items())
        print(f"\n{name}, time over the static recipe's: {cells}")
    assert found["int8"] <= SLOWER * max(1, found["static recipe again"])


def score(content, task, limit):
    interpreter = Interpreter(model_content=content, num_threads=2)
    run = interpreter.get_signature_runner()
    kinds = {key: detail["dtype"] for key, detail in run.get_input_details().items()}
    outputs = []
    names = list(task.test)
    for index in range(min(limit, len(task.test[names[0]]))):
        feeds = {
            key: task.test[name][index : index + 1] for key, name in zip(sorted(kinds), sorted(names), strict=True)
        }
        given = {key: _as_kind(array, kinds[key], run.get_input_details()[key]) for key, array in feeds.items()}
        (output,) = run(**given).values()
        outputs.append(output.astype(np.float32))
    return task.score(outputs)


def _as_kind(array, kind, detail):
    if kind is not np.int8:
        return array.astype(kind)
    scale, zero = detail["quantization"]
    return np.clip(np.rint(array / scale) + zero, -128, 127).astype(np.int8)


@pytest.mark.benchmark(group="int8 litert")
@pytest.mark.parametrize("name", real_tasks.NAMES)
def test_int8_litert_accuracy(benchmark, capsys, tmp_path, name):
    import torch

    from hwbench.torch_view.build import to_torch

    task = real_tasks.task(name, tmp_path)
    result = imported(task.spec, tmp_path)
    graph = onnx_ir.load(Path(result.files.folder) / result.files.runtime_graph)
    arguments = tuple(
        torch.from_numpy(task.calibration[value.name][:1])
        for value in graph.graph.inputs
        if value.name in task.calibration
    )
    plain = without_hwbench(to_torch(graph), arguments)
    settings = CalibrationSettings(smooth_quant=0.5 if task.transformer else None)
    files = {
        "float": plain,
        "static recipe": by_recipe(plain, recipe.static_wi8_ai8(), task.calibration),
        "int8": benchmark.pedantic(
            ours, args=(result, task.calibration, tmp_path / "int8", "int8", settings), rounds=1
        ),
        "dynamic recipe": by_recipe(plain, recipe.dynamic_wi8_afp32(), {}),
        "int8-dynamic": ours(result, task.calibration, tmp_path / "dynamic", "int8-dynamic", settings),
    }
    cases = len(next(iter(task.test.values())))
    found = {key: score(content, task, cases) for key, content in files.items()}
    with capsys.disabled():
        cells = ", ".join(f"{key} {value:.2f} ({partitions(files[key])} part.)" for key, value in found.items())
        print(f"\n{task.name}, {task.unit}, {cases} cases: {cells}")
    noise = 100 * 2 * (0.03 / cases) ** 0.5  # two standard errors where 3 % of the cases differ
    assert found["int8"] >= found["static recipe"] - noise
