import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from hwbench.children import Throttle, death, run_child
from hwbench.errors import EngineError, HwbenchError, StorageError, UsageError
from hwbench.records.base import Record


class Order(Record, frozen=True, kw_only=True):
    text: str = "x"


class Answer(Record, frozen=True, kw_only=True):
    text: str


CHILD = """
{before}
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
from hwbench import errors
from hwbench.children import serve
from hwbench.records.base import Record

class Order(Record, frozen=True, kw_only=True):
    text: str = "x"

class Answer(Record, frozen=True, kw_only=True):
    text: str

class TheirError(errors.EngineError):
    pass

def work(order, folder, emit):
{body}
    return Answer(text=order.text * 2)

if __name__ == "__main__":
    serve(work, Order)
    {after}
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Return a function that runs a child with the given body."""
    counter = iter(range(100))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def run(body="pass", *, before="", after="", order=None, timeout_s=30.0, folder=None, **keywords):
        module = f"child_{next(counter)}"
        text = CHILD.format(before=before, body=textwrap.indent(textwrap.dedent(body), "    "), after=after)
        (tmp_path / f"{module}.py").write_text(text)
        keywords = {"what": "the work", "failure": EngineError, **keywords}
        return run_child(
            module, order or Order(), Answer, folder=folder or tmp_path / "job", timeout_s=timeout_s, **keywords
        )

    return run


def gone(pid):
    """Say whether a process has ended; a zombie has."""
    for _ in range(100):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)
                continue
        return True
    return False


class TestAnswer:
    def test_a_job_in_and_a_result_out(self, child):
        assert child(order=Order(text="ab")) == Answer(text="abab")

    def test_events_in_order(self, child):
        events = []
        child('for i in range(3): emit({"event": "progress", "fraction": i / 2})', on_event=events.append)
        assert events == [{"event": "progress", "fraction": fraction} for fraction in (0, 0.5, 1)]

    def test_the_environment_is_passed_on(self, child):
        with pytest.raises(UsageError, match="five"):
            child('raise errors.UsageError(os.environ["HOW_MANY"])', env={"HOW_MANY": "five"})

    def test_noise_is_harmless_and_in_the_log(self, child, tmp_path):
        body = """
            print("python says hello")
            os.write(1, b"native says hello\\n")
            subprocess.run([sys.executable, "-c", "print('grandchild says hello')"])
            print('{"event": "error", "type": "UsageError", "message": "not so", "hint": null}')
        """
        answer = child(body, before="print('early hello'); print('{not json'); print('[1]'); print('{\"a\": 1}')")
        assert answer == Answer(text="xx")
        log = (tmp_path / "job" / "log.txt").read_text()
        for words in ("python says hello", "native says hello", "grandchild says hello", "early hello", "{not json"):
            assert words in log

    def test_a_long_answer_does_not_block(self, child):
        assert len(child(order=Order(text="y" * 3_000_000)).text) == 6_000_000

    def test_a_crash_after_the_last_word_does_not_matter(self, child):
        assert child(after="os.kill(os.getpid(), signal.SIGSEGV)") == Answer(text="xx")

    def test_a_hang_after_the_last_word_is_ended(self, child, monkeypatch):
        monkeypatch.setattr("hwbench.children._EXIT_S", 0.3)
        start = time.monotonic()
        assert child(after="time.sleep(60)") == Answer(text="xx")
        assert time.monotonic() - start < 20

    def test_what_it_started_is_ended_with_it(self, child, tmp_path):
        child("""
            sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            (folder / "pid").write_text(str(sleeper.pid))
        """)
        assert gone(int((tmp_path / "job" / "pid").read_text()))


class TestErrors:
    def test_ours_comes_back_by_class_with_its_hint(self, child):
        with pytest.raises(UsageError) as raised:
            child('raise errors.UsageError("two dogs", hint="one dog")')
        assert (raised.value.message, raised.value.hint) == ("two dogs", "one dog")

    def test_a_plugins_own_class_comes_back_as_the_nearest_of_ours(self, child):
        with pytest.raises(EngineError) as raised:
            child('raise TheirError("its own way")')
        assert type(raised.value) is EngineError
        assert raised.value.message == "its own way"

    def test_the_base_stays_the_base(self, child):
        with pytest.raises(HwbenchError) as raised:
            child('raise errors.HwbenchError("general")')
        assert type(raised.value) is HwbenchError

    def test_a_bug_is_a_failure_with_its_traceback_in_the_hint(self, child):
        with pytest.raises(EngineError, match=r"the work: ZeroDivisionError: division by zero") as raised:
            child("1 / 0")
        assert "in work" in raised.value.hint
        assert "log.txt" in raised.value.hint

    def test_the_tail_of_a_long_log(self, child):
        with pytest.raises(EngineError) as raised:
            child("for i in range(20_000): print('line', i)\n1 / 0")
        assert "line 19999" in raised.value.hint
        assert "line 19980" not in raised.value.hint

    def test_an_exit_is_a_failure(self, child):
        with pytest.raises(EngineError, match="SystemExit: 0"):
            child("sys.exit(0)")

    def test_a_module_that_does_not_import(self, child):
        with pytest.raises(EngineError, match="the process ended with status 1 and without a result") as raised:
            child(before="import no_such_module_anywhere")
        assert "no_such_module_anywhere" in raised.value.hint


