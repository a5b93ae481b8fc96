"""Accuracy of ResNet-56 as blocks go, by criterion, without repair: the table of docs/compress/depth.md.

make bench PYTEST_ARGS="-k depth_of_real"
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import real_tasks
from compress_subjects import imported, run_ort, subject_of

from hwbench.compress.methods.depth import Depth, DepthSettings
from hwbench.data.samples import Samples

BATCH, TEST = 50, 2000


@pytest.mark.parametrize("highest", [False, True], ids=["lowest", "highest"])
@pytest.mark.parametrize("criterion", ["influence", "output", "random"])
def test_depth_of_real_models(benchmark, capsys, tmp_path, criterion, highest):
    task = real_tasks.resnet56()
    model = imported(task.spec, tmp_path, batch=BATCH)
    samples = Samples(inputs=task.calibration, labels=None, batch=BATCH)
    (name, images), labels = next(iter(task.test.items())), task.labels[:TEST]

    def score(count: int) -> float:
        settings = DepthSettings(count=count, criterion=criterion, distance="kl", highest=highest)
        subject = subject_of(ir.from_proto(ir.to_proto(model)), tmp_path, samples=samples)
        legal = [block for block, reason in Depth().legal(subject, settings).items() if reason is None]
        Depth().apply(subject, legal, settings)
        outputs = [run_ort(subject.model, {name: images[i : i + BATCH]})[0] for i in range(0, TEST, BATCH)]
        return 100 * float((np.concatenate(outputs).argmax(1) == labels).mean())

    scores = benchmark.pedantic(lambda: [score(count) for count in (1, 3, 5)], rounds=1, iterations=1)
    with capsys.disabled():
        print(f"\n{criterion}: {scores} % with 1, 3, 5 blocks gone, n = {TEST}")
    assert scores == sorted(scores, reverse=True)
