"""Searches of a fake objective: against brute force, against a Pareto set found otherwise, and after a kill."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import msgspec
import pytest

pytest.importorskip("optuna")
pytest.importorskip("sqlalchemy")

from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.search import CurvePoint, Quantity, Trial
from hwbench.search.goals import objectives
from hwbench.search.ledger import Ledger
from hwbench.search.loop import search
from hwbench.search.outcome import best, importances, pareto
from hwbench.search.pruning import CurveJudge, Pruned
from hwbench.search.space import space_of

TABLES = {
    "runtime": {"engine": ["onnxruntime", "openvino"], "threads": {"low": 1, "high": 4}},
    "calibration": {
        "estimator": {"values": ["mse", "percentile"], "when": {"runtime.engine": "openvino"}},
        "percentile": {"low": 99.0, "high": 99.6, "step": 0.2, "when": {"estimator": "percentile"}},
    },
}
SPACE = space_of(TABLES, threads=1)
WANTED = objectives(["latency", "accuracy"])


def measured(params):
    threads, other = params["runtime.threads"], params["runtime.engine"] == "openvino"
    latency = 1 / threads + 0.1 * threads + (0.15 if other else 0.2)
    accuracy = 0.9 - 0.01 * threads + (params.get("calibration.percentile", 99.2) - 99.2) / 50
    return latency, accuracy


def attempt(asked):
    if asked.params == {"runtime.engine": "onnxruntime", "runtime.threads": 1}:
        return trial(asked, state="failed", reason=Missing(code="EngineError", why="it refuses one thread"))
    latency, accuracy = measured(asked.params)
    found = (Quantity(metric="latency", value=latency), Quantity(metric="accuracy", value=accuracy))
    return trial(asked, quantities=found, violations={"accuracy": 0.87 - accuracy})


def trial(asked, **more):
    more = {"state": "complete", **more}
    return Trial(
        number=asked.number, params=asked.params, folder=asked.folder, started_at=asked.started_at, took_s=0.0, **more
    )


@pytest.fixture
def opened(tmp_path):
    ledgers = []

    def make(sampler, limit=None, seed=3, folder=tmp_path):
        ledgers.append(Ledger(folder, SPACE, WANTED, sampler=sampler, constrained=True, limit=limit, seed=seed))
        return ledgers[-1]

    yield make
    for ledger in ledgers:
        ledger.close()


def brute_force():
    """Every point with its values, from nested loops."""
    found = []
    for threads in (1, 2, 3, 4):
        found.append({"runtime.engine": "onnxruntime", "runtime.threads": threads})
        base = {"runtime.engine": "openvino", "runtime.threads": threads}
        found.append({**base, "calibration.estimator": "mse"})
        found += [
            {**base, "calibration.estimator": "percentile", "calibration.percentile": pytest.approx(value)}
            for value in (99.0, 99.2, 99.4, 99.6)
        ]
    return found


def test_grid_is_brute_force_and_the_pareto_set_is_that_of_all_pairs(opened):
    ledger = opened("grid")
    assert search(ledger, attempt, trials=None) == "every point of the space was tried: 24"
    params = [one.params for one in ledger.trials]
    assert sorted(map(str, params)) != list(map(str, params)), "the order is not that of the space"
    expected = brute_force()
    assert len(params) == len(expected) == 24
    assert all(one in params for one in expected)
    failed = [one for one in ledger.trials if one.state == "failed"]
    assert [one.reason.why for one in failed] == ["it refuses one thread"]
    feasible = {
        one.number: measured(one.params)
        for one in ledger.trials
        if one.state == "complete" and measured(one.params)[1] >= 0.87
    }
    beaten = {
        a
        for (a, (slow, low)), (b, (fast, high)) in itertools.permutations(feasible.items(), 2)
        if fast <= slow and high >= low and (fast, high) != (slow, low)
    }
    assert set(pareto(ledger.trials, WANTED)) == set(feasible) - beaten
    assert best(ledger.trials, WANTED) == min(feasible, key=lambda number: feasible[number][0])
    library = {one.number for one in ledger.study.best_trials}
    assert library == set(feasible) - beaten, "Optuna was told values and constraints"


def test_where_nothing_is_feasible_the_least_violation_is_best(opened):
    ledger = opened("grid")

    def strict(asked):
        latency, accuracy = measured(asked.params)
        found = (Quantity(metric="latency", value=latency), Quantity(metric="accuracy", value=accuracy))
        return trial(asked, quantities=found, violations={"latency": latency - 0.1, "accuracy": 1 - accuracy})

    search(ledger, strict, trials=None)
    assert pareto(ledger.trials, WANTED) == ()
    least = min(sum(one.violations.values()) for one in ledger.trials)
    assert sum(ledger.trials[best(ledger.trials, WANTED)].violations.values()) == least


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_search_that_was_cut_in_two_asks_for_the_same_points(opened, tmp_path, sampler):
    count = 14 if sampler == "tpe" else 8  # TPE draws at random before it has ten
    one = opened(sampler, limit=count, folder=tmp_path / "whole")
    search(one, attempt, trials=count)
    first = opened(sampler, limit=count, folder=tmp_path / "parts")
    search(first, attempt, trials=5)
    first.close()
    second = opened(sampler, limit=count, folder=tmp_path / "parts")
    assert search(second, attempt, trials=count) == f"{count} trials were asked for"
    assert [each.params for each in second.trials] == [each.params for each in one.trials]
    assert [each.quantities for each in second.trials] == [each.quantities for each in one.trials]
    twins = [each for each in one.trials if each.same_as is not None]
    assert all(each.params == one.trials[each.same_as].params for each in twins)


def test_gp_proposes_points_of_the_space_and_parameters_have_importances(opened):
    pytest.importorskip("torch")
    pytest.importorskip("scipy")
    ledger = opened("gp", limit=13)
    search(ledger, attempt, trials=13)
    expected = brute_force()
    assert all(one.params in expected for one in ledger.trials)
    decided = {one.metric: one.shares for one in importances(ledger.study, WANTED)}
    assert max(decided["latency"], key=decided["latency"].get) == "runtime.threads"
    assert sum(decided["latency"].values()) == pytest.approx(1)


def test_grid_refuses_a_space_without_end(tmp_path):
    endless = space_of({"training": {"learning_rate": {"low": 0.1, "high": 1.0}}}, threads=1)
    with pytest.raises(UsageError, match="no end"):
        Ledger(tmp_path, endless, WANTED, sampler="grid", constrained=False, limit=None, seed=0)


SCRIPT = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    sys.path[:0] = {path!r}
    import test_samplers as here

    def slow(asked):
        print(asked.number, flush=True)
        time.sleep(0.1 if asked.number < 5 else 60)
        return here.attempt(asked)

    ledger = here.Ledger(Path({folder!r}), here.SPACE, here.WANTED, sampler="tpe", constrained=True, limit=12, seed=3)
    here.search(ledger, slow, trials=12)
    """
)


