// Entry of gap4_mv. Grid (ceil(m / 16), ceil(n / HWB_TILE_N)), block 512; HWB_TILE_N 1, 2 or 4.
#include "gap4_mv/kernel.cuh"

#include "hwb/entry.cuh"

extern "C" __global__ void __launch_bounds__(512)
    HWB_ENTRY(hwb_gap4)(const void* x, const void* values, const void* gaps, const void* offsets, HWB_BIAS_PARAMETER int n, int m, int k, void* y) {
  hwb::gap4_mv<HWB_TILE_N>(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(values), static_cast<const uint2*>(gaps),
                           static_cast<const int*>(offsets), HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}
