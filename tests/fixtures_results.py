"""Synthetic results for tests of everything that reads a ``ProfileResult``: seeded, complete, no measuring.

``full_result()`` has a bit of everything: four engines (one valid and best, one suspect, one invalid), values that are
missing, an energy estimate, findings, an engine that failed and one that does not apply. ``hostile_result()`` is the
same with markup in every string that comes from outside.
"""

from __future__ import annotations

import random

import msgspec

from hwbench import stats
from hwbench.records.base import Missing
from hwbench.records.device import Cache, Cpu, Device, Environment, HostState, PackageVersion
from hwbench.records.energy import EnergyEstimate, EnergyReading
from hwbench.records.measurement import (
    PROFILE_RESULT_SCHEMA,
    STREAMING,
    Built,
    BuiltLayer,
    Finding,
    LayerTable,
    LayerTime,
    Measurement,
    Memory,
    NotMeasured,
    Parity,
    Phases,
    ProfileRequest,
    ProfileResult,
    RunSettings,
    StopRule,
    Throughput,
    validity,
)
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import Layer, Model, TensorSpec

HOSTILE = "</script><img src=x onerror=alert(1)>[bold]&\u2028{{7*7}}"
MIB = 2**20
WARMUP = StopRule(name="time", settings={"seconds": 2.0})
STOP = StopRule(name="relative-interval", settings={"target": 0.01, "min_samples": 100.0, "max_seconds": 20.0})
NO_ENERGY = Missing(
    code="permission_denied",
    why="RAPL counters are readable by root only",
    cure="chmod a+r the energy_uj files, or run as root",
)
NO_THROUGHPUT = Missing(code="other_mode", why="latency mode was asked for")
NO_LATENCY = Missing(code="other_mode", why="throughput mode was asked for")


def make_samples(median_s: float, *, n: int = 600, seed: int = 0, tail: float = 1.6, noise: float = 0.02) -> list[int]:
    """Return samples like a CPU's: a narrow core, a slow drift, one sample in 50 in the tail."""
    chance = random.Random(seed)
    samples = []
    for index in range(n):
        value = median_s * (1 + noise * chance.gauss(0, 1) + 0.01 * index / n)
        if chance.random() < 0.02:
            value *= 1 + (tail - 1) * chance.random()
        samples.append(max(1, round(value * 1e9)))
    return samples


def make_host(at_s: float, **changes) -> HostState:
    state = HostState(
        monotonic_s=at_s,
        load_1min=0.4 + at_s / 100,
        cpu_hz=(3.4e9, 3.3e9),
        temperature_c=54.0 + at_s / 10,
        throttle_events=Missing(code="not_exposed", why="this kernel does not count throttle events"),
        steal_s=0.1 + at_s / 1000,
        busy_s=at_s * 4,
        memory_available_bytes=12_000 * MIB,
        swap_out_bytes=0,
        governor="schedutil",
    )
    return msgspec.structs.replace(state, **changes)


LAYERS: tuple[tuple[str, str, int, int, int], ...] = tuple(
    [("features.0", "Conv", 10_838_016, 864, 2_200_000)]
    + [
        (f"features.{block}.{part}", op, macs, parameters, moved)
        for block in range(1, 9)
        for part, op, macs, parameters, moved in (
            ("expand", "Conv", 9_600_000 + 700_000 * block, 9_000 * block, 900_000 + 40_000 * block),
            ("depthwise", "Conv", 1_900_000 + 50_000 * block, 1_100 * block, 1_300_000),
            ("add", "Add", 0, 0, 700_000),
        )
    ]
    + [("pool", "GlobalAveragePool", 62_720, 0, 260_000), ("classifier", "Gemm", 1_280_000, 1_281_000, 5_134_000)]
)


