"""How long a user waits for the prompt: ``--help`` and ``devices`` must be back in 0.4 s."""

import subprocess
import sys

import pytest

LONGEST_S = 0.4


@pytest.mark.parametrize("argument", ["--help", "devices"])
def test_startup(benchmark, argument):
    command = [sys.executable, "-m", "hwbench", argument]
    benchmark.pedantic(subprocess.run, (command,), {"check": True, "capture_output": True}, warmup_rounds=2, rounds=10)
    assert benchmark.stats["min"] < LONGEST_S, "the fastest of them: what else the machine does is not our doing"
