import contextlib
import errno
import os
from pathlib import Path

import pytest

from hwbench.cli.doctor import _run_changed
from hwbench.cli.terminal import Terminal
from hwbench.doctor import change, journal, left_over, subject
from hwbench.doctor.settings import parse_settings, plan
from hwbench.errors import DeviceError, StorageError, UsageError
from hwbench.records.changes import Change

CPU = "sys/devices/system/cpu"
FREQ = f"{CPU}/cpufreq"
PARANOID = "proc/sys/kernel/perf_event_paranoid"
NO_TURBO = f"{CPU}/intel_pstate/no_turbo"
SMT = f"{CPU}/smt/control"
WHOLE = {
    **{f"{FREQ}/policy{cpu}/scaling_governor": "powersave" for cpu in (0, 1, 2)},
    **{f"{FREQ}/policy{cpu}/scaling_available_governors": "performance powersave" for cpu in (0, 1, 2)},
    **{f"{FREQ}/policy{cpu}/related_cpus": cpu for cpu in (0, 1, 2)},
    f"{FREQ}/policy0/energy_performance_preference": "balance_power",
    NO_TURBO: 0,
    SMT: "on",
    PARANOID: 4,
}
ALL = "governor,turbo,smt,perf_events"


def contents(root):
    files = (path for top in ("sys", "proc") for path in (root / top).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.read_text().strip(), path.stat().st_mode) for path in files}


def planned(subject, *texts):
    return plan(subject, parse_settings(texts))


@pytest.fixture
def whole(machine):
    return machine(WHOLE)


@pytest.mark.parametrize("name", ["turbox", "", "governor,", "GOVERNOR"])
def test_unknown_settings(name):
    with pytest.raises(UsageError, match="--apply cannot set"):
        parse_settings([name])


def test_settings_and_values():
    assert parse_settings(["turbo,governor=schedutil", "smt=on"]) == {
        "turbo": "off",
        "governor": "schedutil",
        "smt": "on",
    }
    with pytest.raises(UsageError, match="twice"):
        parse_settings(["turbo", "turbo=on"])


@pytest.mark.parametrize("text", ["turbo=2", "smt=", "perf_events=9", "rapl=off", "governor=fastest"])
def test_unknown_values(whole, text):
    with pytest.raises(UsageError):
        planned(whole, text)


def test_all_settings_while_the_block_runs_and_as_before_afterwards(whole):
    root = whole.tree.root
    before = contents(root)
    with change.changed(root, planned(whole, ALL), ["true"]):
        now = {path: text for path, (text, _) in contents(root).items() if text != before[path][0]}
        assert now == {
            f"{FREQ}/policy0/scaling_governor": "performance",
            f"{FREQ}/policy1/scaling_governor": "performance",  # and not policy2's: this process may not use CPU 2
            NO_TURBO: "1",
            SMT: "off",
            PARANOID: "0",
        }
        assert [one.setting for one in journal.read_journal(root).changes][-1] == "smt"
    assert contents(root) == before
    assert journal.read_journal(root) is None


def test_an_exception_puts_everything_back(whole):
    root, before = whole.tree.root, contents(whole.tree.root)
    with pytest.raises(KeyboardInterrupt), change.changed(root, planned(whole, ALL), ["true"]):
        raise KeyboardInterrupt
    assert contents(root) == before
    assert journal.read_journal(root) is None


def test_nothing_to_change_where_all_is_so_already(machine):
    subject = machine({NO_TURBO: 1, SMT: "notsupported", f"{FREQ}/policy0/scaling_governor": "performance"})
    assert planned(subject, "turbo,smt,governor") == ()


@pytest.mark.parametrize("name", ["governor", "turbo", "smt", "perf_events", "rapl"])
def test_a_machine_without_the_switch_says_so(machine, name):
    with pytest.raises(DeviceError, match=f"{name} cannot be set here.*nothing has been changed"):
        planned(machine(), name)


def test_smt_that_the_firmware_has_turned_off_stays_so(machine):
    with pytest.raises(DeviceError, match="says forceoff"):
        planned(machine({SMT: "forceoff"}), "smt=on")


