"""A CUDA-graph engine of hwbench's against a bare loop over a CUDA graph of the same, in blocks in random order.

    python bench_overhead.py cuda:0 resnet50 60 out.json                    # torch's graph
    python bench_overhead.py cuda:0 resnet50 60 out.json tensorrt           # TensorRT's, of one and the same plan

A second series of the bare loop is the A/A control: what it is off by is what this machine can resolve. A round gives
one ratio; reported are the median over rounds and its 95 % interval. What is shown is shown by the whole interval: it
lies inside the bound, or outside, or nothing is settled. Exit code 3: the engine cannot run on that GPU.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwbench import plugins
from hwbench.errors import EngineError, HwbenchError
from hwbench.graph.importer import import_model
from hwbench.inventory import find_target
from hwbench.protocols import BuildRequest
from hwbench.records.device import Device
from hwbench.records.model import ImportJob, ImportResult

BOUND = 0.02
WITHIN, OUTSIDE, NOT_SETTLED = "within", "outside", "not settled"
BLOCK_S = 0.05  # length of a block of inferences


Loops = tuple[str, Callable[[], object], Callable[[], object]]
"""The precision, one inference of hwbench's, and one of the bare loop's."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model brought in for a GPU."""

    model: str
    device: Device
    imported: ImportResult
    inputs: dict[str, Any]
    folder: Path

    @classmethod
    def of(cls, device: str, model: str, folder: Path) -> Prepared:
        job = ImportJob(model=model, batch_size=None, shapes={}, input_data=None, seed=0)
        imported = import_model(job, folder / "model")
        with np.load(Path(imported.files.folder) / imported.files.inputs) as archive:
            inputs = {name: archive[name] for name in archive.files}
        return cls(model=model, device=find_target(device).device, imported=imported, inputs=inputs, folder=folder)

    def runner(self, name: str, precision: str) -> Any:
        """Return what runs the model in an engine; raises EngineError where that cannot run here."""
        engine = plugins.load("engines", name)
        support = engine.supports(self.imported.model, self.imported.files, self.device)
        if not support.usable:
            raise EngineError(str(support))
        engine.start()
        request = BuildRequest(
            model=self.imported.model, files=self.imported.files, device=self.device, precision=precision, threads=1,
            streams=1, profile_layers=False, workdir=self.folder,
        )  # fmt: skip
        return engine.load(request).compile()


def bare_graph(module: Any, inputs: dict[str, Any], index: int) -> Callable[[], None]:
    """Capture a module as anybody would, and return one inference.

    It is launched into whatever stream is the current one now: the loops take turns in one thread, and both must wait
    for the stream that they launch into.
    """
    import torch

    current = torch.cuda.current_stream(index)
    module = module.to(f"cuda:{index}")
    placed = {name: tensor.to(f"cuda:{index}") for name, tensor in inputs.items()}
    stream = torch.cuda.Stream(device=index)
    torch.cuda.synchronize(index)
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):
            module(**placed)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream), torch.inference_mode():
        module(**placed)

    def run() -> None:
        graph.replay()
        current.synchronize()

    run()
    return run


def bare(call: Callable[[], object], inferences: int) -> float:
    """A tight loop as anybody would write it: the median in seconds."""
    times = []
    for _ in range(inferences):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def reported(call: Callable[[], object], inferences: int) -> float:
    """The median that hwbench reports, in seconds."""
    from hwbench.measure.loop import sample
    from hwbench.measure.stop import Count
    from hwbench.stats import summarize
    from hwbench.units import MonotonicClock

    return summarize(sample(call, MonotonicClock(), Count(count=inferences), lambda fraction: None)).median_s


