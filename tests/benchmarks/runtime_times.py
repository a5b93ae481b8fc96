"""Times of many networks under one runtime in one process, in turns: ``python runtime_times.py JOB.json OUT.json``.

A job names an engine and, by label, files of results of imports (``result.json``). One thread; every sample is the CPU
time of the process, which others on the machine do not lengthen by taking turns on its cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from hwbench import plugins
from hwbench.protocols import BuildRequest
from hwbench.records.model import ImportResult
from hwbench.testing import example_cpu


def main(job_path: str, out_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    engine = plugins.load("engines", job["engine"])
    version = engine.start()
    runs, failed = {}, {}
    for label, (path, precision) in job["models"].items():
        try:
            runs[label] = ready(engine, Path(path), precision)
        except Exception as error:  # noqa: BLE001, PERF203 - what one runtime refuses is left out
            failed[label] = f"{type(error).__name__}: {str(error)[:200]}"
    samples = {label: [] for label in runs}
    for turn in range(job["rounds"] + 1):
        for label, run in runs.items():
            until = time.perf_counter() + 0.03
            while True:
                started = time.process_time_ns()
                run()
                taken = time.process_time_ns() - started
                if turn:
                    samples[label].append(taken)
                if time.perf_counter() > until:
                    break
    medians = {label: float(np.median(taken)) / 1e9 for label, taken in samples.items()}
    Path(out_path).write_text(json.dumps({"version": version, "median_s": medians, "failed": failed}))


def ready(engine, path, precision):
    """Return a function that runs a network once."""
    imported = msgspec.json.decode(path.read_bytes(), type=ImportResult)
    request = BuildRequest(
        model=imported.model, files=imported.files, device=example_cpu(), precision=precision,
        threads=1, streams=1, profile_layers=False,
        workdir=Path(tempfile.mkdtemp()),
    )  # fmt: skip
    runner = engine.load(request).compile()
    inputs = dict(np.load(Path(imported.files.folder) / imported.files.inputs))
    bound = runner.bind(inputs)
    for _ in range(3):
        bound.run()
    return bound.run


if __name__ == "__main__":
    main(*sys.argv[1:])