def test_boost_of_each_policy_survives_the_switch_of_all(machine):
    subject = machine({f"{FREQ}/boost": 1, f"{FREQ}/policy0/boost": 1, f"{FREQ}/policy1/boost": 0})
    changes = planned(subject, "turbo")
    assert [(one.path.removeprefix(f"{FREQ}/"), one.before) for one in changes] == [
        ("policy0/boost", "1"),
        ("policy1/boost", "0"),  # already off, and kept: boost of all, put back, turns it on
        ("boost", "1"),
    ]


def test_the_energy_hint_that_a_governor_drags_along_is_put_back_after_it(whole):
    root, hint = whole.tree.root, f"{FREQ}/policy0/energy_performance_preference"
    with change.changed(root, planned(whole, "governor"), ["true"]):
        (root / hint).write_text("performance\n")  # as amd_pstate does
    assert (root / hint).read_text() == "balance_power"


def test_permission_to_read_energy(machine):
    zone = "sys/class/powercap/intel-rapl:0"
    subject = machine({f"{zone}/name": "package-0", f"{zone}/energy_uj": 5, f"{zone}/max_energy_range_uj": 9})
    counter = subject.tree.root / zone / "energy_uj"
    counter.chmod(0o400)
    with change.changed(subject.tree.root, planned(subject, "rapl"), ["true"]):
        assert counter.stat().st_mode & 0o777 == 0o444
    assert counter.stat().st_mode & 0o777 == 0o400


def test_a_change_that_does_not_take_undoes_those_before_it(whole, monkeypatch):
    root, before, write = whole.tree.root, contents(whole.tree.root), os.write

    def firmware_says_no(descriptor, data):
        if data == b"1" and Path(f"/proc/self/fd/{descriptor}").readlink().name == "no_turbo":
            raise OSError(errno.EPERM, "Operation not permitted")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", firmware_says_no)
    changes = planned(whole, ALL)
    with (
        pytest.raises(DeviceError, match=r"turbo could not be set.*put back"),
        change.changed(root, changes, ["true"]),
    ):
        pytest.fail("ran all the same")
    assert contents(root) == before
    assert journal.read_journal(root) is None


def test_a_value_that_the_kernel_takes_and_ignores_is_noticed(whole):
    root = whole.tree.root
    (root / SMT).unlink()
    (root / SMT).symlink_to("/dev/null")
    changes = [Change(setting="smt", path=SMT, kind="content", before="", after="off")]
    with pytest.raises(DeviceError, match="says  after off was written"), change.changed(root, changes, ["true"]):
        pytest.fail("ran all the same")


def test_what_is_not_permitted_is_refused_before_anything_is_changed(whole, monkeypatch):
    root, before, access = whole.tree.root, contents(whole.tree.root), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("control") and access(path, mode))
    with (
        pytest.raises(DeviceError, match="smt may not be changed by this user") as raised,
        change.changed(root, planned(whole, ALL), ["true"]),
    ):
        pytest.fail("ran all the same")
    assert "sudo" in raised.value.hint
    assert contents(root) == before


def test_two_at_a_time_are_refused(whole):
    root = whole.tree.root
    with change.changed(root, planned(whole, "turbo"), ["true"]):
        with pytest.raises(DeviceError, match="another"), change.changed(root, planned(whole, "smt"), ["true"]):
            pytest.fail("ran all the same")
        with pytest.raises(DeviceError, match="another"):
            change.restore(root)
        with pytest.raises(DeviceError, match="another"), change.changed(root, (), ["true"]):
            pytest.fail("ran with settings that would not have stayed")
        found = left_over.left_changed(whole)
        assert found.severity == "info"
        assert "turbo" in found.found


def killed(subject, *texts):
    """Leave the machine as a run that was killed in the middle of its command does."""
    root, changes = subject.tree.root, planned(subject, *texts)
    with change.changed(root, changes, ["sleep", "9"]):
        kept = journal.read_journal(root)
        now = {one.path: (root / one.path).read_text() for one in changes}
    for path, text in now.items():
        (root / path).write_text(text)
    journal.write_journal(root, kept)