def interleaved(
    hwbench: Callable[[], object], plain: Callable[[], object], rounds: int, inferences: int, *, seed: int = 0
) -> dict[str, Any]:
    """Time blocks of both in random order, and return ratios with their intervals."""
    from hwbench.measure.loop import undisturbed
    from hwbench.stats import median_interval

    draw = random.Random(seed)
    ratios, control, own, other = [], [], [], []
    with undisturbed():
        for _ in range(rounds):
            blocks = [("hwbench", reported, hwbench), ("bare", bare, plain), ("again", bare, plain)]
            draw.shuffle(blocks)
            median = {name: loop(call, inferences) for name, loop, call in blocks}
            ratios.append(median["hwbench"] / median["bare"])
            control.append(median["again"] / median["bare"])
            own.append(median["hwbench"])
            other.append(median["bare"])
    ratio = statistics.median(ratios)
    low, high = median_interval(sorted(ratios), len(ratios))
    return {
        "ratio": ratio,
        "ratio_interval": [low, high],
        "control": statistics.median(control),
        "control_interval": list(median_interval(sorted(control), len(control))),
        "hwbench_s": statistics.median(own),
        "bare_s": statistics.median(other),
        "rounds": rounds,
        "inferences_a_block": inferences,
        "bound": BOUND,
        **judged((low, high), median_interval(sorted(control), len(control))),
    }


def judged(interval: tuple[float, float], control: tuple[float, float]) -> dict[str, Any]:
    """Say what the intervals of the ratio and of the A/A control show.

    ``resolves``: how far from 1 the control's interval reaches. Where that is more than the bound, this machine cannot
    show that a ratio lies within it; and what is outside must be so by more than that.
    """
    resolves = max(abs(control[0] - 1), abs(control[1] - 1))
    low, high = interval[0] - 1, interval[1] - 1
    verdict = NOT_SETTLED
    if low >= -BOUND and high <= BOUND and resolves <= BOUND:
        verdict = WITHIN
    elif low > BOUND + resolves or high < -BOUND - resolves:
        verdict = OUTSIDE
    return {"verdict": verdict, "resolves": resolves}


def torch_loops(prepared: Prepared) -> Iterator[Loops]:
    """Give torch's engine with CUDA graphs, and a graph of the same module that is captured here."""
    import torch

    from hwbench.graph.spec import parse_spec
    from hwbench.graph.torch_source import load_torch

    runner = prepared.runner("torch-cuda-graph", "fp32")
    bound = runner.bind(prepared.inputs)
    bound.run()
    loaded = load_torch(parse_spec(prepared.model), batch_size=1)
    tensors = {name: torch.from_numpy(array) for name, array in prepared.inputs.items()}
    yield "fp32", bound.run, bare_graph(loaded.module, tensors, runner.place.index)


def tensorrt_loops(prepared: Prepared) -> Iterator[Loops]:
    """Give TensorRT's engine, and a graph of the same plan in an execution context of its own."""
    from bare_tensorrt import bare_plan

    from hwbench.engines.tensorrt_buffers import fed, tensors_of

    runner = prepared.runner("tensorrt", "fp16")
    bound = runner.bind(prepared.inputs)
    bound.run()
    if runner.built().settings["cuda_graph"] != "on":
        raise EngineError("TensorRT's inferences cannot be captured here, so there are no graphs to compare")
    plain = bare_plan(runner._engine, fed(tensors_of(runner._engine), prepared.inputs))
    yield "fp16", bound.run, plain


SOURCES = {"torch-cuda-graph": torch_loops, "tensorrt": tensorrt_loops}


def main(device: str, model: str, rounds: int, target: Path, engine: str = "torch-cuda-graph") -> int:
    try:
        with tempfile.TemporaryDirectory() as folder:
            for precision, ours, plain in SOURCES[engine](Prepared.of(device, model, Path(folder))):
                inferences = max(20, min(2000, round(BLOCK_S / bare(plain, 50))))
                told = interleaved(ours, plain, rounds, inferences)
                target.write_text(json.dumps({"model": model, "engine": engine, "precision": precision, **told}))
    except HwbenchError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])
    sys.stderr.flush()
    os._exit(code)  # contexts, engines and CUDA's own would be taken down in no order
