"""What each sparse format costs in accuracy: pruned for it at 50, 70 and 90 %, judged with and without repair
(docs/sparse.md).

    make bench PYTEST_ARGS="-k sparse_accuracy"

Prints a line of the table for each network, method, format, repair and amount. No weights are trained: ``prune`` zeroes
by magnitude, ``sparsegpt`` moves what is left, and the repairs that follow by default adapt biases and statistics.
HWBENCH_SHARED_DATA names the folder of networks and data; HWBENCH_SPARSE_NETS ("resnet20,mini_lm") the networks.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import real_tasks
from compress_subjects import imported

from hwbench.compress.api import compress
from hwbench.errors import UsageError
from hwbench.records.compression import Step
from hwbench.sparse.formats import FORMATS

NETS = os.environ.get("HWBENCH_SPARSE_NETS", "resnet20,mini_lm").split(",")
BATCH = {"resnet20": 50, "mini_lm": 50, "stories": 2}
AMOUNTS = (0.5, 0.7, 0.9)
TESTED = 2000
SPARSE = [name for name, one in FORMATS.items() if one.values == "fp16"]  # int8 values cost what int8 costs besides


@pytest.fixture(scope="module", params=NETS)
def network(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    task = real_tasks.task(request.param, folder)
    model = imported(task.spec, folder, batch=BATCH[request.param])
    score, rows = judge(task, BATCH[request.param]), {}
    found = score(model)
    head = ("network", "method", "repair", "format", "zeros asked", "zeros in all", "packed", task.unit)
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    print(f"| {task.name} | – | – | dense | – | – | – | {found:.2f} |")
    return task, model, score, rows


def judge(task, batch):
    """Return what scores a graph: ONNX Runtime over whole batches of the test samples."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
    import onnx_ir as ir

    count = (
        min(len(next(iter(task.test.values()))), TESTED if task.kind == "classification" else 10**9) // batch * batch
    )
    exact = task if count == len(next(iter(task.test.values()))) else None

    def score(model):
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        session = runtime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
        outputs = [
            session.run(None, {name: array[at : at + batch] for name, array in task.test.items()})[0]
            for at in range(0, count, batch)
        ]
        rows = list(np.concatenate(outputs))
        if exact is None:
            right = [row.argmax() == label for row, label in zip(rows, task.labels[:count], strict=True)]
            return 100 * float(np.mean(right))
        return task.score(outputs if task.kind == "embedding" else rows)

    return score


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("repair", ["default", "none"])
@pytest.mark.parametrize("method", ["prune", "sparsegpt"])
def test_sparse_accuracy(benchmark, network, method, repair, name, amount):
    task, model, score, _ = network
    step = Step(method=method, settings={"pattern": f"format:{name}", "amount": amount})
    try:
        found = benchmark.pedantic(compress, (model, [step]), {"inputs": task.calibration, "repair": repair}, rounds=1)
    except UsageError as error:
        pytest.skip(error.message)
    reached = score(found.model)
    told = f"{found.after.packed_bytes / 1e6:.3f} MB"
    benchmark.extra_info.update(score=reached, zeros=found.after.zeros, packed_bytes=found.after.packed_bytes)
    left = {one.layer: one.reason for one in found.applied[0].left_alone}
    cells = (task.name, method, repair, name, f"{amount:.0%}", f"{found.after.zeros:.1%}", told, f"{reached:.2f}")
    print(f"| {' | '.join(cells)} | {f'{len(left)} layers left dense' if left else ''}")
    assert found.after.zeros > 0
