"""What hwbench's loop adds to a bare one over the same session: the bound is 2 %.

Blocks of both loops alternate in random order inside one process, on one session with one set of inputs. A second bare
loop is the A/A control: its ratio shows what this machine can resolve.

    make bench PYTEST_ARGS="-k own_overhead"
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from hwbench import plugins
from hwbench.graph.importer import import_model
from hwbench.measure.loop import sample, undisturbed
from hwbench.measure.stop import Count
from hwbench.protocols import BuildRequest
from hwbench.records.model import ImportJob
from hwbench.stats import summarize
from hwbench.testing import example_cpu
from hwbench.units import MonotonicClock

BOUND = 0.02
MODELS = {"resnet8": (40, 400), "resnet50": (12, 15)}  # rounds, inferences a block


def reported(call, inferences):
    """The median that hwbench reports."""
    samples = sample(call, MonotonicClock(), Count(count=inferences), lambda fraction: None)
    return summarize(samples).median_s


def bare(call, inferences):
    """A tight loop as anybody would write it."""
    times = []
    for _ in range(inferences):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bare_call(engine, runner, bound, inputs):
    """The runtime's own call, without anything of ours around it."""
    if engine == "onnxruntime":
        session = runner.session
        return lambda: session.run(None, inputs)
    return bound.request.infer


@pytest.mark.benchmark(group="own overhead")
@pytest.mark.parametrize("engine_name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("model_name", MODELS)
def test_own_overhead(benchmark, capsys, tmp_path, model_name, engine_name):
    rounds, inferences = MODELS[model_name]
    job = ImportJob(model=model_name, batch_size=None, shapes={}, input_data=None, seed=0)
    imported = import_model(job, tmp_path)
    engine = plugins.load("engines", engine_name)
    engine.start()
    request = BuildRequest(
        model=imported.model, files=imported.files, device=example_cpu(), precision="fp32",
        threads=2, streams=1, profile_layers=False,
        workdir=tmp_path,
    )  # fmt: skip
    runner = engine.load(request).compile()
    with np.load(Path(imported.files.folder) / imported.files.inputs) as archive:
        inputs = {name: archive[name] for name in archive.files}
    bound = runner.bind(inputs)
    plain = bare_call(engine_name, runner, bound, inputs)
    bare(plain, inferences)
    draw = random.Random(0)

    def interleaved():
        ratios, control = [], []
        with undisturbed():
            for _ in range(rounds):
                blocks = [("hwbench", reported, bound.run), ("bare", bare, plain), ("again", bare, plain)]
                draw.shuffle(blocks)
                median = {name: loop(call, inferences) for name, loop, call in blocks}
                ratios.append(median["hwbench"] / median["bare"])
                control.append(median["again"] / median["bare"])
        return statistics.median(ratios), statistics.median(control), median["bare"]

    ratio, control, latency = benchmark.pedantic(interleaved, rounds=1, iterations=1)
    benchmark.extra_info.update(ratio=ratio, control=control)
    with capsys.disabled():
        print(
            f"\n{model_name} on {engine_name} ({latency * 1e6:.0f} µs): hwbench / bare = {ratio:.4f}, "
            f"bare / bare = {control:.4f} over {rounds} rounds"
        )
    assert abs(ratio - 1) < BOUND + abs(control - 1)
