"""The fibers that run kernels on the CPU: what they compute together, and what they say when a kernel is wrong."""

import functools

import numpy as np
import pytest
from emulated_kernels import compile_for_cpu, needs_gpp, run_for_cpu

pytestmark = needs_gpp

PROGRAM = """
#include "hwb/load.cuh"
#include "hwb/mma.cuh"
#include "hwb/reduce.cuh"
#include <string>
using namespace hwb;
#define LANE int(threadIdx.x & 31)

void deadlock() { if (threadIdx.x < 32) __syncthreads(); }
void apart() { if (LANE < 16) __shfl_xor_sync(kWarp, 1, 1); else __syncwarp(); }
void outside() { __shfl_xor_sync(0xffffu, 1, 1); }
void behind() { HWB_SHARED(int, a, 4); int* p = a; p[3 + gridDim.y] = 1; }
void crooked() { HWB_SHARED(char, a, 64); load16(a + 8); }
void large() { HWB_SHARED(char, a, 40000); HWB_SHARED(char, b, 10000); a[0] = b[0]; }
void disorder() { float d[4] = {}; uint32_t a[4] = {}, b[4] = {}; mma_sp_m16n8k32<0>(d, a, b, 0); }

void shuffles(int* y) {
  const int i = threadIdx.x, v = 100 + i;
  int* p = y + i * 8;
  p[0] = __shfl_sync(kWarp, v, 31 - LANE); p[1] = __shfl_up_sync(kWarp, v, 3); p[2] = __shfl_down_sync(kWarp, v, 3);
  p[3] = __shfl_xor_sync(kWarp, v, 5); p[4] = int(__ballot_sync(kWarp, LANE % 3 == 0));
  p[5] = __shfl_xor_sync(kWarp, v, 1, 8);
  p[6] = __shfl_sync(kWarp, v, 9, 8); p[7] = __shfl_up_sync(LANE < 8 ? 0xffu : 0xffffff00u, v, 1, 8);
}
void untouched(int* y) { HWB_SHARED(int, a, 1); y[0] = a[0]; __syncthreads(); a[0] = 5; }
void copies(int* y) {
  alignas(16) static const int source[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  HWB_SHARED(int, a, 12);
  if (threadIdx.x != 0) return;
  copy_async16(a, source, true); copy_commit();
  copy_async16(a + 4, source + 4, true); copy_async16(a + 8, source, false); copy_commit();
  y[0] = a[0]; copy_wait<1>(); y[1] = a[0]; y[2] = a[4]; copy_wait<0>(); y[3] = a[4]; y[4] = a[8];
}
void matrices(int* y) {
  HWB_SHARED(uint16_t, a, 256);
  for (int i = 0; i < 8; ++i) a[LANE * 8 + i] = uint16_t(LANE * 8 + i);
  __syncwarp();
  uint32_t r[4], t[2], one[1];
  load_matrix(r, a + LANE * 8); load_matrix_transposed(t, a + LANE % 16 * 8); load_matrix(one, a + LANE % 8 * 8);
  for (int i = 0; i < 4; ++i) y[LANE * 8 + i] = int(r[i]);
  y[LANE * 8 + 4] = int(t[0]); y[LANE * 8 + 5] = int(t[1]);
  y[LANE * 8 + 6] = int(transpose8(one[0])); y[LANE * 8 + 7] = int(one[0]);
}
void bytes(int* y) {
  uint32_t low, high;
  int8_to_half(0x00ff7f80u + (uint32_t(LANE) << 24), low, high);
  y[LANE * 2] = int(low); y[LANE * 2 + 1] = int(high);
}
void sums(int* y) {
  HWB_SHARED(float, shared, 2 * 128);
  float d[1][4] = {{float(threadIdx.x), 1, 2, float(threadIdx.x / 32)}};
  reduce_warps<2>(d, shared);
  for (int i = 0; i < 4; ++i) y[threadIdx.x * 4 + i] = int(d[0][i]);
}

int main(int, char** words) {
  const std::string which = words[1];
  static int y[1024];
  const int threads = std::atoi(words[2]);
#define RUN(name) if (which == #name) hwb::cpu::launch(dim3(1), dim3(threads), name);
#define SHOW(name) if (which == #name) hwb::cpu::launch(dim3(2), dim3(threads), name, y);
  RUN(deadlock) RUN(apart) RUN(outside) RUN(behind) RUN(crooked) RUN(large) RUN(disorder)
  SHOW(shuffles) SHOW(untouched) SHOW(copies) SHOW(matrices) SHOW(bytes) SHOW(sums)
  for (int v : y) std::printf("%d ", v);
}
"""


