"""A Jetson in the doctor: its checks, and its power mode and clocks set by programs that stand in for NVIDIA's."""

import stat

import pytest

from hwbench.doctor import change, jetson, journal
from hwbench.doctor.examine import CHECKS
from hwbench.doctor.settings import parse_settings, plan
from hwbench.doctor.subject import look
from hwbench.errors import DeviceError, UsageError

CPU = "sys/devices/system/cpu/cpufreq/policy0"
GPU = "sys/class/devfreq/17000000.gpu"
FILES = {
    f"{CPU}/scaling_min_freq": 729_600,
    f"{CPU}/scaling_max_freq": 1_510_400,
    f"{GPU}/min_freq": 306_000_000,
    f"{GPU}/max_freq": 918_000_000,
    "sys/class/hwmon/hwmon1/name": "pwmfan",
    "sys/class/hwmon/hwmon1/pwm1": 51,
    "sys/class/hwmon/hwmon2/oc1_event_cnt": 0,
    "sys/kernel/debug/nvmap/iovmm/clients": "total 2048K",
}
# Both keep their state in the files that hwbench reads, as the real ones do.
NVPMODEL = """#!/bin/sh
[ "$1" = -m ] || exit 2
if [ "$2" = 1 ]; then
    read answer
    echo "NVPM WARN: Reboot required for changing to this power mode: 1"
    [ "$answer" = no ] && exit 0
fi
echo "pmode:000$2 fmode:quiet" > "$ROOT/var/lib/nvpmodel/status"
"""
CLOCKS = """#!/bin/sh
limits="$ROOT/FOLDER_CPU/scaling_min_freq $ROOT/FOLDER_GPU/min_freq"
case "$1" in
--store)
    if [ -e "$2" ]; then
        echo "File $2 already exists. Can I overwrite it? Y/N:"
        read answer
        case "$answer" in [yY]*) ;; *) exit 1 ;; esac
    fi
    for f in $limits; do echo "$f:$(cat $f)"; done > "$2" ;;
--restore) [ -s "$2" ] || exit 1; while IFS=: read f v; do echo "$v" > "$f"; done < "$2" ;;
"") for f in $limits; do cat "$(echo $f | sed s/min/max/)" > "$f"; done ;;
esac
"""


@pytest.fixture
def board(host, tmp_path, monkeypatch):
    root = host("jetson-orin-nano")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    clocks = CLOCKS.replace("FOLDER_CPU", CPU).replace("FOLDER_GPU", GPU)
    for name, text in (("nvpmodel", NVPMODEL), ("jetson_clocks", clocks)):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("ROOT", str(root))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return root


def planned(root, text):
    return plan(look(root), parse_settings([text]))


def state(root):
    mode = (root / "var/lib/nvpmodel/status").read_text().split()[0]
    return mode, *((root / name).read_text().strip() for name in (f"{CPU}/scaling_min_freq", f"{GPU}/min_freq"))


def checks(root):
    subject = look(root)
    found = [check(subject) for check in (jetson.clocks, jetson.fan, jetson.over_current, jetson.memory)]
    return {one.name: one for one in found if one is not None}


BEFORE = ("pmode:0002", "729600", "306000000")


def test_mode_and_clocks_are_set_and_put_back(board):
    assert state(board) == BEFORE
    with change.changed(board, planned(board, "jetson_clocks,power_mode=0"), ["true"]):
        assert state(board) == ("pmode:0000", "1510400", "918000000")
        assert [one.setting for one in journal.read_journal(board).changes] == ["power_mode", "jetson_clocks"]
        assert checks(board)["jetson_clocks"].severity == "ok"
    assert state(board) == BEFORE


def test_what_an_earlier_run_has_kept_of_the_clocks_is_no_hindrance(board):
    for _ in range(2):
        with change.changed(board, planned(board, "jetson_clocks"), ["true"]):
            kept = [path for path in (board / "run/hwbench").iterdir() if "clocks" in path.name]
            assert len(kept) == 1
        assert state(board) == BEFORE
        assert not kept[0].exists()
    kept[0].write_text("left by a run that was killed\n")
    with change.changed(board, planned(board, "jetson_clocks"), ["true"]):
        assert state(board)[2] == "918000000"
    assert state(board) == BEFORE


