"""What it costs to run the plan that was made for another device.

    HWBENCH_SHARED_DATA=... make bench PYTEST_ARGS="-k swapped_plans"

Two machines are not to be had in one run; two runtimes on one CPU are as different to a planner: each has its own
units, staircases and borders. Both are planned for from costs measured here, within 1 pp; then each runs its own plan
and the other's, in turn with the unchanged network, its own twice (A/A). HWBENCH_PLAN_S: seconds for the costs (120).
Predicted: on its own plan a runtime is 5 to 15 % faster than on the other's.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from real_tasks import task

from hwbench.intake import Intake
from hwbench.inventory import find_target
from hwbench.planning_pipeline.planner import Planner
from hwbench.records.plan import PlanRequest
from hwbench.records.quantization import CalibrationSettings
from hwbench.records.sampling import SampleJob
from hwbench.tables.collect import collect

ENGINES = ("onnxruntime", "openvino")
SECONDS = float(os.environ.get("HWBENCH_PLAN_S", "120"))
BATCH = int(os.environ.get("HWBENCH_BATCH", "1"))
TIMES = 3  # that all of them are timed


@pytest.mark.parametrize("name", os.environ.get("HWBENCH_TASKS", "resnet20").split(","))
@pytest.mark.filterwarnings("ignore")
def test_swapped_plans(benchmark, name, tmp_path):
    wanted = task(name, tmp_path)
    np.savez(tmp_path / "learn.npz", **wanted.calibration)
    np.savez(tmp_path / "judge.npz", **{key: x[:1000] for key, x in wanted.test.items()}, labels=wanted.labels[:1000])
    target = find_target("cpu")
    intake = Intake(folder=tmp_path, watch=lambda what, _: None, threads=1, timeout_s=600.0, seed=0)
    request = PlanRequest(
        model=wanted.spec, device="cpu", engines=ENGINES, kinds=("precision", "width", "depth", "rank"),
        floating=("auto",), objective="latency", max_drop=0.01, data="learn.npz", preprocess=None, samples=1000,
        criterion="l2", calibration=CalibrationSettings(), batch_size=BATCH, shapes={}, threads=1, costs_s=SECONDS,
        losses_s=SECONDS, budgets=12, seed=0, timeout_s=600.0,
    )  # fmt: skip
    imported = intake.model(request.model, batch_size=BATCH)
    learn, judge = (intake.data(str(tmp_path / f"{part}.npz"), imported.model, part) for part in ("learn", "judge"))
    with Planner(request, target, intake, tmp_path / "planning", learn, judge) as planner:
        planner.prepare()
        fronts = benchmark.pedantic(planner.fronts, rounds=1)
        assert set(fronts) == set(ENGINES), planner.not_planned
        designs = {engine: found.within(request.max_drop) for engine, found in fronts.items()}
        for engine, other in (ENGINES, ENGINES[::-1]):
            assert designs[engine] is not None, f"nothing is allowed on {engine}"
            assert fronts[other].has(designs[engine]), f"{other} lacks what {engine} has"
        predicted = {
            (engine, other): fronts[engine].predict(designs[other]).value for engine in ENGINES for other in ENGINES
        }
        calibration = planner.costing.calibrate([known.runtime for known in planner.known])
        for engine, other in (ENGINES, ENGINES[::-1]):
            rows = (designs[engine], designs[other], designs[engine]) * TIMES
            job = SampleJob(
                imported=planner.imported, space=planner.space, calibration=calibration, designs=rows, engine=engine,
                device=target.device, threads=1, cpus=(),
            )  # fmt: skip
            done = collect(job, intake, f"swapped-{engine}")
            assert not done.not_sampled
            pace = np.array([each.median_s / each.reference_s for each in done.samples]).reshape(TIMES, 3)
            ratio, control = np.median(pace[:, 1] / pace[:, 0]), np.median(pace[:, 2] / pace[:, 0])
            promised = predicted[engine, other] / predicted[engine, engine]
            print(
                f"\n{name}, batch {BATCH}, {engine}: the plan of {other} takes {ratio:.3f} of its own (predicted "
                f"{promised:.3f}; A/A {control:.3f}); its own {np.median(pace[:, 0]):.3f} of the unchanged network"
            )
            benchmark.extra_info[engine] = {"ratio": ratio, "a_a": control, "predicted": promised}
