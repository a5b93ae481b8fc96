"""Every compression method on a real network: size, multiply-adds, latency here, accuracy (docs/compress/results.md).

make bench PYTEST_ARGS="-k compression_table"

Prints a line of the table a method. Latency is the ratio of ``hwbench compare``: both networks in ONNX Runtime, batch
1, interleaved, beside the ratio of the original to itself.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import hwbench
from real_tasks import task

BUDGET = "12s"
REPAIRED = ("--set", "criterion=l1")


def row(what, *arguments, net="resnet20", recipe=None, data=True, repair=None):
    return pytest.param((what, arguments, net, recipe, data, repair), id=what.replace(" ", "_"))


def pruned(criterion, *more, amount="50%"):
    return row(f"prune {criterion}", "-m", "prune", "--amount", amount, "--set", f"criterion={criterion}", *more)


def narrower(criterion, **more):
    return row(f"width {criterion}", "-m", "width", "--amount", "30%", "--set", f"criterion={criterion}", **more)


ROWS = [
    *(pruned(criterion) for criterion in (
        "random", "l1", "l2", "gradient", "taylor", "fisher", "weight-activation", "wanda", "obs",
    )),
    row("prune threshold", "-m", "prune", "--set", "threshold=0.02"),
    row("prune l1 global", "-m", "prune", "--amount", "50%", "--set", "criterion=l1", "--set", "scope=global"),
    row("prune 2:4", "-m", "prune", "--set", "criterion=l1", "--set", "pattern=2:4"),
    row("prune 16x1", "-m", "prune", "--amount", "50%", "--set", "criterion=l1", "--set", "pattern=16x1"),
    row("prune 32x32", "-m", "prune", "--amount", "50%", "--set", "criterion=l1", "--set", "pattern=32x32"),
    row("sparsegpt", "-m", "sparsegpt", "--amount", "50%"),
    row("sparsegpt 2:4", "-m", "sparsegpt", "--set", "pattern=2:4"),
    *(narrower(criterion) for criterion in (
        "random", "l1", "l2", "taylor", "fisher", "activation", "apoz", "entropy", "wanda", "bn-gamma", "fpgm", "obs",
    )),
    row("width unrepaired", "-m", "width", "--amount", "30%", repair="none"),
]  # fmt: skip


def write(folder, inputs, labels=None):
    np.savez(folder, **inputs, **({} if labels is None else {"labels": labels}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder a network: its samples to learn from and to judge on."""
    made = {}

    def prepare(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            wanted = task(name, folder)
            write(folder / "train.npz", wanted.calibration)
            write(folder / "test.npz", wanted.test, wanted.labels)
            made[name] = folder, wanted
        return made[name]

    return prepare


@pytest.mark.parametrize("asked", ROWS)
def test_compression_table(benchmark, prepared, asked, tmp_path):
    what, arguments, net, recipe, data, repair = asked
    folder, wanted = prepared(net)
    if recipe is not None:
        (tmp_path / "recipe.toml").write_text(recipe)
        arguments = ("--recipe", str(tmp_path / "recipe.toml"))
    given = ("--data", "train.npz") if data else ()
    out = str(tmp_path / "out")
    command = ("compress", wanted.spec, *arguments, *given, *(("--repair", repair) if repair else ()))
    judging = ("--verify-data", "test.npz", "--task", wanted.kind, "-o", out, "--json", "-q")
    run = benchmark.pedantic(hwbench, args=(*command, *judging), kwargs={"cwd": folder}, rounds=1)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    beside = ("compare", wanted.spec, f"{out}/model.onnx", "-e", "onnxruntime", "--threads", "1", "--budget", BUDGET)
    compared = hwbench(*beside, "--json", "-q", cwd=folder)
    assert compared.returncode == 0, compared.stderr
    print(line(what, found, json.loads(compared.stdout)))


def line(what, found, compared):
    """A line of the table."""
    before, after = (found["compressed"][when] for when in ("before", "after"))
    verdict = next(each for each in compared["pairs"][0]["verdicts"] if each["metric"] == "latency")
    ratio, control = verdict["ratio"], verdict["control"]
    reference, rows = found["verification"]["rows"][0], found["verification"]["rows"][1:]
    scores = [each["scores"][0] for each in (reference, *rows)]
    cells = [
        what,
        f"{after['nonzero_parameters'] / before['parameters']:.2f}",
        f"{after['packed_bytes'] / before['packed_bytes']:.2f}",
        f"{after['macs'] / before['macs']:.2f}",
        f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
        f"{control['value']:.2f}",
        f"{scores[0]['value']:.4f}",
        f"{scores[1]['value']:.4f} [{scores[1]['low']:.4f}, {scores[1]['high']:.4f}]",
        str(scores[1]["n"]),
    ]
    return f"| {' | '.join(cells)} |"
