// Entries of vw16. Grid (ceil(m / 32), ceil(n / HWB_TILE_N)), block 256; of the wide ones (ceil(m / 64), ...), block 512.
// sm_75 and newer.
#include "vw16/kernel.cuh"

#include "hwb/entry.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
    HWB_ENTRY(hwb_vw16)(const void* x, const void* values, const void* columns, const void* starts, HWB_BIAS_PARAMETER int n, int m, int k, void* y) {
  hwb::vw16<HWB_TILE_N, 2, 8, false>(static_cast<const uint16_t*>(x), values, static_cast<const uint16_t*>(columns),
                                  static_cast<const int*>(starts), nullptr, HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k,
                                  static_cast<uint16_t*>(y));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    HWB_ENTRY(hwb_vw16_int8)(const void* x, const void* values, const void* columns, const void* starts, const void* scales, HWB_BIAS_PARAMETER int n,
                             int m, int k, void* y) {
  hwb::vw16<HWB_TILE_N, 2, 8, true>(static_cast<const uint16_t*>(x), values, static_cast<const uint16_t*>(columns),
                                 static_cast<const int*>(starts), static_cast<const float*>(scales), HWB_BIAS_ARGUMENT, HWB_ACT, n, m,
                                 k, static_cast<uint16_t*>(y));
}

extern "C" __global__ void __launch_bounds__(512, 1)
    HWB_ENTRY(hwb_vw16_wide)(const void* x, const void* values, const void* columns, const void* starts, HWB_BIAS_PARAMETER int n, int m, int k, void* y) {
  hwb::vw16<HWB_TILE_N, 4, 16, false>(static_cast<const uint16_t*>(x), values, static_cast<const uint16_t*>(columns),
                                  static_cast<const int*>(starts), nullptr, HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k,
                                  static_cast<uint16_t*>(y));
}

extern "C" __global__ void __launch_bounds__(512, 1)
    HWB_ENTRY(hwb_vw16_int8_wide)(const void* x, const void* values, const void* columns, const void* starts, const void* scales, HWB_BIAS_PARAMETER int n,
                             int m, int k, void* y) {
  hwb::vw16<HWB_TILE_N, 4, 16, true>(static_cast<const uint16_t*>(x), values, static_cast<const uint16_t*>(columns),
                                 static_cast<const int*>(starts), static_cast<const float*>(scales), HWB_BIAS_ARGUMENT, HWB_ACT, n, m,
                                 k, static_cast<uint16_t*>(y));
}