class TestDeath:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("ctypes.string_at(0)", "the process crashed with SIGSEGV"),
            ("os.abort()", "the process crashed with SIGABRT"),
            (
                "os.kill(os.getpid(), signal.SIGKILL)",
                r"was killed \(SIGKILL\), most likely for want of memory \(.* free now",
            ),
            ("os._exit(3)", "the process ended with status 3"),
            ("os._exit(0)", "the process ended with status 0"),
        ],
        ids=["segv", "abort", "kill", "exit 3", "exit 0"],
    )
    def test_without_a_word(self, child, body, words):
        with pytest.raises(EngineError, match=words) as raised:
            child(f"print('about to fall', flush=True)\n{body}")
        assert "about to fall" in raised.value.hint

    def test_a_crash_names_the_phase_the_last_words_and_the_call(self, child):
        body = """
            emit({"event": "phase", "phase": "compile"})
            for number in range(30): print("the runtime says", number, flush=True)
            ctypes.string_at(0)
        """
        with pytest.raises(EngineError, match=r"of a runtime or a driver .* \(in phase 'compile'\)") as raised:
            child(body)
        hint = raised.value.hint
        assert "the runtime says 29" in hint
        assert "the runtime says 20" not in hint
        assert "in string_at" in hint
        assert len(hint.splitlines()) < 20

    def test_a_crash_before_any_phase(self, child):
        with pytest.raises(EngineError, match=r"gave up\n"):
            child("os.abort()")

    def test_an_access_violation_of_windows(self):
        assert "crashed" in death(0xC0000005)

    def test_an_earlier_result_is_not_taken_for_its_own(self, child):
        assert child() == Answer(text="xx")
        with pytest.raises(EngineError, match="status 0"):
            child("os._exit(0)")

    def test_noticed_although_a_fork_holds_the_pipe(self, child):
        start = time.monotonic()
        with pytest.raises(EngineError, match="status 3"):
            child("if os.fork(): os._exit(3)\ntime.sleep(60)", timeout_s=50)
        assert time.monotonic() - start < 30

    def test_silence_ends_it_and_what_it_started(self, child, tmp_path):
        body = """
            sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            (folder / "pids").write_text(f"{os.getpid()} {sleeper.pid}")
            emit({"event": "progress"})
            time.sleep(60)
        """
        with pytest.raises(EngineError, match=r"no sign of life for 3 s; the process was stopped") as raised:
            child(body, timeout_s=3)
        assert "--timeout" in raised.value.hint
        assert all(gone(int(pid)) for pid in (tmp_path / "job" / "pids").read_text().split())

    def test_signs_of_life_keep_it_going(self, child):
        body = 'for _ in range(10):\n    time.sleep(0.3)\n    emit({"event": "progress"})'
        assert child(body, timeout_s=2.5) == Answer(text="xx")

    def test_silence_with_the_pipe_closed(self, child):
        with pytest.raises(EngineError, match="no sign of life"):
            child(before="import os, sys, time\nif __name__ == '__main__': os.close(1); time.sleep(60)", timeout_s=2)

    def test_a_truncated_result(self, child):
        with pytest.raises(StorageError, match="the result of the work is not a valid Answer"):
            child(after="Path(sys.argv[1], 'result.json').write_text('{\"text\"')")

    def test_a_folder_that_cannot_be_made(self, child, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot write"):
            child(folder=tmp_path / "file" / "job")

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_an_error_in_the_parent_ends_the_child(self, child, tmp_path, error):
        def stop(event):
            raise error

        body = '(folder / "pid").write_text(str(os.getpid()))\nemit({"event": "progress"})\ntime.sleep(60)'
        with pytest.raises(error):
            child(body, on_event=stop)
        assert gone(int((tmp_path / "job" / "pid").read_text()))

    def test_ctrl_c_in_the_terminal_does_not_reach_it_first(self, child, tmp_path):
        child('(folder / "group").write_text(str(os.getpgid(0)))')
        assert int((tmp_path / "job" / "group").read_text()) != os.getpgid(0)

    @pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
    def test_the_death_of_the_parent_ends_it(self, tmp_path):
        (tmp_path / "sleeper.py").write_text(
            CHILD.format(
                before="", after="", body='    (folder / "pid").write_text(str(os.getpid()))\n    time.sleep(60)'
            )
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(tmp_path / "job")], env={**os.environ, "PYTHONPATH": str(tmp_path)}
        )
        pid = tmp_path / "job" / "pid"
        while not (pid.exists() and pid.read_text()):
            assert parent.poll() is None, "the parent did not start its child"
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert gone(int(pid.read_text()))


PARENT = """
import sys
from pathlib import Path
from hwbench.children import run_child
from hwbench.errors import EngineError
from sleeper import Answer, Order
run_child("sleeper", Order(), Answer, folder=Path(sys.argv[1]), what="w", failure=EngineError, timeout_s=60)
"""


def test_the_throttle_lets_one_through_a_period(monkeypatch):
    now = 100.0
    monkeypatch.setattr("hwbench.children.time.monotonic", lambda: now)
    throttle = Throttle(0.5)
    assert throttle.ready()
    assert not throttle.ready()
    now = 100.4
    assert not throttle.ready()
    now = 100.5
    assert throttle.ready()
