"""The model of GPUs that are not attached, held against sums done by hand."""

import dataclasses

import msgspec
import pytest

from hwbench.devices.profiles import load_profiles
from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.sparse import select
from hwbench.sparse.manifest import load_manifest
from hwbench.sparse.select import LAUNCH_S, REACHED, dense_expected, dense_time_s, expected, machine_of

PROFILES = load_profiles()
KERNELS = load_manifest()
H200 = machine_of(PROFILES["nvidia-h200"])
RTX_4090 = machine_of(PROFILES["nvidia-rtx-4090"])
A100 = machine_of(PROFILES["nvidia-a100-sxm-80gb"])
T4 = machine_of(PROFILES["nvidia-t4"])
BIG = (8192, 28672)


class TestMachines:
    @pytest.mark.parametrize(("name", "most"), [("nvidia-h200", 6.97), ("nvidia-rtx-4090", 40.96)])
    def test_lane_instructions_for_a_byte(self, name, most):
        """132 · 128 · 1.98 GHz / 4.8 TB/s and 128 · 128 · 2.52 GHz / 1.008 TB/s."""
        assert machine_of(PROFILES[name]).lane_instructions_per_byte == pytest.approx(most, rel=1e-3)

    def test_a_jetson_has_a_gpu_too(self):
        orin = machine_of(PROFILES["jetson-orin-nano-super"])
        assert (orin.arch, orin.multiprocessors) == (87, 8)

    def test_what_a_profile_lacks_is_said(self):
        profile = msgspec.structs.replace(PROFILES["nvidia-h200"], clock_hz={})
        assert "has no clock_hz" in machine_of(profile).why

    def test_a_cpu_is_none(self):
        assert isinstance(machine_of(PROFILES["apple-m1"]), Missing)


