"""Children of a command run in the test's own process, where modules are pretended: jobs and answers go by JSON still.

A child that is asked (:class:`hwbench.dialogue.Dialogue`) is a thread.
"""

from __future__ import annotations

import importlib
import queue
import threading

import msgspec

_MAIN = {"hwbench.graph.importer": "_main", "hwbench.compress.worker": "compress"}  # what they serve; others: work


def _same(record, kind):
    return msgspec.json.decode(msgspec.json.encode(record), type=kind)


def run_child(module, job, result, *, folder, what, failure, timeout_s, env=None, on_event=None):
    """Stand for :func:`hwbench.children.run_child`; errors come as they are raised."""
    folder.mkdir(parents=True, exist_ok=True)
    work = getattr(importlib.import_module(module), _MAIN.get(module, "work"))
    done = work(_same(job, type(job)), folder, on_event or (lambda event: None))
    return _same(done, result)


class Talk:
    """Stands for :class:`hwbench.dialogue.Dialogue`."""

    def __init__(self, module, job, *, folder, what, failure, timeout_s, env=None, on_event=None):
        self._module = importlib.import_module(module)
        self._asked, self._said = queue.Queue(), queue.Queue()
        self._on_event = on_event or (lambda event: None)
        self._module.questions = lambda kind: iter(self._asked.get, None)
        arguments = (_same(job, type(job)), folder)
        self._thread = threading.Thread(target=self._work, args=arguments, daemon=True)
        self._thread.start()

    def _work(self, job, folder):
        try:
            self._module.work(job, folder, self._said.put)
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asks
            self._said.put(error)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._asked.put(None)
        self._thread.join(60)

    def hear(self, kind):
        while True:
            said = self._said.get(timeout=60)
            if isinstance(said, BaseException):
                raise said
            if said["event"] == "answer":
                return msgspec.convert(said["body"], type=kind)
            self._on_event(said)

    def ask(self, question, kind):
        self._asked.put(_same(question, type(question)))
        return self.hear(kind)


def children_in_process(monkeypatch):
    """Run every child of planning and optimising here."""
    from hwbench import intake
    from hwbench.planning_pipeline import losses
    from hwbench.sensitivity import worker
    from hwbench.tables import collect

    for module in (intake, collect):
        monkeypatch.setattr(module, "run_child", run_child)
    monkeypatch.setattr(losses, "Dialogue", Talk)
    monkeypatch.setattr(worker, "questions", worker.questions)  # put back afterwards
