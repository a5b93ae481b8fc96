from __future__ import annotations

import pytest

from hwbench.errors import EngineError
from hwbench.measure.runtime_memory import runtime_memory
from hwbench.records.base import Missing
from hwbench.records.memory import RuntimeMemory

NO = Missing(code="no", why="there is none")
TOLD = RuntimeMemory(weights_bytes=1, activations_bytes=2, workspace_bytes=NO, arena_bytes=NO, method="a")


class Runner:
    """As much of a runner as is asked."""

    timed_region = "nothing"


class Telling(Runner):
    def __init__(self, answer):
        self.answer = answer

    def memory(self, inputs):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_runner_that_tells():
    assert runtime_memory("stub", Telling(TOLD), {}) is TOLD
    assert runtime_memory("stub", Telling(NO), {}) is NO


def test_a_runner_need_not_tell():
    assert runtime_memory("stub", Runner(), {}).code == "not_told"


@pytest.mark.parametrize("error", [EngineError("it broke", hint="mend it"), RuntimeError("it broke")])
def test_a_failure_is_a_reason_and_no_lost_measurement(error):
    why = runtime_memory("stub", Telling(error), {})
    assert why.code == "engine_failed"
    assert "it broke" in why.why


def test_a_size_is_not_negative():
    with pytest.raises(ValueError, match="weights_bytes"):
        RuntimeMemory(weights_bytes=-1, activations_bytes=NO, workspace_bytes=NO, arena_bytes=NO, method="a")
