"""Every way out of ``hwbench doctor --apply``: the machine is as before, or ``--restore`` makes it so."""

import signal
import sys
import time

import pytest
from command import Running, assert_gone, environment, failed, hwbench

CPUINFO = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Test CPU\nflags\t\t: fpu avx2\n"
TURBO = "sys/devices/system/cpu/intel_pstate/no_turbo"
GOVERNOR = "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
FILES = {
    "proc/cpuinfo": CPUINFO,
    "proc/self/status": "Cpus_allowed_list:\t0\n",
    TURBO: "0\n",
    GOVERNOR: "powersave\n",
    "sys/devices/system/cpu/smt/control": "notsupported\n",
}
WAIT = "import sys, time; print('at work', file=sys.stderr, flush=True); time.sleep(600)"
APPLY = ("doctor", "--apply", "governor=performance,turbo=off,smt=off", "--")


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "root"


def state(root):
    return (root / TURBO).read_text().strip(), (root / GOVERNOR).read_text().strip()


def run(root, *arguments):
    return hwbench(*arguments, cwd=root.parent, HWBENCH_SYSFS_ROOT=str(root))


def start(root, program=WAIT):
    env = environment(root.parent / "home", HWBENCH_SYSFS_ROOT=str(root))
    running = Running(*APPLY, sys.executable, "-c", program, cwd=root.parent, env=env)
    running.wait_for("at work")
    assert state(root) == ("1", "performance")
    return running


def finish(running):
    code = running.process.wait(60)
    running.process.stdout.close()
    running.process.stderr.close()
    return code


@pytest.mark.parametrize("code", [0, 3, 77])
def test_the_commands_exit_code_passes_through(root, code):
    look = f"import sys; print(open('root/{TURBO}').read(), open('root/{GOVERNOR}').read()); sys.exit({code})"
    ended = run(root, *APPLY, sys.executable, "-c", look)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout.split() == ["1", "performance"]
    assert "changed: governor: powersave to performance" in ended.stderr
    assert state(root) == ("0", "powersave")


def test_a_command_that_a_signal_ends(root):
    ended = run(root, *APPLY, sys.executable, "-c", "import os; os.kill(os.getpid(), 11)")
    assert ended.returncode == 128 + 11
    assert state(root) == ("0", "powersave")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_it_alone_reaches_the_command(root, number):
    running = start(root)
    started = running.descendants()
    running.process.send_signal(number)
    assert finish(running) in {128 + number, 1}  # Python's own end on SIGINT is by that signal
    assert_gone(started)
    assert state(root) == ("0", "powersave")


def test_ctrl_c_reaches_both(root):
    code, said = start(root).interrupt(group=True)
    assert code == 130, said
    assert state(root) == ("0", "powersave")


def test_a_command_that_takes_its_time_on_ctrl_c_keeps_the_settings_until_it_has_ended(root):
    program = (
        "import signal, sys, time\n"
        "def late(*_):\n"
        f"    time.sleep(1); print(open('root/{TURBO}').read(), file=sys.stderr, flush=True); sys.exit(9)\n"
        "signal.signal(signal.SIGINT, late)\n"
        "print('at work', file=sys.stderr, flush=True)\n"
        "time.sleep(600)\n"
    )
    running = start(root, program)
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert state(root) == ("1", "performance")
    assert finish(running) == 9
    assert running.lines[-2].strip() == "1" or "1\n" in running.lines
    assert state(root) == ("0", "powersave")


def test_killed_then_restored(root):
    running = start(root)
    started = running.descendants()
    running.process.kill()
    running.process.wait(60)
    for process in started:
        process.kill()
    finish(running)
    assert state(root) == ("1", "performance")
    failed(run(root, *APPLY, "true"), 3, "an earlier hwbench doctor --apply was killed", "--restore")
    ended = run(root, "doctor", "--restore")
    assert ended.returncode == 0, ended.stderr
    assert "put back: governor: " in ended.stderr
    assert state(root) == ("0", "powersave")
    assert "nothing to put back" in run(root, "doctor", "--restore").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("--apply", "turbo"), 2, ("--apply needs a command",)),
        (("--", "true"), 2, ("runs no command without --apply",)),
        (("--apply", "turbo", "--restore", "--", "true"), 2, ("exclude each other",)),
        (("--apply", "turbo", "--json", "--", "true"), 2, ("--json",)),
        (("--restore", "--strict"), 2, ("--strict",)),
        (("--apply", "turbox", "--", "true"), 2, ("'turbox'", "governor")),
        (("--apply", "turbo", "--", "no-such-command"), 2, ("no-such-command", "nothing has been changed")),
        (("--apply", "turbo,rapl", "--", "true"), 3, ("rapl cannot be set here", "nothing has been changed")),
    ],
)
def test_refusals_change_nothing(root, arguments, code, parts):
    failed(run(root, "doctor", *arguments), code, *parts)
    assert state(root) == ("0", "powersave")
