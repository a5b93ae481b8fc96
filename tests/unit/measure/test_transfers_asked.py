from __future__ import annotations

import pytest

from hwbench.errors import EngineError
from hwbench.measure.transfers import transfers
from hwbench.records.transfers import Transfers

TIMED = Transfers(h2d_s=(1.0,), d2h_s=(2.0,), bytes_in=3, bytes_out=4, pinned=True, method="m")


class Copying:
    def __init__(self, answer):
        self.answer = answer

    def transfers(self, inputs):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_runner_that_copies():
    assert transfers("stub", Copying(TIMED), {}) is TIMED


def test_a_runner_need_not_copy():
    assert transfers("stub", object(), {}).code == "no_transfers"


@pytest.mark.parametrize("error", [EngineError("it broke"), RuntimeError("it broke")])
def test_a_failure_is_a_reason_and_no_lost_measurement(error):
    why = transfers("stub", Copying(error), {})
    assert why.code == "engine_failed"
    assert "it broke" in why.why
