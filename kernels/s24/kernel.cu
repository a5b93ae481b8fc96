// Entries of s24. Grid (ceil(m / 32), ceil(n / HWB_TILE_N)); of the wide ones (ceil(m / 64), ...). Block 256. sm_80 and newer.
#include "s24/kernel.cuh"

#include "hwb/entry.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
    HWB_ENTRY(hwb_s24)(const void* x, const void* values, const void* metadata, HWB_BIAS_PARAMETER int n, int m, int k, void* y) {
  hwb::s24<HWB_TILE_N, 2, false>(static_cast<const uint16_t*>(x), values, static_cast<const uint32_t*>(metadata), nullptr,
                                 HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}

extern "C" __global__ void __launch_bounds__(256, 2)
    HWB_ENTRY(hwb_s24_int8)(const void* x, const void* values, const void* metadata, const void* scales, HWB_BIAS_PARAMETER int n, int m, int k,
                            void* y) {
  hwb::s24<HWB_TILE_N, 2, true>(static_cast<const uint16_t*>(x), values, static_cast<const uint32_t*>(metadata),
                                static_cast<const float*>(scales), HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}

extern "C" __global__ void __launch_bounds__(256, 1)
    HWB_ENTRY(hwb_s24_wide)(const void* x, const void* values, const void* metadata, HWB_BIAS_PARAMETER int n, int m, int k, void* y) {
  hwb::s24<HWB_TILE_N, 4, false>(static_cast<const uint16_t*>(x), values, static_cast<const uint32_t*>(metadata), nullptr,
                                 HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}

extern "C" __global__ void __launch_bounds__(256, 1)
    HWB_ENTRY(hwb_s24_int8_wide)(const void* x, const void* values, const void* metadata, const void* scales, HWB_BIAS_PARAMETER int n, int m, int k,
                            void* y) {
  hwb::s24<HWB_TILE_N, 4, true>(static_cast<const uint16_t*>(x), values, static_cast<const uint32_t*>(metadata),
                                static_cast<const float*>(scales), HWB_BIAS_ARGUMENT, HWB_ACT, n, m, k, static_cast<uint16_t*>(y));
}