class TestTimes:
    def test_a_kernel_bound_by_memory_takes_its_bytes(self):
        found = expected(KERNELS["gap4_mv"], BIG, 1, 0.5, RTX_4090)
        assert found.bound == "memory"
        by_hand = (BIG[0] * BIG[1] * 1.25 + 2 * sum(BIG)) / (1.008e12 * REACHED) + LAUNCH_S
        assert found.time_s == pytest.approx(by_hand, rel=0.01)
        assert found.speedup["fp16"] == pytest.approx(2 / 1.25, rel=0.02)
        assert found.speedup["int8"] == pytest.approx(1 / 1.25, rel=0.02)
        assert found.basis == "model"

    def test_a_bitmap_is_bound_by_instructions_where_a_gpu_has_few_for_a_byte(self):
        hopper = expected(KERNELS["bitmap_mm"], BIG, 8, 0.7, H200)
        ada = expected(KERNELS["bitmap_mm"], BIG, 8, 0.7, RTX_4090)
        assert hopper.bound == "issue"
        assert ada.bound == "memory"
        assert hopper.speedup["fp16"] < 0.7 * ada.speedup["fp16"]
        busy = 128  # 256 blocks, two on the busiest of 132 multiprocessors
        issued = BIG[0] * BIG[1] * 8.1 / (busy * 128 * 1.98e9 * select.ISSUED)
        assert hopper.time_s == pytest.approx(issued + LAUNCH_S, rel=0.01)

    def test_bank_conflicts_bound_gaps_of_four_inputs_on_hopper(self):
        assert expected(KERNELS["gap4_mv"], BIG, 4, 0.5, H200).bound == "shared"

    def test_a_small_matrix_is_bound_by_its_launch(self):
        assert expected(KERNELS["int4_mm"], (512, 512), 1, 0, H200).bound == "launch"

    def test_dense_int4_beats_half_of_the_weights(self):
        four = expected(KERNELS["int4_mm"], BIG, 1, 0, H200)
        assert four.time_s < expected(KERNELS["gap4_mv"], BIG, 1, 0.5, H200).time_s
        assert four.speedup["int4"] == pytest.approx(1, rel=0.01)

    def test_every_block_reads_the_inputs_through_the_cache(self):
        slow = dataclasses.replace(A100, bandwidth_bytes_per_s=20e12, multiprocessors=100, clock_hz=1e9)
        rate = 1.5 * slow.bandwidth_bytes_per_s
        assert slow.l2_bytes_per_s == pytest.approx(rate)
        found = expected(KERNELS["bsr16"], (1600 * 16, 4096), 32, 0.5, slow)
        weights, blocks = 1600 * 16 * 4096, 1600
        through = weights * 1.0 + blocks * 32 * 4096 * 2 * 0.5 + 2 * 32 * 1600 * 16
        assert found.bound == "l2"
        assert found.time_s == pytest.approx(through / min(rate, 64 * 100 * 1e9) + LAUNCH_S, rel=0.01)

    @pytest.mark.parametrize(
        ("machine", "rate"),
        [(H200, 35 * 132 * 1.98e9), (A100, 35 * 108 * 1.41e9), (RTX_4090, 15 * 128 * 2.52e9), (T4, 20 * 40 * 1.59e9)],
    )
    def test_what_the_cache_gives_is_of_the_generation(self, machine, rate):
        assert machine.l2_bytes_per_s == pytest.approx(rate)

    def test_blocks_of_more_rows_read_the_inputs_less_often(self):
        narrow, wide = (expected(KERNELS[name], BIG, 32, 0.5, H200) for name in ("s24", "s24_wide"))
        assert (narrow.bound, wide.bound) == ("l2", "memory")
        inputs = (narrow.time_s - LAUNCH_S) * H200.l2_bytes_per_s - BIG[0] * BIG[1] * 1.125 - 2 * 32 * BIG[0]
        assert inputs == pytest.approx(BIG[0] / 32 * 2 * 32 * BIG[1], rel=0.01)

    def test_multiprocessors_without_a_block_do_nothing(self):
        """64 blocks on 132 multiprocessors: half of what they could issue."""
        slow = dataclasses.replace(H200, clock_hz=1e8, bandwidth_bytes_per_s=1e15, fp16_ops_per_s=1e18)
        few, many = (expected(KERNELS["bitmap_mm"], (m, 4096), 8, 0.5, slow).time_s for m in (64 * 32, 132 * 32))
        assert few - LAUNCH_S == pytest.approx(many - LAUNCH_S)

    def test_blocks_that_were_dropped_ask_for_no_inputs(self):
        slow = dataclasses.replace(A100, bandwidth_bytes_per_s=20e12, clock_hz=1e10, fp16_ops_per_s=1e18)
        half, tenth = (expected(KERNELS["bsr16"], BIG, 32, sparsity, slow) for sparsity in (0.5, 0.9))
        assert (half.bound, tenth.bound) == ("l2", "l2")
        assert (tenth.time_s - LAUNCH_S) / (half.time_s - LAUNCH_S) == pytest.approx(0.2, rel=0.01)

    @pytest.mark.parametrize(
        ("name", "sparsity", "share"),
        [("bitmap_mm", 0.9, 1), ("int4_mm", 0, 1), ("s24", 0.5, 0.5), ("vw16", 0.9, 0.1), ("bsr32", 0.7, 0.3)],
    )
    def test_tensor_cores_do_not_multiply_what_a_kernel_skips(self, name, sparsity, share):
        slow = dataclasses.replace(H200, fp16_ops_per_s=1e12, multiprocessors=128)  # as many as share the blocks
        found = expected(KERNELS[name], BIG, 32, sparsity, slow)
        assert found.bound == "tensor"
        assert found.time_s == pytest.approx(2 * 32 * BIG[0] * BIG[1] * share / 1e12 + LAUNCH_S)

    def test_more_inputs_than_a_tile_read_the_weight_again(self):
        one, two = (expected(KERNELS["int4_mm"], BIG, n, 0, RTX_4090).time_s for n in (32, 64))
        assert two - LAUNCH_S == pytest.approx(2 * (one - LAUNCH_S), rel=0.02)

    def test_dense_products_of_many_inputs_are_bound_by_tensor_cores(self):
        assert dense_time_s("fp16", BIG, 4096, H200) == pytest.approx(2 * 4096 * BIG[0] * BIG[1] / 989.4e12 + LAUNCH_S)

    def test_dense_products_of_eight_bits_take_the_rate_of_int8_or_fp8(self):
        """H200: twice that of fp16, for int8 and fp8 alike (data sheet); int4 weights are multiplied in fp16."""
        work = 2 * 4096 * BIG[0] * BIG[1]
        assert dense_time_s("int8", BIG, 4096, H200) == pytest.approx(work / 1978.9e12 + LAUNCH_S, rel=1e-3)
        assert dense_time_s("int4", BIG, 4096, H200) == pytest.approx(work / 989.4e12 + LAUNCH_S)

    def test_dense_products_read_the_inputs_again_too(self):
        """X for every 256 rows of W, W for every 256 rows of X."""
        slow = dataclasses.replace(RTX_4090, bandwidth_bytes_per_s=14e12, multiprocessors=1000, fp16_ops_per_s=1e18)
        time_s, bound = dense_expected("fp16", BIG, 512, dataclasses.replace(slow, clock_hz=1e9))
        through = 2 * BIG[0] * BIG[1] * 2 + BIG[0] / 256 * 2 * 512 * BIG[1] + 2 * 512 * BIG[0]
        assert bound == "l2"
        assert time_s == pytest.approx(through / (1.5 * 14e12) + LAUNCH_S)

    def test_dense_products_bring_both_operands_through_shared_memory(self):
        slow = dataclasses.replace(H200, bandwidth_bytes_per_s=1e15, clock_hz=1e9, fp16_ops_per_s=1e18)
        time_s, bound = dense_expected("int8", BIG, 32, slow)
        inside = 2 * BIG[0] * BIG[1] + (BIG[0] / 128 + BIG[0] / 64) * 32 * BIG[1]
        assert bound == "shared"
        assert time_s == pytest.approx(inside / (128 * 132 * 1e9) + LAUNCH_S)

    def test_dense_products_of_few_inputs_are_bound_by_memory(self):
        time_s, bound = dense_expected("fp16", BIG, 32, H200)
        assert bound == "memory"
        read = 2 * BIG[0] * BIG[1] + 2 * 32 * sum(BIG)
        assert time_s == pytest.approx(read / (4.8e12 * REACHED) + LAUNCH_S)

    @pytest.mark.parametrize("kernel", KERNELS.values(), ids=lambda kernel: kernel.name)
    def test_every_kernel_has_been_counted(self, kernel):
        assert {issue.tile_n for issue in kernel.issue} == set(kernel.tile_n)
        assert expected(kernel, BIG, 1, 0.5, H200).time_s > LAUNCH_S