@functools.cache
def program():
    return compile_for_cpu(PROGRAM)


def values_of(kernel, shape, threads=32):
    done = run_for_cpu(program(), kernel, str(threads))
    assert done.returncode == 0, done.stderr
    return np.array([int(each) for each in done.stdout.split()])[: int(np.prod(shape))].reshape(shape)


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (
            "deadlock",
            ["deadlock in block (0, 0, 0)", "threads 0 to 31 wait at __syncthreads", "threads 32 to 63 have ended"],
        ),
        ("apart", ["at different collectives, one at __shfl_xor_sync"]),
        ("outside", ["not in the mask of its own __shfl_xor_sync"]),
        ("behind", ["AddressSanitizer: global-buffer-overflow"]),
        ("crooked", ["runtime error", "misaligned address"]),
        ("large", ["more than 48 KiB of static shared memory"]),
        ("disorder", ["two places of a group are not in order"]),
    ],
)
def test_a_wrong_kernel_is_told_what_is_wrong(kernel, words):
    done = run_for_cpu(program(), kernel, "64")
    assert done.returncode != 0
    for each in words:
        assert each in done.stderr


def test_shuffles_and_votes():
    y = values_of("shuffles", (32, 8))
    lane = np.arange(32)
    assert (y[:, 0] == 131 - lane).all()
    assert (y[:, 1] == 100 + np.where(lane < 3, lane, lane - 3)).all()
    assert (y[:, 2] == 100 + np.where(lane > 28, lane, lane + 3)).all()
    assert (y[:, 3] == 100 + (lane ^ 5)).all()
    assert (y[:, 4].astype(np.uint32) == sum(1 << i for i in range(0, 32, 3))).all()
    assert (y[:, 5] == 100 + (lane ^ 1)).all()
    assert (y[:, 6] == 100 + lane // 8 * 8 + 1).all()
    assert (y[:, 7] == 100 + np.where(lane % 8 == 0, lane, lane - 1)).all()


def test_shared_memory_is_filled_anew_for_every_block():
    assert values_of("untouched", (1,))[0] == -1


def test_a_copy_arrives_when_it_is_waited_for():
    before, first, second_too_soon, second, invalid = values_of("copies", (5,))
    assert (before, first, second_too_soon, second, invalid) == (-1, 1, -1, 5, 0)


def test_matrices_are_loaded_and_transposed():
    y = values_of("matrices", (32, 8))
    memory = np.arange(256).reshape(4, 8, 8)  # matrix, row, column

    def held(matrix):  # lane 4g + t: row g, columns 2t and 2t + 1
        return (matrix[:, 0::2] | matrix[:, 1::2] << 16).reshape(32)

    for i in range(4):
        assert (y[:, i] == held(memory[i])).all()
    assert (y[:, 4] == held(memory[0].T)).all()
    assert (y[:, 5] == held(memory[1].T)).all()
    assert (y[:, 6] == held(memory[0].T)).all()
    assert (y[:, 7] == held(memory[0])).all()


def test_bytes_become_halves_exactly():
    y = values_of("bytes", (32, 2)).astype(np.uint32)
    halves = y.view(np.uint16).view(np.float16).reshape(32, 4)
    assert (halves[:, :3] == [0, -1, 127]).all()
    assert (halves[:, 3] == np.arange(32) - 128).all()


def test_warps_add_up_in_groups():
    y = values_of("sums", (128, 4), threads=128)
    for first in (0, 64):
        lane = np.arange(32)
        assert (y[first : first + 32, 0] == 2 * (first + lane) + 32).all()
        assert (y[first : first + 32, 1:3] == [2, 4]).all()
        assert (y[first : first + 32, 3] == 2 * (first // 32) + 1).all()
