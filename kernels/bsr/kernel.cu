// Entries of bsr. Grid (ceil(m / block), ceil(n / HWB_TILE_N)) with blocks of 16 or 32, block of 128 threads. sm_75 and newer.
#include "bsr/kernel.cuh"

#include "hwb/entry.cuh"

extern "C" __global__ void __launch_bounds__(128)
    HWB_ENTRY(hwb_bsr16)(const void* x, const void* values, const void* columns, const void* starts, HWB_BIAS_PARAMETER int n, int m, int k, void* y) {
  hwb::bsr<HWB_TILE_N, 16, false>(static_cast<const uint16_t*>(x), values, static_cast<const uint16_t*>(columns), static_cast<const int*>(starts),
                                  nullptr, HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}

extern "C" __global__ void __launch_bounds__(128)
    HWB_ENTRY(hwb_bsr16_int8)(const void* x, const void* values, const void* columns, const void* starts, const void* scales, HWB_BIAS_PARAMETER int n,
                              int m, int k, void* y) {
  hwb::bsr<HWB_TILE_N, 16, true>(static_cast<const uint16_t*>(x), values, static_cast<const uint16_t*>(columns), static_cast<const int*>(starts),
                                 static_cast<const float*>(scales), HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}

extern "C" __global__ void __launch_bounds__(128)
    HWB_ENTRY(hwb_bsr32)(const void* x, const void* values, const void* columns, const void* starts, HWB_BIAS_PARAMETER int n, int m, int k, void* y) {
  hwb::bsr<HWB_TILE_N, 32, false>(static_cast<const uint16_t*>(x), values, static_cast<const uint16_t*>(columns), static_cast<const int*>(starts),
                                  nullptr, HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}

extern "C" __global__ void __launch_bounds__(128)
    HWB_ENTRY(hwb_bsr32_int8)(const void* x, const void* values, const void* columns, const void* starts, const void* scales, HWB_BIAS_PARAMETER int n,
                              int m, int k, void* y) {
  hwb::bsr<HWB_TILE_N, 32, true>(static_cast<const uint16_t*>(x), values, static_cast<const uint16_t*>(columns), static_cast<const int*>(starts),
                                 static_cast<const float*>(scales), HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}
