// Adding up what the warps of a block found.
//
//   reduce_warps<Warps>(d, shared)   d[Count][4] of every lane, summed over groups of Warps neighbouring warps (a power of two);
//                                    the first warp of each group has the sum. All threads of the block call it. shared: half of
//                                    the block's warps * 128 * Count floats, free to be overwritten (a barrier comes first).
#pragma once
#include "hwb/types.cuh"

namespace hwb {

template <int Warps, int Count>
HWB_DEVICE void reduce_warps(float (&d)[Count][4], float* shared) {
  const int lane = threadIdx.x & 31, slot = threadIdx.x / 32 % Warps, group = threadIdx.x / 32 / Warps;
  float* mine = shared + group * (Warps / 2) * 128 * Count + lane;
#pragma unroll
  for (int half = Warps / 2; half >= 1; half /= 2) {
    __syncthreads();
    if (slot >= half && slot < 2 * half)
#pragma unroll
      for (int i = 0; i < 4 * Count; ++i) mine[((slot - half) * 4 * Count + i) * 32] = d[i / 4][i % 4];
    __syncthreads();
    if (slot < half)
#pragma unroll
      for (int i = 0; i < 4 * Count; ++i) d[i / 4][i % 4] += mine[(slot * 4 * Count + i) * 32];
  }
}

}  // namespace hwb