def test_a_killed_run_goes_on_with_nothing_lost(opened, tmp_path):
    folder = tmp_path / "killed"
    script = SCRIPT.format(path=[os.path.dirname(__file__)], folder=str(folder))  # noqa: PTH120
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.strip() == "5":
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    kept = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("trials/*/trial.json")}
    assert sorted(kept) == ["0000", "0001", "0002", "0003", "0004"]

    ledger = opened("tpe", limit=12, folder=folder)
    stale = ledger.trials[5]
    assert (stale.state, stale.reason.code) == ("failed", "interrupted")
    assert ledger.study.trials[5].state.name == "FAIL"
    search(ledger, attempt, trials=12)
    assert ledger.trials[6].params == stale.params, "its point is tried again first"
    untouched = opened("tpe", limit=12, folder=tmp_path / "untouched")
    search(untouched, attempt, trials=12)
    whole = [one.params for one in ledger.trials if one is not stale]
    assert whole == [one.params for one in untouched.trials]


def test_a_record_that_optuna_was_not_told_of_counts(opened, tmp_path):
    ledger = opened("random", limit=2)
    asked = ledger.ask()
    record = attempt(asked)
    (tmp_path / asked.folder).mkdir(parents=True)
    (tmp_path / asked.folder / "trial.json").write_bytes(msgspec.json.encode(record))
    ledger.close()
    again = opened("random", limit=2)
    assert again.trials == [record]
    assert again.study.trials[0].state.is_finished()
    assert again.study.trials[0].values == [each.value for each in record.quantities]


def test_the_median_pruner_gives_up_what_is_worse_than_half(opened):
    def run(number, values, state="complete"):
        curve = tuple(CurvePoint(epoch=epoch, value=value) for epoch, value in enumerate(values, 1))
        return Trial(
            number=number, state=state, params={}, curve=curve, folder="", started_at=time.strftime("%F"), took_s=0.0
        )

    earlier = [run(index, [0.1 * index, 0.1 * index + 0.2]) for index in range(1, 7)]
    judge = CurveJudge("median", earlier)
    judge.hear(1, 0.36)
    with pytest.raises(Pruned, match="after epoch 2"):
        judge.hear(2, 0.37)
    assert [(point.epoch, point.value) for point in judge.curve] == [(1, 0.36), (2, 0.37)]
    CurveJudge("none", earlier).hear(1, 0.0)
    halving = CurveJudge("halving", earlier)
    with pytest.raises(Pruned):
        halving.hear(1, 0.05)