class TestRefusals:
    def test_shapes_outside_the_contract(self):
        refused = expected(KERNELS["gap4_mv"], (64, 60), 1, 0.5, H200)
        assert refused.code == "outside_contract"
        assert expected(KERNELS["gap4_mv"], (64, 64), 5, 0.5, H200).code == "outside_contract"

    def test_gpus_that_the_kernel_is_not_for(self):
        assert expected(KERNELS["s24"], BIG, 8, 0.5, T4).code == "not_for_gpu"

    def test_a_kernel_that_was_not_counted(self):
        bare = msgspec.structs.replace(KERNELS["gap4_mv"], issue=())
        assert expected(bare, BIG, 1, 0.5, H200).code == "not_counted"

    def test_requests_that_are_wrong(self):
        with pytest.raises(UsageError, match="no share"):
            expected(KERNELS["gap4_mv"], BIG, 1, 50, H200)
        with pytest.raises(UsageError, match="unknown"):
            expected(msgspec.structs.replace(KERNELS["gap4_mv"], format="csr"), BIG, 1, 0.5, H200)


@pytest.mark.parametrize(("arch", "runs"), [(90, 90), (121, 120), (88, 87), (86, 86), (72, None), (130, None)])
def test_machine_code_runs_on_newer_gpus_of_its_generation(arch, runs):
    assert KERNELS["gap4_mv"].arch_for(arch) == runs