def make_model(name: str = "mobilenet_v2", **changes) -> Model:
    layers = [
        Layer(
            name=layer,
            op=op,
            module=layer.rpartition(".")[0] or layer,
            inputs=("x",),
            outputs=("y",),
            parameters=parameters,
            macs=macs,
            moved_bytes=moved,
        )
        for layer, op, macs, parameters, moved in LAYERS
    ]
    layers.append(
        Layer(
            name="post.nms",
            op="NonMaxSuppression",
            module=None,
            inputs=("y",),
            outputs=("z",),
            parameters=0,
            macs=Missing(code="no_rule", why="no cost rule for NonMaxSuppression"),
            moved_bytes=Missing(code="dynamic_shape", why="the output's size depends on the data"),
        )
    )
    model = Model(
        name=name,
        source="zoo:mobilenet_v2",
        kind="zoo",
        source_sha256=Missing(code="generated", why="built from code, there is no file"),
        hub_sha256="9f2c" * 16,
        weights="untrained",
        opset=18,
        inputs=(TensorSpec(name="input", dtype="float32", shape=(1, 3, 224, 224)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=(1, 1000)),),
        input_origin="random",
        inputs_sha256="1" * 64,
        arithmetic="fp32",
        batch_size=1,
        fixed_axes={"N": 1},
        layers=tuple(layers),
        parameters=3_504_872,
        weight_bytes=14_019_488,
        warnings=("the dynamic axis N was fixed to 1",),
    )
    return msgspec.structs.replace(model, **changes)


