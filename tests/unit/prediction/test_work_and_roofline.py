"""What a network has to do, and what that takes on a machine: against counts and formulas worked out by hand."""

import math

import numpy as np
import onnx_ir as ir
import pytest

from hwbench.devices.profiles import load_profiles
from hwbench.errors import Unsupported, UsageError
from hwbench.graph.count import macs_of
from hwbench.prediction.legality import arithmetic_of, bytes_of, check_scheme, floating_of
from hwbench.prediction.machine import machine_of
from hwbench.prediction.probe.anchors import ANCHORS, BY_NAME
from hwbench.prediction.probe.onnx_files import onnx_model
from hwbench.prediction.roofline import PARAMETERS, as_vector, bases_of, tile_share, times_of, unit_predictions
from hwbench.prediction.work import works_of
from hwbench.records.prediction import Work

PROFILES = load_profiles()
LACKING = {"jetson-t4000", "samsung-galaxy-s25"}
"""Profiles that hold too little for a roofline."""


def hub(name):
    return ir.serde.deserialize_model(onnx_model(BY_NAME[name], "fp32"))


def ones(**changed):
    return as_vector({name: math.log(changed.get(name, 1.0)) for name in PARAMETERS})


def work(**changed):
    given = {
        "name": "w", "layers": ("w",), "family": "conv", "scheme": "float", "macs": 0, "positions": 1,
        "channels_in": 1, "channels_out": 1, "groups": 1, "elements_in": 0, "elements_out": 0, "weights": 0,
    }  # fmt: skip
    return Work(**{**given, **changed})


class TestWork:
    @pytest.mark.parametrize("anchor", ANCHORS, ids=lambda anchor: anchor.name)
    def test_no_multiplication_is_lost_and_the_product_is_their_number(self, anchor):
        model = hub(anchor.name)
        works = works_of(model)
        assert sum(one.macs for one in works.units) == sum(macs_of(node) for node in model.graph)
        assert works.not_counted == ()
        for one in works.units:
            if one.macs:
                taps = one.macs / (one.positions * one.channels_in * one.channels_out * one.groups)
                assert taps in {1, 9}

    def test_activations_and_sums_are_fused(self):
        works = works_of(hub("model-residual"))
        assert [one.family for one in works.units] == ["conv"] * 11 + ["elementwise", "matmul"]
        assert sum(len(one.layers) for one in works.units) == 11 + 9 + 3 + 2  # Conv, Relu, Add, the pool and the Gemm
        assert works.units[2].elements_in == 2 * 16 * 32 * 32  # its own and the one that is added

    def test_what_passes_between_units(self):
        first, second = works_of(hub("conv1-128-28")).units
        assert second.reads == {first.name: 256 * 28 * 28}
        assert (first.reads, first.ends, second.ends) == ({}, 128 * 28 * 28, 128 * 28 * 28)

    def test_a_softmax_stays_float_between_int8_layers(self):
        (alone,) = works_of(hub("softmax-1024-128"), default="int8").units
        assert (alone.scheme, alone.family) == ("float", "function")
        assert {one.scheme for one in works_of(hub("model-residual"), default="int8").units} == {"int8"}


class TestMachine:
    def test_every_profile_gives_a_machine_or_says_what_it_lacks(self):
        lacking = set()
        for name, profile in PROFILES.items():
            try:
                machine = machine_of(profile, engine=profile.engines[0])
            except UsageError:
                lacking.add(name)
                continue
            assert machine.peaks["fp32"] > 1e9
            assert machine.levels[-1].bytes_per_s > 1e9
        assert lacking == LACKING

    def test_a_power_mode_caps_units_and_clocks(self):
        orin = PROFILES["jetson-orin-nano-8gb"]
        full = machine_of(orin, engine="tensorrt")
        capped = machine_of(orin, engine="tensorrt", power_mode="7W")
        assert capped.peaks["int8"] / full.peaks["int8"] == pytest.approx(4 / 8 * 408 / 625)
        assert (full.sm, capped.sm) == (8, 4)
        assert capped.power_w["tdp"] == 7
        with pytest.raises(UsageError, match="no power mode '9W'") as refused:
            machine_of(orin, engine="tensorrt", power_mode="9W")
        assert "7W" in refused.value.hint

    def test_threads_take_the_fastest_cores_first(self):
        pixel = PROFILES["google-pixel-8"]
        one = machine_of(pixel, engine="litert").peaks["fp32"]
        cycles = 2.914 + 4 * 2.367 + 4 * 1.704
        assert one == pytest.approx(281.9e9 * 2.914 / cycles)
        with pytest.raises(UsageError, match="9 cores, not 10"):
            machine_of(pixel, engine="litert", threads=10)

    @pytest.mark.parametrize(
        ("profile", "engine", "floating", "is_"),
        [
            ("amd-epyc-genoa", "openvino", "auto", "bf16"),
            ("amd-epyc-genoa", "onnxruntime", "auto", "fp32"),
            ("raspberry-pi-5", "litert", "fp16", "fp16"),
            ("raspberry-pi-5", "litert", "bf16", None),
            ("amd-epyc-genoa", "onnxruntime", "fp16", None),
            ("jetson-orin-nano-super", "tensorrt", "auto", "fp16"),
            ("nvidia-rtx-4090", "tensorrt", "tf32", "tf32"),
            ("nvidia-rtx-4090", "tensorrt-rtx", "auto", "fp16"),
            ("nvidia-h200", "tensorrt-rtx", "fp16", None),
            ("nvidia-t4", "tensorrt", "tf32", None),
            ("nvidia-t4", "tensorrt", "bf16", None),
            ("amd-epyc-genoa", "onnxruntime", "tf32", None),
        ],
    )
    def test_only_what_the_chip_has(self, profile, engine, floating, is_):
        machine = machine_of(PROFILES[profile], engine=engine)
        if is_ is None:
            with pytest.raises(Unsupported, match=floating):
                floating_of(machine, floating)
        else:
            assert floating_of(machine, floating) == is_

    @pytest.mark.parametrize(
        ("profile", "engine", "scheme", "why"),
        [
            ("jetson-nano", "tensorrt", "int8", "builds no int8 for .*from compute capability 7.0"),
            ("jetson-nano", "onnxruntime", "int8", "no int8 arithmetic"),
            ("nvidia-t4", "tensorrt", "fp8", "from compute capability 8.9"),
            ("nvidia-t4", "onnxruntime", "fp8", "no fp8 arithmetic"),
            ("nvidia-rtx-4090", "tensorrt", "int8-dynamic", "scales that are fixed"),
            ("amd-epyc-genoa", "openvino", "fp8", "no fp8 arithmetic"),
        ],
    )
    def test_schemes_that_a_chip_or_its_builder_has_not(self, profile, engine, scheme, why):
        with pytest.raises(Unsupported, match=why):
            check_scheme(machine_of(PROFILES[profile], engine=engine), scheme)

    def test_fp8_is_an_arithmetic_of_its_own(self):
        machine = machine_of(PROFILES["nvidia-h200"], engine="tensorrt")
        check_scheme(machine, "fp8")
        one = work(macs=1000, elements_in=100, elements_out=50, weights=30, scheme="fp8")
        assert arithmetic_of(machine, one, "fp16") == "fp8"
        assert bytes_of(one, "fp16") == (150, 30)

    def test_the_cpu_of_a_jetson_has_no_figures(self):
        with pytest.raises(UsageError, match="runs on the CPU"):
            machine_of(PROFILES["jetson-orin-nano-8gb"], engine="litert")


