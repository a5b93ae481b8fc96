// Entry of int4_mm. Grid (ceil(m / 32), ceil(n / HWB_TILE_N)), block 256.
#include "hwb/entry.cuh"
#include "hwb/quantised.cuh"

extern "C" __global__ void __launch_bounds__(256, HWB_TILE_N < 32 ? 2 : 1)
    HWB_ENTRY(hwb_int4)(const void* x, const void* codes, const void* scales, HWB_BIAS_PARAMETER int n, int m, int k, int group, void* y) {
  hwb::quantised_mm<4, HWB_TILE_N>(static_cast<const uint16_t*>(x), codes, static_cast<const uint32_t*>(scales), HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k,
                                    group, static_cast<uint16_t*>(y));
}
