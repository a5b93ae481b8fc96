"""How often a real comparison is wrong, and how often it finds: A against A, and A against one layer more.

The truth is known: a chain of 32 equal layers against itself, and against 33 of them, which is 3.1 % more work. The
minimum effect is 1 %, to leave the slow-down room.

    make bench PYTEST_ARGS="-k compare_rates"
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.compare.saved import Choice
from hwbench.comparison_pipeline import Waived, Wanted, compare_models
from hwbench.records.comparison import Settings

SAME, SLOWER = 20, 10  # comparisons
BUDGET_S = 8.0
LAYERS, ROWS, WIDTH = 32, 64, 128


def make_net(path, layers):
    chance = np.random.default_rng(0)
    weight = numpy_helper.from_array((chance.normal(size=(WIDTH, WIDTH)) / 12).astype(np.float32), "w")
    nodes = [helper.make_node("MatMul", [f"t{i}", "w"], [f"t{i + 1}"], name=f"m{i}") for i in range(layers)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [ROWS, WIDTH])],
        [helper.make_tensor_value_info(f"t{layers}", TensorProto.FLOAT, [ROWS, WIDTH])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def speed(a, b, seed):
    """The verdict on latency of one comparison."""
    wanted = Wanted(
        model_a=a,
        model_b=b,
        device="cpu",
        choice=Choice(engine_a="onnxruntime"),
        batch_size=None,
        threads=1,
        budget_s=BUDGET_S,
        restarts=3,
        block_s=0.05,
        meter="none",
        timeout_s=120.0,
    )
    settings = Settings(min_effect=0.01, min_latency_s=1e-6, min_memory_bytes=2**20, between_runs=0.005, seed=seed)
    return compare_models(wanted, settings, waived=Waived(), watch=lambda label, fraction: None).pairs[0].headline


@pytest.mark.benchmark(group="compare")
def test_compare_rates(benchmark, capsys, tmp_path):
    a, more = make_net(tmp_path / "a.onnx", LAYERS), make_net(tmp_path / "more.onnx", LAYERS + 1)

    def rates():
        same = [speed(a, a, seed) for seed in range(SAME)]
        return same, [speed(a, more, seed) for seed in range(SLOWER)]

    same, slower = benchmark.pedantic(rates, rounds=1, iterations=1)
    with capsys.disabled():
        for name, found in (("A against A", same), (f"A against {1 / LAYERS:.1%} more", slower)):
            spread = [verdict.ratio.value - 1 for verdict in found]
            width = np.median([verdict.ratio.high / verdict.ratio.low - 1 for verdict in found]) / 2
            counts = dict(Counter(verdict.word for verdict in found))
            print(
                f"\n{name}: {counts} of {len(found)}; ratios {min(spread):+.2%} to {max(spread):+.2%}, "
                f"median {np.median(spread):+.2%}, half the interval {width:.2%}"
            )
    assert sum(verdict.word in {"FASTER", "SLOWER"} for verdict in same) <= 3  # 5 % each: more is a chance of 1.6 %
    assert not any(verdict.word == "FASTER" for verdict in slower)
