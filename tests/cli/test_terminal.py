"""What the terminal gets: colour or none, a bar that goes away, streams that close early, any width and coding."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest
from command import LIMIT_S, QUICK, command, engines, environment, hwbench, tiny_onnx

ESCAPE = "\x1b"
SHOW_CURSOR = "\x1b[?25h"
HIDE_CURSOR = "\x1b[?25l"


@pytest.fixture
def net(tmp_path):
    tiny_onnx(tmp_path / "tiny.onnx")
    return tmp_path


def in_terminal(*arguments, cwd, path=(), columns=80, interrupt_at=None, **extra):
    """Run in a terminal of our own; returns the exit code and all it was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = environment(cwd / "home", path=path, **extra)
    process = subprocess.Popen(
        command(*arguments), cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    os.close(theirs)
    said, deadline = b"", time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 0.2)[0]:
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        said += part
        if interrupt_at is not None and interrupt_at in said:
            os.write(ours, b"\x03")  # what the key sends
            interrupt_at = None
    os.close(ours)
    return process.wait(LIMIT_S), said.decode()


def without_codes(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def profile(*names):
    return ("profile", "tiny.onnx", *QUICK, *engines(*names), "-o", "out")


def test_the_bar_is_drawn_and_cleared(net, stubs):
    code, said = in_terminal(*profile("stub-slow", "stub-good"), cwd=net, path=[stubs])
    assert code == 0
    assert "[1/2] stub-slow fp32" in without_codes(said)
    assert "━" in said
    assert said.count(HIDE_CURSOR) == said.count(SHOW_CURSOR) == 1
    rest = said[said.index(SHOW_CURSOR) :]
    assert "━" not in rest
    assert "stub-good fp32" in rest
    assert "result: out/result.json" in rest


def test_ctrl_c_gives_the_cursor_back(net, stubs):
    arguments = ("profile", "tiny.onnx", "--warmup", "60s", *engines("stub-slow"), "-o", "out")
    code, said = in_terminal(*arguments, cwd=net, path=[stubs], interrupt_at=b"warm-up")
    assert code == 130
    assert SHOW_CURSOR in said[said.rindex(HIDE_CURSOR) :]
    assert "error: stopped by Ctrl-C" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_table_of_any_width(columns, finished):
    code, said = in_terminal("report", "out", cwd=finished.cwd, columns=columns)
    assert code == 0
    lines = without_codes(said).splitlines()
    assert max(map(len, lines)) <= columns
    assert "median" in " ".join(lines)


def test_a_run_in_a_tiny_terminal(net, stubs):
    code, said = in_terminal(*profile("stub-good"), cwd=net, path=[stubs], columns=20)
    assert code == 0
    assert "Traceback" not in said
    assert "median" in without_codes(said[said.index(SHOW_CURSOR) :])


@pytest.mark.parametrize("how", ["option", "variable"])
def test_without_colour_the_tables_hold_no_escape_codes(how, finished):
    option, env = (["--no-color"], {}) if how == "option" else ([], {"NO_COLOR": "1"})
    code, said = in_terminal("report", "out", *option, cwd=finished.cwd, **env)
    assert code == 0
    assert ESCAPE not in said
    coloured = in_terminal("report", "out", cwd=finished.cwd)[1]
    assert ESCAPE in coloured
    for verb in (["devices"], ["models"], ["plugins"], ["devices", "raspberry-pi-5"]):
        assert ESCAPE not in in_terminal(*verb, *option, cwd=finished.cwd, **env)[1]


def test_no_colour_wins_over_force_color(finished):
    run = hwbench("report", "out", "--no-color", cwd=finished.cwd, FORCE_COLOR="1")
    assert ESCAPE not in run.stdout + run.stderr
    assert ESCAPE in hwbench("report", "out", cwd=finished.cwd, FORCE_COLOR="1").stdout


def test_nothing_is_coloured_in_a_pipe(finished):
    run = hwbench("report", "out", "--layers", cwd=finished.cwd)
    assert ESCAPE not in run.stdout + run.stderr + finished.run.stderr


def into_closed(arguments, cwd, *, stdout, stderr, path=()):
    """Run with the reading end of one or both streams closed already."""
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(cwd / "home", path=path), stdin=subprocess.DEVNULL,
        stdout=writer if stdout else subprocess.PIPE, stderr=writer if stderr else subprocess.PIPE,
        timeout=LIMIT_S, check=False, text=True,
    )  # fmt: skip
    os.close(writer)
    return run


@pytest.mark.parametrize(
    "arguments",
    [["devices"], ["devices", "--json"], ["report", "out"], ["report", "out", "--csv", "samples"], ["schema"]],
    ids=" ".join,
)
def test_a_reader_that_goes_away_is_no_error(arguments, finished):
    run = into_closed(arguments, finished.cwd, stdout=True, stderr=False)
    assert run.returncode == 0
    assert run.stderr == ""


def test_a_run_whose_audience_left_is_still_measured_to_the_end(net, stubs):
    run = into_closed(profile("stub-good", "stub-slow"), net, stdout=True, stderr=True, path=[stubs])
    assert run.returncode == 0
    assert (net / "out" / "report.html").exists()
    assert '"status": "complete"' in (net / "out" / "result.json").read_text()


def test_a_terminal_that_knows_no_micro_sign(finished):
    run = hwbench("report", "out", cwd=finished.cwd, PYTHONIOENCODING="ascii")
    assert run.returncode == 0
    assert "onnxruntime fp32" in run.stdout


def test_a_name_cannot_drive_the_terminal(tmp_path):
    run = hwbench("profile", "a\x1b[2Jb.onnx", cwd=tmp_path)
    assert run.returncode == 3
    assert "a\\x1b[2Jb.onnx" in run.stderr
    assert ESCAPE not in run.stderr
