// Entry of bitmap_mm. Grid (ceil(m / 32), ceil(n / HWB_TILE_N)), block 256.
#include "bitmap_mm/kernel.cuh"

#include "hwb/entry.cuh"

extern "C" __global__ void __launch_bounds__(256, HWB_TILE_N < 32 ? 2 : 1)
    HWB_ENTRY(hwb_bitmap)(const void* x, const void* bits, const void* values, const void* offsets, HWB_BIAS_PARAMETER int n, int m, int k, void* y) {
  hwb::bitmap_mm<HWB_TILE_N>(static_cast<const uint16_t*>(x), static_cast<const uint4*>(bits), values, static_cast<const int*>(offsets),
                             HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}
