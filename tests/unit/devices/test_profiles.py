"""Device profiles: the shipped files hold together, devices find theirs, a broken file is only ever a StorageError."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench import plugins
from hwbench.devices.profiles import load_profiles, match_profile, parse_profile, read_profile
from hwbench.errors import StorageError
from hwbench.inventory import find_or_describe
from hwbench.records.base import Missing
from hwbench.records.device import Cpu, Device, DeviceKind, Gpu
from hwbench.records.profile import DeviceProfile, Figure, Match
from hwbench.resources import data_folder

FOLDER = data_folder("profiles")
PROFILES = load_profiles()
GIB = 2**30
NONE = Missing(code="not_told", why="not part of this test")

VALID = """\
schema_version = 1
name = "toy"
title = "Toy"
kind = "cpu"
vendor = "Nobody"
summary = "For tests."
[match]
cpu_model = '^Toy$'
[counts]
cores = { value = 4, basis = "datasheet", source = "leaflet" }
[sources]
leaflet = "The leaflet"
"""


def make_device(
    kind: DeviceKind = "cpu",
    title: str = "a device",
    *,
    cpu_model: str | None = None,
    cpuid: str | None = None,
    gpu: str | None = None,
    memory_gib: float = 8,
    mig: bool = False,
) -> Device:
    cpu = None
    if cpu_model is not None or cpuid is not None:
        cpu = Cpu(
            model_name=cpu_model or "not told",
            vendor="x",
            architecture="x",
            cpuid=cpuid if cpuid is not None else NONE,
            isa=(),
            sockets=1,
            physical_cores=2,
            logical_cpus=2,
            threads_per_core=1,
            usable_cpus=(0, 1),
            usable_cores=(0, 1),
            caches=(),
            numa_nodes=NONE,
            max_hz=NONE,
            governor=NONE,
            turbo=NONE,
            quota_cpus=NONE,
        )
    card = None
    if gpu is not None:
        card = Gpu(
            name=gpu,
            uuid="GPU-0",
            compute_capability=NONE,
            memory_bytes=NONE,
            driver_version=NONE,
            cuda_version=NONE,
            power_limit_w=NONE,
            sm_max_hz=NONE,
            mig=mig,
        )
    return Device(
        name="x",
        kind=kind,
        title=title,
        fingerprint="x",
        profile=NONE,
        cpu=cpu,
        gpu=card,
        memory_bytes=int(memory_gib * GIB),
        memory_limit_bytes=NONE,
        virtual=NONE,
        container=NONE,
        power_mode=NONE,
    )


def x86(model: str, cpuid: str) -> Device:
    return make_device(title=model, cpu_model=model, cpuid=cpuid)


def nvidia(name: str) -> Device:
    return make_device("nvidia", name, gpu=name)


def jetson(tree: str, memory_gib: float) -> Device:
    return make_device("jetson", tree, cpu_model="Cortex-A78AE", cpuid="0x41-0xd42", memory_gib=memory_gib)


def board(tree: str, core: str) -> Device:
    return make_device(title=f"{tree} ({core})", cpu_model=core, cpuid="0x41-0xd0b")


def phone(title: str) -> Device:
    return make_device("android", title)


ORIN_NANO = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"
MACHINES: list[tuple[Device, str | None]] = [
    (x86("AMD EPYC", "AuthenticAMD-25-17-1"), "amd-epyc-genoa"),
    (x86("AMD EPYC 9R14", "AuthenticAMD-25-17-1"), "amd-epyc-genoa"),
    (x86("AMD EPYC-Genoa Processor", "AuthenticAMD-25-17-0"), "amd-epyc-genoa"),
    (x86("AMD EPYC 9554 64-Core Processor", "AuthenticAMD-25-17-1"), "amd-epyc-genoa"),
    (x86("AMD EPYC 9654 96-Core Processor", "AuthenticAMD-25-17-1"), "amd-epyc-9654"),
    (x86("AMD EPYC 9654P 96-Core Processor", "AuthenticAMD-25-17-1"), "amd-epyc-9654"),
    (x86("AMD EPYC 7763 64-Core Processor", "AuthenticAMD-25-1-1"), "amd-epyc-7763"),
    (x86("AMD EPYC 7B13", "AuthenticAMD-25-1-0"), "amd-epyc-milan"),
    (x86("AMD EPYC 7571", "AuthenticAMD-23-1-2"), None),
    (x86("AMD EPYC 9754 128-Core Processor", "AuthenticAMD-25-160-2"), None),
    (x86("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", "GenuineIntel-6-106-6"), "intel-xeon-8380"),
    (x86("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "GenuineIntel-6-106-6"), "intel-xeon-ice-lake"),
    (x86("Intel(R) Xeon(R) Platinum 8380HL CPU @ 2.90GHz", "GenuineIntel-6-85-11"), None),
    (x86("Intel(R) Xeon(R) Platinum 8480+", "GenuineIntel-6-143-8"), "intel-xeon-8480plus"),
    (x86("Intel(R) Xeon(R) Platinum 8480C", "GenuineIntel-6-143-8"), "intel-xeon-sapphire-rapids"),
    (x86("Intel(R) Xeon(R) Platinum 8488C", "GenuineIntel-6-143-8"), "intel-xeon-sapphire-rapids"),
    (x86("INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.30GHz", "GenuineIntel-6-207-2"), None),
    (x86("AMD Ryzen 9 7950X 16-Core Processor", "AuthenticAMD-25-97-2"), "amd-ryzen-9-7950x"),
    (x86("AMD Ryzen 9 7950X3D 16-Core Processor", "AuthenticAMD-25-97-2"), None),
    (x86("13th Gen Intel(R) Core(TM) i9-13900K", "GenuineIntel-6-183-1"), "intel-core-i9-13900k"),
    (x86("13th Gen Intel(R) Core(TM) i9-13900KF", "GenuineIntel-6-183-1"), "intel-core-i9-13900k"),
    (x86("13th Gen Intel(R) Core(TM) i9-13900KS", "GenuineIntel-6-183-1"), None),
    (x86("Neoverse-V1", "0x41-0xd40"), "aws-graviton3"),
    (board("Amazon EC2 c6gn.xlarge", "Neoverse-N1"), "aws-graviton2"),
    (board("Amazon EC2 t4g.micro", "Neoverse-N1"), "aws-graviton2"),
    (board("Amazon EC2 c7g.large", "Neoverse-V1"), "aws-graviton3"),
    (board("Amazon EC2 r8g.metal-24xl", "Neoverse-V2"), "aws-graviton4"),
    (x86("Ampere(R) Altra(R) Processor Q80-30 CPU @ 3.0GHz", "0x41-0xd0c"), "ampere-altra-q80-30"),
    (x86("Neoverse-N1", "0x41-0xd0c"), None),
    (x86("Neoverse-V2", "0x41-0xd4f"), None),
    (x86("Apple M1", ""), "apple-m1"),
    (x86("Apple M1 Pro", ""), None),
    (board("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72"), "raspberry-pi-4"),
    (board("Raspberry Pi 5 Model B Rev 1.0", "Cortex-A76"), "raspberry-pi-5"),
    (board("Raspberry Pi 500 Rev 1.0", "Cortex-A76"), None),
    (board("Raspberry Pi 3 Model B Plus Rev 1.3", "Cortex-A53"), None),
    (nvidia("Tesla T4"), "nvidia-t4"),
    (nvidia("NVIDIA A10"), "nvidia-a10"),
    (nvidia("NVIDIA A10G"), None),
    (nvidia("NVIDIA A30"), "nvidia-a30"),
    (nvidia("NVIDIA A100-SXM4-40GB"), "nvidia-a100-sxm-40gb"),
    (nvidia("NVIDIA A100-PCIE-40GB"), "nvidia-a100-pcie-40gb"),
    (nvidia("NVIDIA A100-SXM4-80GB"), "nvidia-a100-sxm-80gb"),
    (nvidia("NVIDIA A100 80GB PCIe"), "nvidia-a100-pcie-80gb"),
    (nvidia("NVIDIA L4"), "nvidia-l4"),
    (nvidia("NVIDIA L40"), None),
    (nvidia("NVIDIA L40S"), "nvidia-l40s"),
    (nvidia("NVIDIA GeForce RTX 3090"), "nvidia-rtx-3090"),
    (nvidia("NVIDIA GeForce RTX 3090 Ti"), None),
    (nvidia("NVIDIA GeForce RTX 4090"), "nvidia-rtx-4090"),
    (nvidia("NVIDIA GeForce RTX 4090 D"), None),
    (nvidia("NVIDIA H100 PCIe"), "nvidia-h100-pcie"),
    (nvidia("NVIDIA H100 80GB HBM3"), "nvidia-h100-sxm"),
    (nvidia("NVIDIA H200"), "nvidia-h200"),
    (nvidia("NVIDIA H200 NVL"), None),
    (nvidia("NVIDIA B200"), "nvidia-b200"),
    (jetson("NVIDIA Jetson Nano Developer Kit (p3448-0000, L4T 32.7.4)", 3.9), "jetson-nano"),
    (jetson("NVIDIA Jetson Nano 2GB Developer Kit", 1.9), None),
    (jetson("NVIDIA Jetson Xavier NX Developer Kit", 7.6), "jetson-xavier-nx"),
    (jetson("Jetson-AGX (p2888-0001, L4T 32.7.4)", 31.2), "jetson-agx-xavier"),
    (jetson("NVIDIA Jetson AGX Xavier Developer Kit", 31.2), "jetson-agx-xavier"),
    (jetson("NVIDIA Jetson Orin Nano Developer Kit", 7.2), "jetson-orin-nano-8gb"),
    (jetson(f"{ORIN_NANO} (p3767-0005, L4T 36.3.0)", 7.4), "jetson-orin-nano-8gb"),
    (jetson(f"{ORIN_NANO} Super", 7.4), "jetson-orin-nano-super"),
    (jetson(f"{ORIN_NANO} Super (p3767-0004, L4T 36.4.3)", 3.4), None),
    (jetson("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 15.3), "jetson-orin-nx-16gb"),
    (jetson("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 7.4), None),
    (jetson("NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super", 15.3), "jetson-orin-nx-16gb-super"),
    (jetson("NVIDIA Jetson AGX Orin Developer Kit (p3701-0004, L4T 36.4.3)", 29.9), "jetson-agx-orin-32gb"),
    (jetson("NVIDIA Jetson AGX Orin Developer Kit (p3701-0005, L4T 36.4.3)", 61.4), "jetson-agx-orin-64gb"),
    (jetson("NVIDIA Jetson AGX Orin Developer Kit (p3701-0000, L4T 35.4.1)", 29.8), None),
    (jetson("NVIDIA Jetson AGX Thor Developer Kit (p3834-0008, L4T 38.2.1)", 122.8), "jetson-t5000"),
    (jetson("NVIDIA Jetson AGX Thor Developer Kit", 60.0), "jetson-t4000"),
    (phone("Google Pixel 8 (Google Tensor G3)"), "google-pixel-8"),
    (phone("Google Pixel 9 (Google Tensor G4)"), "google-pixel-9"),
    (phone("Google Pixel 10 Pro (Google Tensor G5)"), "google-pixel-10-pro"),
    (phone("samsung SM-S911B (QTI SM8550)"), "samsung-galaxy-s23"),
    (phone("samsung SM-S921U (QTI SM8650)"), "samsung-galaxy-s24"),
    (phone("samsung SM-S921B (Samsung s5e9945)"), None),
    (phone("samsung SM-S931B (QTI SM8750)"), "samsung-galaxy-s25"),
    (phone("OnePlus CPH2449 (QTI SM8550)"), None),
    (phone("Xiaomi 25053PC47G (QTI SM8735)"), "xiaomi-poco-f7"),
    (phone("vivo V2308A (Mediatek MT6989)"), "mediatek-dimensity-9300"),
]


def by_name(items: dict[str, DeviceProfile]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("profile", items.values(), ids=items.keys())


def test_there_are_many_and_each_is_named_after_its_file() -> None:
    files = {path.stem for path in FOLDER.glob("*.toml")}
    assert len(PROFILES) >= 34
    assert set(PROFILES) == files
    assert all(profile.name == name for name, profile in PROFILES.items())


def test_reading_them_all_is_quick() -> None:
    # 0.04 s when alone on the machine; the bound only catches a change of order, and the best of three ignores noise.
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        load_profiles()
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.25


@by_name(PROFILES)
def test_every_source_is_used_and_no_figure_goes_without(profile: DeviceProfile) -> None:
    assert {figure.source for _, figure in profile.figures()} == set(profile.sources)
    assert all(len(text) >= 10 for text in profile.sources.values())


BOUNDS = {
    "counts": (1, 1e5),
    "clock_hz": (1e8, 1.2e10),
    "peak_ops_per_s": (1e10, 2e16),
    "bandwidth_bytes_per_s": (1e9, 2e13),
    "capacity_bytes": (1e5, 1e12),
    "power_w": (0.5, 2000),
}
MODE_BOUNDS = {"budget_w": "power_w", "cpu_cores": "counts", "gpu_sm": "counts"}


@by_name(PROFILES)
def test_figures_are_plausible(profile: DeviceProfile) -> None:
    for where, figure in profile.figures():
        table, _, key = where.partition(".")
        low, high = BOUNDS[table if table in BOUNDS else MODE_BOUNDS.get(key, "clock_hz")]
        for value in (figure.value, figure.low, figure.high):
            assert value is None or low <= value <= high, where


def evaluate(formula: str, figures: dict[str, Figure]) -> float:
    """Compute a formula of a note; it holds numbers, figures by path, ``+ * /`` and brackets."""
    text = re.sub(r"[a-z_]+\.[a-z]\w*", lambda match: repr(float(figures[match[0]].value)), formula)
    assert re.fullmatch(r"[\d.e+*/() -]+", text), f"'{formula}' is not a formula"
    return float(eval(text, {"__builtins__": {}}))


@by_name(PROFILES)
def test_derived_figures_are_what_their_formula_gives(profile: DeviceProfile) -> None:
    figures = dict(profile.figures())
    for where, figure in figures.items():
        formula = (figure.note or "").partition(";")[0]
        if figure.basis == "derived" or re.match(r"(counts|clock_hz|power_w|peak_ops_per_s)\.\w+ [*/+]", formula):
            assert figure.value == pytest.approx(evaluate(formula, figures), rel=2e-3), where


def test_the_formula_check_can_fail() -> None:
    figures = dict(PROFILES["amd-epyc-9654"].figures())
    assert evaluate("counts.cores * clock_hz.base * 32", figures) == pytest.approx(96 * 2.4e9 * 32)
    with pytest.raises(KeyError):
        evaluate("counts.no_such_figure * 2", figures)
    with pytest.raises(AssertionError):
        evaluate("cores times clock", figures)


@by_name({name: profile for name, profile in PROFILES.items() if profile.kind in {"cpu", "board"}})
def test_a_cpu_has_power_or_says_why_not(profile: DeviceProfile) -> None:
    for key in ("tdp", "tdp_per_core"):
        told = key in profile.power_w or f"power_w.{key}" in profile.unknown or "power_w.tdp" in profile.unknown
        assert told, f"neither power_w.{key} nor a reason"


@by_name({name: profile for name, profile in PROFILES.items() if profile.kind == "jetson"})
def test_power_modes_stay_within_the_module(profile: DeviceProfile) -> None:
    assert profile.power_modes or "power_modes" in profile.unknown
    assert sum(mode.default for mode in profile.power_modes) <= 1
    limits = {
        "cpu_cores": profile.counts["cpu_cores"],
        "gpu_sm": profile.counts["gpu_sm"],
        "gpu_max_hz": profile.clock_hz.get("gpu"),
        "cpu_max_hz": profile.clock_hz.get("cpu"),
        "budget_w": profile.power_w["tdp"],
    }
    for mode in profile.power_modes:
        for field, limit in limits.items():
            figure = getattr(mode, field)
            assert figure is None or limit is None or figure.value <= limit.value * 1.01, f"{mode.name}.{field}"


def test_a_tensor_gpu_peak_agrees_with_what_nvidia_prints() -> None:
    printed = {"nvidia-t4": 65e12, "nvidia-a10": 125e12, "nvidia-a30": 165e12, "nvidia-a100-sxm-80gb": 312e12}
    printed |= {"nvidia-h100-pcie": 756e12, "nvidia-h100-sxm": 989e12, "nvidia-h200": 989e12, "nvidia-l4": 121e12}
    for name, peak in printed.items():
        assert PROFILES[name].peak_ops_per_s["fp16"].value == pytest.approx(peak, rel=5e-3), name


@pytest.mark.parametrize(("device", "expected"), MACHINES, ids=lambda item: getattr(item, "title", None))
def test_a_machine_finds_its_profile_and_no_other(device: Device, expected: str | None) -> None:
    found = match_profile(device, PROFILES)
    if expected is None:
        assert isinstance(found, Missing)
        assert found.code == "no_profile"
        assert found.cure is not None
    else:
        assert found == expected


def test_every_profile_is_found_by_some_machine() -> None:
    assert {name for _, name in MACHINES if name is not None} == set(PROFILES)


def test_the_cpu_of_a_jetson_is_not_the_jetson() -> None:
    cpu = make_device("cpu", f"{ORIN_NANO} Super (Cortex-A78AE)", cpu_model="Cortex-A78AE", cpuid="0x41-0xd42")
    assert isinstance(match_profile(cpu, PROFILES), Missing)


def test_a_part_of_a_gpu_is_not_the_gpu() -> None:
    whole, part = nvidia("NVIDIA H200"), make_device("nvidia", "NVIDIA H200 (MIG)", gpu="NVIDIA H200", mig=True)
    assert match_profile(whole, PROFILES) == "nvidia-h200"
    found = match_profile(part, PROFILES)
    assert isinstance(found, Missing)
    assert "MIG" in found.why


def test_two_fitting_profiles_are_an_error_of_the_profiles() -> None:
    profile = parse_profile(VALID.encode(), what="toy")
    found = match_profile(make_device(cpu_model="Toy"), {"one": profile, "two": profile})
    assert isinstance(found, Missing)
    assert (found.code, "one, two" in found.why) == ("ambiguous_profile", True)


def test_a_profile_without_conditions_fits_nothing() -> None:
    text = VALID.replace("cpu_model = '^Toy$'\n", "min_memory_bytes = 1.0\n")
    profile = parse_profile(text.encode(), what="toy")
    assert isinstance(match_profile(make_device(cpu_model="Toy"), {"toy": profile}), Missing)


def test_unknown_memory_fits_no_memory_bound() -> None:
    import msgspec

    device = jetson("NVIDIA Jetson AGX Orin Developer Kit", 61.4)
    assert match_profile(device, PROFILES) == "jetson-agx-orin-64gb"
    assert isinstance(match_profile(msgspec.structs.replace(device, memory_bytes=NONE), PROFILES), Missing)


def test_a_condition_must_be_a_regular_expression() -> None:
    with pytest.raises(ValueError, match="cpuid is not a regular expression"):
        Match(cpuid="(")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("schema_version = 1", "schema_version = ", "not TOML"),
        ("schema_version = 1", "schema_version = 2", "newer hwbench"),
        ("schema_version = 1", "schema_version = 0", "no upgrade"),
        ("schema_version = 1", "schema_version = true", "no schema_version"),
        ("schema_version = 1\n", "", "no schema_version"),
        ('title = "Toy"', "title = 3", r"\$\.title"),
        ('kind = "cpu"', 'kind = "tpu"', r"\$\.kind"),
        ('vendor = "Nobody"', 'vendors = "Nobody"', "vendor"),
        ("value = 4", "value = -4", r"\$\.counts"),
        ("value = 4", "value = nan", r"\$\.counts"),
        ("value = 4", 'value = "4"', r"\$\.counts"),
        ("value = 4", "value = 4, low = 5", r"\$\.counts"),
        ('basis = "datasheet"', 'basis = "hearsay"', r"\$\.counts"),
        ('basis = "datasheet"', 'basis = "derived"', "formula"),
        ('source = "leaflet"', 'source = "rumour"', "rumour"),
        ("'^Toy$'", "'('", "regular expression"),
        ('name = "toy"', 'name = "Toy 1"', "lower-case"),
    ],
)
def test_a_fault_is_named_with_file_and_place(tmp_path: Path, old: str, new: str, fault: str) -> None:
    path = tmp_path / "toy.toml"
    assert old in VALID
    path.write_text(VALID.replace(old, new), encoding="utf-8")
    with pytest.raises(StorageError, match=fault) as caught:
        read_profile(path)
    assert str(path) in caught.value.message


def test_a_good_file_is_read_and_its_name_must_be_the_files(tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(VALID, encoding="utf-8")
    assert load_profiles(tmp_path)["toy"].counts["cores"].value == 4
    (tmp_path / "game.toml").write_text(VALID, encoding="utf-8")
    with pytest.raises(StorageError, match="same name"):
        load_profiles(tmp_path)


def test_a_missing_file_or_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing"):
        read_profile(tmp_path / "nothing.toml")
    with pytest.raises(StorageError, match="no folder"):
        load_profiles(tmp_path / "nowhere")


def test_a_file_that_is_not_utf8_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="not TOML"):
        parse_profile(b"\xff\xfe" + VALID.encode(), what="toy")


SEED = (FOLDER / "jetson-orin-nano-super.toml").read_bytes()
FRAGMENTS = [
    b"nan",
    b"inf",
    b"1e999",
    b"-1",
    b"0",
    b'"',
    b"'",
    b"[",
    b"]",
    b"[[x]]",
    b"=",
    b"{",
    b"\n",
    b"\x00",
    b"\xc3",
]
FRAGMENTS += [
    b"9" * 30,
    b"9" * 5000,
    b"[" * 2000,
    b"2026-01-01",
    b"0x",
    b"true",
    b"a.b.c = 1\n",
    b"name = 1\n",
    b"(",
    b"{9}",
]
EDITS = st.lists(
    st.tuples(st.integers(0, len(SEED)), st.integers(0, 40), st.sampled_from(FRAGMENTS) | st.binary(max_size=6)),
    min_size=1,
    max_size=4,
)
NUMBERS = [match.span(1) for match in re.finditer(rb"(?:value|id|version) = ([\d.e]+)", SEED)]


def parse_or_refuse(data: bytes) -> None:
    with contextlib.suppress(StorageError):
        parse_profile(data, what="mutated")


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(edits=EDITS)
def test_a_damaged_file_is_only_ever_a_storage_error(edits: list[tuple[int, int, bytes]]) -> None:
    data = SEED
    for position, length, insert in edits:
        data = data[:position] + insert + data[position + length :]
    parse_or_refuse(data)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(span=st.sampled_from(NUMBERS), literal=st.sampled_from(FRAGMENTS) | st.integers().map(lambda i: str(i).encode()))
def test_a_strange_number_is_only_ever_a_storage_error(span: tuple[int, int], literal: bytes) -> None:
    parse_or_refuse(SEED[: span[0]] + literal + SEED[span[1] :])


@pytest.mark.parametrize("name", sorted(name for name, each in PROFILES.items() if each.kind in {"gpu", "jetson"}))
def test_the_engines_of_a_gpu_run_on_gpus(name):
    model = SimpleNamespace(artefact=None)
    files = SimpleNamespace(no_graph=None, torch_source="net.py:net")
    device = find_or_describe(name).device
    for engine in PROFILES[name].engines:
        reasons = plugins.load("engines", engine).supports(model, files, device).reasons
        assert "wrong_device" not in {reason.code for reason in reasons}, engine
