"""How often a real comparison is wrong, and how often it finds: A against A, and A against one layer more.

The truth is known: a chain of 32 equal layers against itself, and against 33 of them, which is 3.1 % more work.
Everything is left at the defaults of ``hwbench compare`` but the engine and one thread. About 20 minutes:

    make bench PYTEST_ARGS="-k compare_rates"
"""

from __future__ import annotations

import os
from collections import Counter

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.cli.main import main
from hwbench.records.comparison import Comparison

RUNS = 20  # of each kind
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


def compare(capfd, a, b, seed):
    """One comparison by the command, and what the machine did beside it."""
    assert (
        main(["compare", a, b, "--engine", "onnxruntime", "--threads", "1", "--seed", str(seed), "--json", "-q"]) == 0
    )
    return msgspec.json.decode(capfd.readouterr().out, type=Comparison), os.getloadavg()[0]


def told(name, found):
    """The line of one kind."""
    verdicts = [comparison.pairs[0].headline for comparison, _ in found]
    changes = [verdict.ratio.value - 1 for verdict in verdicts]
    half = np.median([verdict.ratio.high / verdict.ratio.low - 1 for verdict in verdicts]) / 2
    took = [comparison.source.elapsed_s for comparison, _ in found]
    return (
        f"\n{name}: {dict(Counter(verdict.word for verdict in verdicts))} of {len(found)}; changes {min(changes):+.2%} "
        f"to {max(changes):+.2%}, median {np.median(changes):+.2%}, half the interval {half:.2%}; "
        f"{np.median(took):.0f} s each, {max(took):.0f} s at most; load {np.median([load for _, load in found]):.1f}, "
        f"at most {max(load for _, load in found):.1f}"
    )


@pytest.mark.benchmark(group="compare")
def test_compare_rates(benchmark, capfd, tmp_path):
    a, more = make_net(tmp_path / "a.onnx", LAYERS), make_net(tmp_path / "more.onnx", LAYERS + 1)

    def rates():
        pairs = [(compare(capfd, a, a, seed), compare(capfd, a, more, seed)) for seed in range(RUNS)]
        return [same for same, _ in pairs], [slower for _, slower in pairs]

    same, slower = benchmark.pedantic(rates, rounds=1, iterations=1)
    with capfd.disabled():
        print(told("A against A", same))
        print(told(f"A against {1 / LAYERS:.1%} more", slower))
    words = [[comparison.pairs[0].headline.word for comparison, _ in found] for found in (same, slower)]
    assert sum(word in {"FASTER", "SLOWER"} for word in words[0]) <= 0.05 * RUNS
    assert words[1].count("SLOWER") >= 0.9 * RUNS