def test_what_a_killed_run_left_is_seen_blocks_and_is_put_back(whole):
    root, before = whole.tree.root, contents(whole.tree.root)
    killed(whole, ALL)
    assert contents(root) != before
    found = left_over.left_changed(whole)
    assert found.severity == "warning"
    assert "--restore" in found.cure
    with pytest.raises(DeviceError, match="was killed"), change.changed(root, planned(whole, "smt=on"), ["true"]):
        pytest.fail("ran all the same")
    moved, foreign = change.restore(root)
    assert {one.setting for one in moved} == {"governor", "turbo", "smt", "perf_events"}
    assert foreign == []
    assert contents(root) == before
    assert change.restore(root) is None
    assert left_over.left_changed(whole) is None


def test_restore_leaves_alone_what_somebody_has_set_since(whole):
    killed(whole, "governor,turbo")
    governor = whole.tree.root / f"{FREQ}/policy0/scaling_governor"
    governor.write_text("schedutil")
    moved, foreign = change.restore(whole.tree.root)
    assert [one.path for one in foreign] == [f"{FREQ}/policy0/scaling_governor"]
    assert governor.read_text() == "schedutil"
    assert {one.path for one in moved} == {f"{FREQ}/policy1/scaling_governor", NO_TURBO}


def test_restore_after_a_boot_has_nothing_to_do(whole):
    killed(whole, ALL)
    for name, text in WHOLE.items():
        (whole.tree.root / name).write_text(f"{text}\n")
    assert change.restore(whole.tree.root) == ([], [])


def test_files_of_a_cpu_that_is_away_until_smt_is_back(whole, monkeypatch):
    """A sibling's policy is there again only once ``smt`` has been put back."""
    killed(whole, "governor,smt")
    root, policy = whole.tree.root, whole.tree.root / f"{FREQ}/policy1"
    away = policy.rename(root / "away")
    write = os.write

    def bring_back(descriptor, data):
        if data == b"on" and Path(f"/proc/self/fd/{descriptor}").readlink().name == "control":
            away.rename(policy)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", bring_back)
    change.restore(root)
    assert (policy / "scaling_governor").read_text() == "powersave"


def test_what_cannot_be_put_back_is_said_with_the_command_and_kept(whole):
    root, smt = whole.tree.root, whole.tree.root / SMT
    with (
        pytest.raises(DeviceError, match="not everything could be put back") as raised,
        change.changed(root, planned(whole, "turbo,smt"), ["true"]),
    ):
        smt.unlink()
    assert f"echo on | sudo tee /{SMT}" in raised.value.hint
    assert (root / NO_TURBO).read_text() == "0", "the others are put back all the same"
    smt.write_text("off")
    moved, _ = change.restore(root)
    assert [one.setting for one in moved] == ["smt"]


def test_a_damaged_journal(whole):
    journal.journal_path(whole.tree.root).parent.mkdir(parents=True)
    journal.journal_path(whole.tree.root).write_text("{")
    assert left_over.left_changed(whole).severity == "cannot_tell"
    with pytest.raises(StorageError):
        change.restore(whole.tree.root)


def test_a_plan_made_while_another_run_had_its_settings_is_refused(whole):
    """Its «before» is that run's value, and putting it back would leave the machine changed for good."""
    root = whole.tree.root
    with change.changed(root, planned(whole, "governor"), ["true"]):
        stale = planned(whole, "turbo,governor=powersave")
    before = contents(root)
    with pytest.raises(DeviceError, match="has changed meanwhile") as raised, change.changed(root, stale, ["true"]):
        pytest.fail("ran all the same")
    assert "again" in raised.value.hint
    assert contents(root) == before
    assert journal.read_journal(root) is None


def test_the_machine_is_not_looked_at_while_another_run_has_its_settings(whole, monkeypatch):
    """That run ends after the look: all was «set so already», and does not stay so."""
    root, other, look = whole.tree.root, contextlib.ExitStack(), subject.look
    other.enter_context(change.changed(root, planned(whole, "turbo"), ["true"]))

    def late_look():
        seen = look(root, root)
        other.close()
        return seen

    monkeypatch.setenv("HWBENCH_SYSFS_ROOT", str(root))
    monkeypatch.setattr("hwbench.doctor.subject.look", late_look)
    monkeypatch.setattr("hwbench.doctor.foreground.run", lambda work: pytest.fail("ran all the same"))
    with other, pytest.raises(DeviceError, match="another"):
        _run_changed(Terminal(quiet=True, verbose=False, no_color=True), ["turbo"], ["true"])