def make_device(title: str = "Intel Xeon Platinum 8481C, 2 cores", **changes) -> Device:
    missing = Missing(code="hidden", why="the hypervisor hides it")
    device = Device(
        name="cpu",
        kind="cpu",
        title=title,
        fingerprint="cpu-5f1d20c3a7be",
        profile="xeon-8481c",
        cpu=Cpu(
            model_name="Intel(R) Xeon(R) Platinum 8481C",
            vendor="GenuineIntel",
            architecture="x86_64",
            cpuid="GenuineIntel-6-143-8",
            isa=("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
            sockets=1,
            physical_cores=2,
            logical_cpus=4,
            threads_per_core=2,
            usable_cpus=(0, 1, 2, 3),
            usable_cores=(0, 2),
            caches=(Cache(level=2, type="unified", size_bytes=2 * MIB, shared_by=2, count=2),),
            numa_nodes=1,
            max_hz=missing,
            governor=missing,
            turbo=missing,
            quota_cpus=Missing(code="no_limit", why="no CPU limit is set"),
        ),
        memory_bytes=16 * 2**30,
        memory_limit_bytes=Missing(code="no_limit", why="no memory limit is set"),
        virtual="kvm",
        container=Missing(code="none", why="not in a container"),
        power_mode=Missing(code="not_applicable", why="only Jetson has power modes"),
    )
    return msgspec.structs.replace(device, **changes)


def make_settings(mode: str = "latency", **changes) -> RunSettings:
    settings = RunSettings(
        mode=mode,
        threads=2,
        streams=2 if mode in STREAMING else 1,
        cpus=(0, 2),
        warmup=WARMUP,
        stop=STOP,
        layers=True,
        meter="rapl",
        seed=0,
    )
    return msgspec.structs.replace(settings, **changes)


def make_layers(median_s: float, precision: str, *, fused: bool, unattributed: float = 0.06) -> LayerTable:
    """Return a table that adds up to ``median_s``; ``fused`` puts each Add into the convolution before it."""
    chance = random.Random(len(precision))
    rows: list[tuple[BuiltLayer, float, int | Missing, int | Missing]] = []
    pending = list(LAYERS)
    if fused:
        rows.append(
            (
                BuiltLayer(
                    name="reorder_in",
                    op="Reorder",
                    members=(),
                    kernel=Missing(code="not_reported", why="the runtime does not name the kernel"),
                    precision=precision,
                ),
                0.6,
                Missing(code="inserted", why="inserted by the runtime, no layer of the model"),
                Missing(code="inserted", why="inserted by the runtime, no layer of the model"),
            )
        )
    while pending:
        name, op, macs, _, moved = pending.pop(0)
        members = [name]
        if fused and pending and pending[0][1] == "Add":
            members.append(pending.pop(0)[0])
        unit = BuiltLayer(
            name="+".join(members) if fused else name,
            op=op,
            members=tuple(members),
            kernel=f"brgemm_avx512_{precision}" if fused else Missing(code="not_reported", why="no kernel names here"),
            precision=precision,
        )
        rows.append((unit, macs / 5e6 + moved / 1e6 * (0.6 + chance.random()), macs, moved))
    total = sum(cost for _, cost, _, _ in rows)
    attributed = median_s * (1 - unattributed)
    times = tuple(
        LayerTime(
            unit=unit,
            measured_s=attributed * cost / total * 1.03,
            scaled_s=attributed * cost / total,
            share=(1 - unattributed) * cost / total,
            macs=macs,
            moved_bytes=moved,
        )
        for unit, cost, macs, moved in rows
    )
    return LayerTable(
        iterations=50,
        median_s=median_s,
        profiled_median_s=median_s * 1.03,
        profiling_overhead=0.03,
        rows=times,
        unattributed_s=median_s - sum(row.scaled_s for row in times),
        method="the runtime's own per-node profiler, 50 inferences in a run of their own",
    )


def make_measurement(
    engine: str = "onnxruntime",
    asked: str = "fp32",
    built: str | None = None,
    *,
    median_s: float = 4.5e-3,
    n: int = 600,
    mode: str = "latency",
    findings: tuple[Finding, ...] = (),
    seed: int = 0,
    **changes,
) -> Measurement:
    """Return one measurement; ``changes`` replaces any field."""
    samples = make_samples(median_s, n=n, seed=seed)
    built = built or asked
    fused = engine == "openvino"
    measurement = Measurement(
        engine=engine,
        precision_asked=asked,
        settings=make_settings(mode),
        built=Built(
            engine=engine,
            version="2025.4",
            precision=built,
            execution_units=("CPU",),
            threads=2,
            settings={"INFERENCE_PRECISION_HINT": built},
            layers=Missing(code="not_asked", why="layers were not asked for"),
        ),
        started_at="2026-11-22T10:15:00Z",
        phases=Phases(load_s=0.081, compile_s=0.42, first_inference_s=median_s * 3),
        warmup_ns=tuple(make_samples(median_s * 1.2, n=40, seed=seed + 1)),
        samples_ns=tuple(samples),
        timed_region="inputs in host memory to outputs in host memory, one call",
        clock="perf_counter_ns",
        stopped_by="relative-interval",
        target_reached=True,
        window_s=sum(samples) / 1e9,
        process_cpu_s=sum(samples) / 1e9 * 1.9,
        latency=stats.summarize(samples) if mode != "throughput" else NO_LATENCY,
        throughput=make_throughput(median_s) if mode == "throughput" else NO_THROUGHPUT,
        outputs_finite=True,
        memory=Memory(
            baseline_rss_bytes=180 * MIB,
            baseline_pss_bytes=150 * MIB,
            loaded_rss_bytes=236 * MIB,
            loaded_pss_bytes=205 * MIB,
            peak_load_rss_bytes=291 * MIB,
            peak_run_rss_bytes=262 * MIB,
            model_file_bytes=14_019_488,
            method="smaps_rollup; peaks from VmHWM, reset between the phases",
        ),
        runtime_memory=RuntimeMemory(
            weights_bytes=14_019_488,
            activations_bytes=10 * MIB,
            workspace_bytes=Missing(code="not_told", why="this runtime does not tell its scratch memory"),
            arena_bytes=18 * MIB,
            method="allocator statistics",
        ),
        energy=NO_ENERGY,
        energy_per_inference_j=NO_ENERGY,
        energy_estimate=Missing(code="no_power", why="no power figure is known for this device"),
        parity=make_parity(2.1e-6, 4.4e-7),
        layers=make_layers(median_s, built, fused=fused) if mode == "latency" else NO_LATENCY,
        host_before=make_host(10),
        host_after=make_host(32),
        validity=validity(findings),
    )
    return msgspec.structs.replace(measurement, **changes)


def make_parity(max_absolute: float, max_relative: float) -> Parity:
    return Parity(
        reference="torch-eager fp32",
        reference_precision="fp32",
        max_absolute=max_absolute,
        max_relative=max_relative,
        finite=True,
    )


def make_throughput(median_s: float, *, streams: int = 2) -> Throughput:
    rates = tuple(streams / median_s * (1 + 0.01 * (index % 3 - 1)) for index in range(10))
    rate = sum(rates) / len(rates)
    return Throughput(
        streams=streams,
        batch_size=1,
        inferences=round(rate * 10),
        window_s=10.0,
        inferences_per_s=rate,
        low_per_s=rate * 0.994,
        high_per_s=rate * 1.006,
        items_per_s=rate,
        sub_window_per_s=rates,
    )


def make_energy(per_inference_j: float, samples: int) -> dict[str, object]:
    """Return the two energy fields of a measurement, as ``make_measurement(**...)`` takes them."""
    reading = EnergyReading(
        meter="rapl",
        boundary="CPU package, idle not subtracted",
        provenance="vendor_modelled",
        energy_j=per_inference_j * samples,
        window_s=10.0,
        relative_uncertainty=0.05,
        domains_j={"dram": per_inference_j * samples * 0.2},
        update_period_s=0.001,
        clock="CLOCK_MONOTONIC",
        flags=("other processes ran in the window",),
    )
    return {"energy": reading, "energy_per_inference_j": per_inference_j}


def make_estimate(per_inference_j: float) -> EnergyEstimate:
    return EnergyEstimate(
        method="utilisation x rated power",
        boundary="CPU package",
        energy_per_inference_j=per_inference_j,
        low_j=per_inference_j * 0.4,
        high_j=per_inference_j * 1.9,
        inputs={"rated_power_w": "350, datasheet"},
    )


DRIFT = Finding(
    severity="warning",
    code="frequency_drift",
    why="the clock fell by 8% between the first and the last quarter of the samples",
    cure="fix the frequency: cpupower frequency-set -g performance",
)
STOLEN = Finding(
    severity="invalid",
    code="steal",
    why="the hypervisor took 12% of the CPU time during the timed window",
    cure="measure on a dedicated host",
)


def make_result(*measurements: Measurement, **changes) -> ProfileResult:
    """Return a result holding ``measurements``; ``changes`` replaces any field."""
    result = ProfileResult(
        schema_version=PROFILE_RESULT_SCHEMA,
        run_id="20261122-101500-mobilenet_v2",
        created_at="2026-11-22T10:15:00Z",
        status="complete",
        request=ProfileRequest(
            model="zoo:mobilenet_v2",
            device="cpu",
            engines=("torch-eager", "torch-compile", "onnxruntime", "openvino", "tensorrt"),
            precisions=(),
            mode=measurements[0].settings.mode if measurements else "latency",
            batch_size=1,
            shapes={"input": (1, 3, 224, 224)},
            input_data=None,
            threads=2,
            streams=1,
            warmup=WARMUP,
            stop=STOP,
            layers=True,
            meter="rapl",
            seed=0,
            timeout_s=600.0,
        ),
        environment=Environment(
            hwbench="0.1.0",
            python="3.12.3",
            os="Debian GNU/Linux 12",
            kernel="6.1.0-28-cloud-amd64",
            libc="glibc 2.36",
            packages=(
                PackageVersion(name="onnxruntime", version="1.24.1"),
                PackageVersion(name="openvino", version="2025.4"),
                PackageVersion(name="torch", version="2.13.0"),
            ),
        ),
        device=make_device(),
        model=make_model(),
        measurements=tuple(measurements),
        not_measured=(),
        peak_ops_per_s={"fp32": 2.6e11, "bf16": 1.9e12, "int8": 3.8e12},
        bandwidth_bytes_per_s={"l2": 2.2e11, "dram": 2.1e10},
        roofline_source="measured here by 'hwbench calibrate' on 2026-11-20, 2 threads",
    )
    return msgspec.structs.replace(result, **changes)


def full_result(*, scale: float = 1.0, **changes) -> ProfileResult:
    """Return a result with everything in it; ``scale`` multiplies every time."""
    measurements = (
        make_measurement(
            "torch-eager",
            median_s=9.8e-3 * scale,
            seed=10,
            parity=Missing(code="is_reference", why="the other engines are compared with this one"),
            energy_estimate=make_estimate(0.21),
        ),
        make_measurement(
            "torch-compile",
            median_s=6.3e-3 * scale,
            seed=20,
            findings=(STOLEN,),
            n=120,
            phases=Phases(
                load_s=0.06,
                compile_s=Missing(code="in_first_inference", why="torch compiles during the first inference"),
                first_inference_s=14.2,
            ),
            layers=Missing(code="no_profiler", why="compiled code has no per-layer clock", cure="use torch-eager"),
        ),
        make_measurement("onnxruntime", median_s=4.52e-3 * scale, seed=30, n=1200, **make_energy(0.113, 1200)),
        make_measurement(
            "openvino",
            "auto",
            "bf16",
            median_s=2.31e-3 * scale,
            seed=40,
            n=9000,
            findings=(DRIFT,),
            parity=make_parity(0.031, 0.0062),
            **make_energy(0.058, 9000),
        ),
    )
    not_measured = (
        NotMeasured(
            engine="tensorrt",
            precision="fp16",
            reason=Missing(
                code="no_gpu", why="TensorRT needs an NVIDIA GPU", cure="pass --device cuda:0 on a GPU host"
            ),
            failed=False,
        ),
        NotMeasured(
            engine="openvino",
            precision="int8",
            reason=Missing(code="crashed", why="the worker was killed by signal 9 while compiling"),
            failed=True,
            log="compiling...\nKilled",
        ),
    )
    return make_result(*measurements, **({"not_measured": not_measured} | changes))


def throughput_result() -> ProfileResult:
    return make_result(
        make_measurement("onnxruntime", mode="throughput", median_s=4.5e-3, seed=3, **make_energy(0.113, 600)),
        make_measurement("openvino", "auto", "bf16", mode="throughput", median_s=2.3e-3, seed=4),
    )


def hostile_result() -> ProfileResult:
    """Return a result with markup in every string that a model, a runtime or a machine could put there."""
    result = full_result()
    finding = msgspec.structs.replace(DRIFT, why=HOSTILE, cure=HOSTILE)
    measurement = result.measurements[3]
    table = measurement.layers
    assert isinstance(table, LayerTable)
    unit = msgspec.structs.replace(
        table.rows[0].unit, name=HOSTILE, op=HOSTILE, members=(HOSTILE,), kernel=HOSTILE, precision=HOSTILE
    )
    rows = (msgspec.structs.replace(table.rows[0], unit=unit), *table.rows[1:])
    measurement = msgspec.structs.replace(
        measurement,
        engine=HOSTILE,
        precision_asked=HOSTILE,
        timed_region=HOSTILE,
        built=msgspec.structs.replace(measurement.built, precision=HOSTILE, notes=(HOSTILE,)),
        layers=msgspec.structs.replace(table, rows=rows, method=HOSTILE),
        validity=validity((finding,)),
        energy_per_inference_j=Missing(code="x", why=HOSTILE, cure=HOSTILE),
        energy_estimate=msgspec.structs.replace(make_estimate(0.1), method=HOSTILE, boundary=HOSTILE),
    )
    return msgspec.structs.replace(
        result,
        run_id=HOSTILE,
        model=make_model(HOSTILE, source=HOSTILE, warnings=(HOSTILE,)),
        device=make_device(HOSTILE),
        measurements=(*result.measurements[:3], measurement),
        not_measured=(
            NotMeasured(
                engine=HOSTILE, precision=HOSTILE, reason=Missing(code="x", why=HOSTILE), failed=True, log=HOSTILE
            ),
        ),
        roofline_source=HOSTILE,
        request=msgspec.structs.replace(result.request, model=HOSTILE),
    )
