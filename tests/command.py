"""What the tests of the command line share: running it in a process of its own, a tiny model, and stub engines.

The stub engines come in as any plugin does, by an entry point of a package on ``PYTHONPATH``; each fails, or takes its
time, in a way of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED_SCHEMA = ROOT / "docs" / "schemas" / "profile-result.v1.json"
QUICK = ("--iterations", "20", "--warmup", "10ms", "--no-layers")
LIMIT_S = 240
_NOT_INHERITED = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "HWBENCH_REPLAY_TRACE", "HWBENCH_SYSFS_ROOT")


def environment(home, *, path=(), **extra):
    """The environment of a command: none of the caller's wishes, data in ``home``, ``path`` importable."""
    env = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    env.update(HWBENCH_HOME=str(home), PYTHONPATH=os.pathsep.join(map(str, path)), TERM="xterm", **extra)
    return env


def command(*arguments):
    return [sys.executable, "-m", "hwbench", *map(str, arguments)]


def hwbench(*arguments, cwd, env=None, path=(), text=True, **extra):
    """Run the command to its end."""
    env = env or environment(Path(cwd) / "home", path=path, **extra)
    return subprocess.run(
        command(*arguments), cwd=cwd, env=env, capture_output=True, text=text, timeout=LIMIT_S, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def failed(run, code, *parts):
    """Check that a run failed as it should: its exit code, one clear message that says ``parts``, no traceback."""
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert sum(line.startswith("error: ") for line in run.stderr.splitlines()) == 1, run.stderr
    message = run.stderr[run.stderr.index("error: ") :]
    for part in parts:
        assert part in message
    return message


def result_of(folder):
    return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))


def tiny_onnx(path, *, weight=1.0, op="Relu", batch="N"):
    """Write a network of one convolution and one more node; input ``x`` is batch x 3 x 8 x 8."""
    kernel = np.full((4, 3, 3, 3), weight, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node(op, ["c"], ["y"], name="last")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4, 6, 6])],
        [numpy_helper.from_array(kernel, "w")],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


STUBS = """
import ctypes, os, resource, signal, time
import numpy as np
from hwbench.protocols import LayerProfile
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.measurement import Built
from hwbench.records.quantization import Lowered


class Bound:
    def __init__(self, engine, outputs):
        self.run, self._outputs = engine.run, outputs

    def outputs(self):
        return self._outputs


class Runner:
    timed_region = "nothing"

    def __init__(self, engine, request):
        self.engine, self.request = engine, request

    def bind(self, inputs):
        shapes = {spec.name: spec.shape for spec in self.request.model.outputs}
        return Bound(self.engine, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})

    def built(self):
        return Built(engine=self.engine.name, version="1", precision="fp32", execution_units=("CPU",),
                     threads=self.request.threads, settings={}, layers=Missing(code="stub", why="a stub"))

    def profile_layers(self, inputs, iterations):
        return self.engine.layers()

    def close(self):
        pass


class Program:
    load_phase = compile_phase = None

    def __init__(self, engine, request):
        self.engine, self.request = engine, request

    def compile(self):
        self.engine.compile()
        return Runner(self.engine, self.request)


class Good:
    name = "stub-good"

    def installed(self):
        return Support()

    def supports(self, model, files, device):
        return Support()

    def precisions(self, device):
        return ("fp32",)

    def start(self):
        return "1"

    def load(self, request):
        return Program(self, request)

    def compile(self):
        pass

    def run(self):
        return sum(range(300))

    def layers(self):
        return Missing(code="stub", why="a stub has no layers")


class Slow(Good):
    name = "stub-slow"
    seconds = float(os.environ.get("STUB_SLOW_S", "0.05"))

    def run(self):
        time.sleep(self.seconds)


class Killed(Good):
    name = "stub-killed"

    def compile(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Crashed(Good):
    name = "stub-crashed"

    def compile(self):
        print("about to touch address 0", flush=True)
        ctypes.string_at(0)


class Hungry(Good):
    name = "stub-hungry"

    def compile(self):
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        self.rows = [np.ones(1 << 26) for _ in range(8)]


class Layerless(Good):
    name = "stub-layerless"

    def layers(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Parent(Good):
    name = "stub-parent"
    def run(self):
        os.environ.setdefault("STUB_CHILD", str(os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "300")))
        time.sleep(0.02)


class Broken(Good):
    name = "stub-broken"

    def supports(self, model, files, device):
        raise KeyError("a bug in somebody's plugin")


class Writes(Good):
    name = "stub-writes"
    schemes = ("fp32",)

    def lower(self, request):
        time.sleep(float(os.environ.get("STUB_LOWER_S", "0")))
        (request.folder / "model.bin").write_bytes(b"stub")
        return Lowered(files=("model.bin",), arithmetic="fp32", settings={}, layers=(), same_bytes=True)


class Torn(Writes):
    name = "stub-torn"
    compile = Killed.compile
"""
STUB_CLASSES = ("Good", "Slow", "Killed", "Crashed", "Hungry", "Layerless", "Parent", "Broken", "Writes", "Torn")


def stub_package(folder, *names):
    """Install the stub engines called ``names`` (``good`` for ``stub-good``) into ``folder``, for ``PYTHONPATH``."""
    meta = folder / "hwbench_stubs-1.0.dist-info"
    meta.mkdir(parents=True)
    (folder / "hwbench_stubs.py").write_text(STUBS)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: hwbench-stubs\nVersion: 1.0\n")
    points = [f"stub-{name} = hwbench_stubs:{name.capitalize()}" for name in names]
    (meta / "entry_points.txt").write_text("\n".join(["[hwbench.engines]", *points, ""]))
    return folder


def engines(*names):
    return [part for name in names for part in ("-e", name)]


class Running:
    """A command at work, in a process group of its own, its standard error followed line by line."""

    def __init__(self, *arguments, cwd, env):
        self.process = subprocess.Popen(
            command(*arguments), cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_default_sigint,  # noqa: PLW1509
        )  # fmt: skip
        self.lines = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    def wait_for(self, text):
        """Wait until the command says ``text``."""
        with self._news:
            said = self._news.wait_for(lambda: any(text in line for line in self.lines), timeout=LIMIT_S)
        assert said, f"never said '{text}': {''.join(self.lines)}"

    def descendants(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self, *, group):
        """Press Ctrl-C (the whole group gets it), or send SIGINT to the command alone; wait for its end."""
        if group:
            os.killpg(self.process.pid, signal.SIGINT)
        else:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        self.process.stdout.close()
        self.process.stderr.close()
        return code, "".join(self.lines)


def _default_sigint():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell may have started the tests with it ignored


def assert_gone(processes, within_s=5.0):
    """Check that none of ``processes`` is still alive."""
    deadline = time.monotonic() + within_s
    alive = processes
    while alive and time.monotonic() < deadline:
        alive = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.05)
    assert not alive


def shared_data(path):
    """A file of the data that lies beside a checkout, or skip."""
    folder = Path(os.environ.get("HWBENCH_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / path).exists():
        pytest.skip(f"{path} is not here (HWBENCH_SHARED_DATA)")
    return folder / path