class TestRoofline:
    genoa = machine_of(PROFILES["amd-epyc-genoa"], engine="onnxruntime")

    def test_the_formula(self):
        one = work(macs=10**7, positions=100, channels_in=100, channels_out=1000, elements_in=1000, elements_out=500,
                   weights=10**5)  # fmt: skip
        share = 1000 / 1008  # 63 vectors of 16
        assert tile_share(one, self.genoa, "fp32") == pytest.approx(share)
        times = times_of(bases_of([one], self.genoa, "fp32"), ones(launch=1e-6, fixed=2e-6))
        arithmetic, memory = 2e7 / (32 * 3.8e9 * share), 4 * 101_500 / (32 * 3.8e9)
        assert times.units[0] == pytest.approx(1e-6 + max(arithmetic, memory))
        assert times.total == pytest.approx(times.units[0] + 2e-6)

    def test_what_does_not_fit_comes_from_farther(self):
        near, far = work(elements_in=10**5, family="elementwise"), work(elements_in=10**8, family="elementwise")
        bases = bases_of([near, far], self.genoa, "fp32")
        assert bases.levels == ("l2", "dram")
        assert bases.memory_s == pytest.approx([4e5 / (32 * 3.8e9), 4e8 / 15e9])

    def test_weights_of_a_large_network_come_from_memory_each_time(self):
        large = [work(name=str(place), weights=10**6, macs=10**6, channels_out=16) for place in range(10)]
        alone = bases_of(large[:1], self.genoa, "fp32").memory_s[0]
        assert bases_of(large, self.genoa, "fp32").memory_s[0] == pytest.approx(4e6 / 15e9)
        assert alone < 4e6 / 15e9

    def test_borders_are_paid_once_a_tensor(self):
        source = work(name="a", macs=1, elements_out=1000)
        readers = [work(name=name, macs=1, scheme="int8", reads={"a": 1000}) for name in "bc"]
        bases = bases_of([source, *readers], self.genoa, "fp32")
        assert bases.borders == 1
        assert bases.borders_s == pytest.approx(5000 / (32 * 3.8e9))
        assert bases_of([source], self.genoa, "fp32").borders == 0

    def test_a_gpu_waits_for_its_last_wave(self):
        gpu = machine_of(PROFILES["jetson-orin-nano-8gb"], engine="tensorrt")
        full = work(macs=1, positions=32 * 8, channels_in=16, channels_out=32)
        assert tile_share(full, gpu, "fp16") == 1
        over = work(macs=1, positions=32 * 9, channels_in=16, channels_out=32)
        assert tile_share(over, gpu, "fp16") == pytest.approx(9 / 16)

    def test_what_bounds_a_unit(self):
        works = [work(macs=10**8, channels_out=16), work(macs=1, weights=10**7), work(macs=1)]
        bases = bases_of(works, self.genoa, "fp32")
        table = unit_predictions(bases, times_of(bases, ones(launch=1e-6)))
        assert [row.bound for row in table] == ["arithmetic", "memory", "launch"]

    def test_int8_is_never_predicted_slower_than_its_sums_and_faster_than_its_peak(self):
        one = work(macs=10**8, positions=10**4, channels_in=100, channels_out=96, elements_out=960_000, scheme="int8")
        arithmetic = bases_of([one], self.genoa, "fp32").arithmetic_s[0]
        assert 2e8 / (128 * 3.8e9) < arithmetic < 2e8 / (32 * 3.8e9)
        assert np.isfinite(arithmetic)
