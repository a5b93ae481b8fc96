"""``hwbench plan`` on the trained digits network, from costs measured here to a front with reasons."""

import os
import shlex

import numpy as np
import pytest
from command import hwbench

from hwbench.files import read_record
from hwbench.records.base import Missing
from hwbench.records.plan import PLAN_RESULT_SCHEMA, PlanResult

pytest.importorskip("torch", reason="losses are found with torch")
pytest.importorskip("scipy", reason="the solver is scipy's")


@pytest.mark.slow
def test_a_plan_from_costs_measured_here(tmp_path):
    from hwbench.models.digits import load_digits_split

    images, labels = load_digits_split()["validation"]
    np.savez(tmp_path / "digits.npz", image=images[:160], labels=labels[:160])
    asked = (
        *("plan", "digits_cnn", "--data", "digits.npz", "--max-drop", "3pp", "-e", "onnxruntime", "--threads", "1"),
        *("--cost-budget", "12s", "--loss-budget", "8s", "--budgets", "5", "-o", "out"),
    )
    env = {"HWBENCH_HOME": str(tmp_path / "home"), "OMP_WAIT_POLICY": "passive"}
    run = hwbench(*asked, cwd=tmp_path, env={**os.environ, **env})
    assert run.returncode in {0, 1}, run.stderr
    found = read_record(tmp_path / "out" / "plan.json", PlanResult, schema=PLAN_RESULT_SCHEMA)
    (engine,) = found.engines
    assert engine.samples == engine.sampled_now >= 10
    assert {"auto", "int8"} == set(engine.baselines)
    times = [planned.latency.value for planned in engine.front]
    assert times == sorted(times, reverse=True)
    assert all(planned.latency.low < planned.latency.value < planned.latency.high for planned in engine.front)
    assert engine.front[0].solved.design.schemes == {}
    assert (run.returncode == 1) == isinstance(engine.chosen, Missing)
    if not isinstance(engine.chosen, Missing):
        chosen = engine.front[engine.chosen]
        assert chosen.joint.drop <= 0.03
        assert {decision.site for decision in chosen.solved.decisions} == {site.name for site in found.space.sites}
        assert "why, by site" in run.stdout
        for line in engine.commands:  # as printed; where a path is long, the terminal folds it
            made = hwbench(*shlex.split(line)[1:], cwd=tmp_path, env={**os.environ, **env})
            assert made.returncode == 0, made.stderr
        assert list((tmp_path / "out" / "designs").glob("*/built/*/manifest.json"))