def test_a_mode_has_a_number_and_a_name(board):
    (by_name,), (by_number,) = planned(board, "power_mode=15W"), planned(board, "power_mode=0")
    assert by_name == by_number
    assert planned(board, "power_mode=MAXN_SUPER") == ()


@pytest.mark.parametrize("text", ["power_mode", "power_mode=7W", "power_mode=9"])
def test_modes_that_are_not_there_are_refused_with_those_that_are(board, text):
    with pytest.raises(UsageError) as raised:
        planned(board, text)
    for mode in ("0: 15W", "1: 25W", "2: MAXN_SUPER"):
        assert mode in raised.value.hint


def test_a_mode_that_wants_a_reboot_is_not_set(board):
    with (
        pytest.raises(DeviceError, match="wants a reboot"),
        change.changed(board, planned(board, "power_mode=1"), ["x"]),
    ):
        pytest.fail("it went on")
    assert state(board) == BEFORE
    assert journal.read_journal(board) is None


def test_clocks_that_are_held_stay_so_and_forbid_another_mode(board):
    (board / f"{CPU}/scaling_min_freq").write_text("1510400")
    (board / f"{GPU}/min_freq").write_text("918000000")
    assert planned(board, "jetson_clocks") == ()
    with pytest.raises(DeviceError, match="clocks are held"):
        planned(board, "power_mode=0")


def test_after_a_kill_the_journal_puts_back(board):
    with change.changed(board, planned(board, "jetson_clocks,power_mode=0"), ["true"]):
        left = journal.journal_path(board).read_bytes()
        names = (f"{CPU}/scaling_min_freq", f"{GPU}/min_freq", "run/hwbench/jetson_clocks.conf")
        now = {name: (board / name).read_text() for name in names}
    for name, text in now.items():
        (board / name).write_text(text)
    (board / "var/lib/nvpmodel/status").write_text("pmode:0000 fmode:quiet\n")
    journal.journal_path(board).write_bytes(left)
    moved, foreign = change.restore(board)
    assert [one.setting for one in moved] == ["jetson_clocks", "power_mode"]
    assert foreign == []
    assert state(board) == BEFORE


def test_without_the_programs_or_privilege_nothing_is_changed(board, monkeypatch):
    changes = planned(board, "jetson_clocks")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(DeviceError) as raised, change.changed(board, changes, ["true"]):
        pytest.fail("it went on")
    assert "sudo" in raised.value.hint
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match="there is no jetson_clocks here"), change.changed(board, changes, ["true"]):
        pytest.fail("it went on")
    assert state(board) == BEFORE


def test_a_program_that_fails_is_quoted(board):
    (board / "../bin/jetson_clocks").resolve().write_text("#!/bin/sh\necho out of luck; exit 3\n")
    with (
        pytest.raises(DeviceError, match="ended with 3: out of luck"),
        change.changed(board, planned(board, "jetson_clocks"), ["true"]),
    ):
        pytest.fail("it went on")


@pytest.mark.parametrize("text", ["power_mode=0", "jetson_clocks"])
def test_other_machines_have_neither(machine, text):
    with pytest.raises(DeviceError, match="this is no Jetson"):
        plan(machine(), parse_settings([text]))


def test_clocks_are_held_or_left(board):
    with pytest.raises(UsageError, match="'off'"):
        planned(board, "jetson_clocks=off")


def test_checks(board):
    found = checks(board)
    assert found["jetson_clocks"].severity == "warning"
    assert "gpu 306 MHz to 918 MHz" in found["jetson_clocks"].found
    assert found["jetson_fan"].found == "the fan is driven at 20%"
    assert found["jetson_over_current"].severity == "ok"
    assert "2.00 MiB" in found["jetson_memory"].found
    (board / "sys/class/hwmon/hwmon2/oc1_event_cnt").write_text("4")
    assert checks(board)["jetson_over_current"].figures == {"events": 4}


def test_what_a_board_does_not_show_is_said(board):
    for name in FILES:
        (board / name).unlink()
    assert {one.severity for one in checks(board).values()} == {"cannot_tell"}


def test_elsewhere_the_checks_are_left_out(machine):
    assert checks(machine().tree.root) == {}
    assert {jetson.clocks, jetson.fan, jetson.over_current, jetson.memory} <= set(CHECKS)
