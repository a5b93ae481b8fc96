"""A real child, asked over its pipes."""

import os
import signal
import textwrap
import time

import psutil
import pytest

from hwbench.dialogue import Dialogue
from hwbench.errors import EngineError, ModelError
from hwbench.records.comparison import BlockQuestion, Ready

CHILD = """
import os, signal, sys, time
from hwbench.children import serve
from hwbench.dialogue import answer, questions
from hwbench.errors import ModelError
from hwbench.records.comparison import BlockQuestion, Ready

def work(job, folder, emit):
    print("noise")
    answer(emit, Ready(latency_s=0.0))
    total = 0
    for question in questions(BlockQuestion):
        if question.count == 13:
            raise ModelError("thirteen", hint="ask for another")
        if question.count == 14:
            os.kill(os.getpid(), signal.SIGSEGV)
        if question.count == 15:
            time.sleep(60)
        if question.count == 16:
            1 / 0
        total += question.count
        answer(emit, Ready(latency_s=float(total)))
    return BlockQuestion(count=total)

print("before it serves", flush=True)
serve(work, BlockQuestion)
"""


@pytest.fixture
def start(tmp_path):
    (tmp_path / "talkative_child.py").write_text(textwrap.dedent(CHILD))

    def begin(timeout_s=30.0):
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        return Dialogue(
            "talkative_child", BlockQuestion(count=0), folder=tmp_path / "child", what="the child",
            failure=EngineError, timeout_s=timeout_s, env={"PYTHONPATH": path},
        )  # fmt: skip

    return begin


def test_questions_and_answers_and_a_last_word(start):
    with start() as child:
        assert child.hear(Ready).latency_s == 0
        assert child.ask(BlockQuestion(count=2), Ready).latency_s == 2
        assert child.ask(BlockQuestion(count=3), Ready).latency_s == 5
        assert child.finish(BlockQuestion).count == 5


def test_an_error_is_raised_again_here(start):
    with start() as child:
        child.hear(Ready)
        with pytest.raises(ModelError, match="thirteen") as raised:
            child.ask(BlockQuestion(count=13), Ready)
    assert raised.value.hint == "ask for another"


def test_a_crash_is_told_with_its_signal_and_log(start):
    with start() as child:
        child.hear(Ready)
        with pytest.raises(EngineError, match="SIGSEGV") as raised:
            child.ask(BlockQuestion(count=14), Ready)
    assert "noise" in raised.value.hint


def test_a_bug_in_the_child_is_told(start):
    with start() as child:
        child.hear(Ready)
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            child.ask(BlockQuestion(count=16), Ready)


def test_silence_ends_it(start):
    with start(timeout_s=20.0) as child:
        child.hear(Ready)
        child._timeout_s = 0.3
        with pytest.raises(EngineError, match=r"no sign of life for 0\.3 s"):
            child.ask(BlockQuestion(count=15), Ready)


def test_leaving_kills_the_child(start):
    def interrupted():
        with start() as child:
            child.hear(Ready)
            pids.append(child._process.pid)
            raise KeyboardInterrupt

    pids = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pids[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not psutil.pid_exists(pids[0])


def test_a_child_killed_while_nobody_asked_is_told_at_the_next_question(start):
    with start() as child:
        child.hear(Ready)
        os.kill(child._process.pid, signal.SIGKILL)
        child._process.wait()
        with pytest.raises(EngineError, match="SIGKILL"):
            child.ask(BlockQuestion(count=1), Ready)
