import msgspec
import pytest

from hwbench.doctor import live
from hwbench.doctor.examine import examine
from hwbench.doctor.subject import Subject, look, read_processes
from hwbench.files import encode, parse_record
from hwbench.records.base import Missing
from hwbench.records.health import HEALTH_SCHEMA, Health, HealthCheck


class FakeClock:
    """Time that passes only when read (a little) or worked."""

    def __init__(self, read_ns=50):
        self.ns = 0
        self.read_ns = read_ns

    def now_ns(self):
        self.ns += self.read_ns
        return self.ns

    def sleep(self, seconds):
        self.ns += round(seconds * 1e9)


def worker(clock, slow=lambda index: 0.0):
    """Work of 100 ns a round; ``slow`` gives the seconds that a call takes longer."""
    calls = iter(range(10**9))

    def work(rounds):
        clock.ns += rounds * 100 + round(slow(next(calls)) * 1e9)

    return work


def test_the_timer_of_a_good_clock():
    found = live.timer(FakeClock())
    assert found.severity == "ok"
    assert found.figures == {"cost_s": pytest.approx(50e-9), "step_s": pytest.approx(50e-9)}


def test_a_slow_clock_and_one_that_stands():
    assert live.timer(FakeClock(5000)).severity == "warning"
    assert live.timer(FakeClock(0)).severity == "cannot_tell"


def test_a_coarse_clock():
    class Coarse(FakeClock):
        def now_ns(self):
            return super().now_ns() // 1_000_000 * 1_000_000

    found = live.timer(Coarse(1000))
    assert found.severity == "warning"
    assert found.figures["step_s"] == pytest.approx(1e-3)
    assert found.figures["cost_s"] == pytest.approx(1e-6, rel=0.1)


def test_even_work_is_no_noise():
    clock = FakeClock()
    found = live.noise(clock, worker(clock))
    assert found.severity == "ok"
    assert found.figures["pieces"] == 100
    assert found.figures["piece_s"] == pytest.approx(0.01, rel=0.01)
    assert clock.ns < 1.2e9


def test_one_stall_is_seen_and_measured():
    clock = FakeClock()
    found = live.noise(clock, worker(clock, lambda index: 0.02 if index == 60 else 0.0))
    assert found.severity == "warning"
    assert found.figures["stall_s"] == pytest.approx(0.02, rel=0.01)
    assert found.figures["spread"] < 1e-3
    assert "stopped" in found.effect


def test_uneven_work_is_a_spread_and_not_a_stall():
    clock = FakeClock()
    found = live.noise(clock, worker(clock, lambda index: 0.001 * (index % 2)))
    assert found.severity == "warning"
    assert found.figures["spread"] > 0.02
    assert "clock" in found.effect


def test_a_machine_that_becomes_slow_does_not_hold_up_for_long():
    clock = FakeClock()
    found = live.noise(clock, worker(clock, lambda index: 0.05 if index > 20 else 0.0))
    assert found.figures["pieces"] < 100
    assert clock.ns < 3e9


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def subject(root, folder):
    found = look(root, folder)
    clock = FakeClock()
    return Subject(
        tree=found.tree, device=found.device, host=found.host, folder=folder, clock=clock, processes=dict
    ), clock  # fmt: skip


@pytest.mark.parametrize("name", ["intel-spr-2s", "amd-epyc-kvm", "graviton3", "jetson-orin-nano", "raspberry-pi-5"])
def test_recorded_machines(host, tmp_path, name):
    found, clock = subject(host(name), tmp_path)
    health = examine(found, work=worker(clock))
    names = [check.name for check in health.checks]
    assert len(names) == len(set(names))
    assert ("jetson_power_mode" in names) == name.startswith("jetson")
    assert {check.name for check in health.warnings} <= set(names)
    assert parse_record(encode(health), Health, schema=HEALTH_SCHEMA, what="it") == health


def test_a_server_with_two_sockets(host, tmp_path):
    root = host("intel-spr-2s")
    write(root, {"proc/self/status": "Cpus_allowed_list:\t0-7", "proc/stat": "cpu 9 0 9 9 0 0 0 0 0 0"})
    found, clock = subject(root, tmp_path)
    warned = {check.name for check in examine(found, work=worker(clock)).warnings}
    assert warned == {"governor", "smt", "numa"}


def test_nothing_is_written(host, tmp_path):
    root = host("intel-spr-2s")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")}
    found, clock = subject(root, tmp_path)
    examine(found, work=worker(clock))
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")} == before


def test_processes_leave_out_this_one():
    import os

    assert os.getpid() not in {pid for pid, _ in read_processes()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"severity": "cannot_tell", "found": "text"},
        {"severity": "ok", "found": Missing(code="x", why="y")},
        {"severity": "warning", "found": "text"},
        {"severity": "warning", "found": "text", "effect": "slow"},
    ],
)
def test_an_answer_without_what_belongs_to_it_is_refused(wrong):
    with pytest.raises((ValueError, msgspec.ValidationError)):
        HealthCheck(name="x", **wrong)
