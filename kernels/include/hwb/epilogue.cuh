// The end of a kernel: scale, bias, activation, rounding to fp16.
//
//   HWB_BIAS   0 or 1: the entry takes `const void* bias`, fp16[M], after the packed arrays, or does not
//   HWB_ACT    0 none, 1 relu, 2 gelu (tanh form), 3 silu
//   uint16_t finish(float sum, int row, const float* scales, const uint16_t* bias, int act)
//              scales (one per row of W) and bias may be nullptr; act is HWB_ACT, a constant that folds away
//   void store_fragment(d, row, column, n, m, scales, bias, act, y)
//              d as mma.cuh has it, its corner at row `row` of W and row `column` of Y; what lies outside is left out
//
// An entry (kernel.cu), which reads entry.cuh for its two macros, so that the emulation can compile it several times:
//   extern "C" __global__ void HWB_ENTRY(hwb_name)(const void* x, ..., HWB_BIAS_PARAMETER int n, int m, int k, void* y) {
//     hwb::name<HWB_TILE_N>(..., HWB_BIAS_ARGUMENT, HWB_ACT, ...);
#pragma once
#include "hwb/half.cuh"
#include "hwb/types.cuh"

namespace hwb {

// gelu's tanh form is x · sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3) (arXiv 1606.08415).
HWB_DEVICE float activate(float v, int act) {
  if (act == 1) return v > 0.f ? v : 0.f;
  if (act == 2) return v / (1.f + __expf(-1.5957691216f * (v + 0.044715f * v * v * v)));
  if (act == 3) return v / (1.f + __expf(-v));
  return v;
}

HWB_DEVICE uint16_t finish(float sum, int row, const float* scales, const uint16_t* bias, int act) {
  if (scales != nullptr) sum *= scales[row];
  if (bias != nullptr) sum += half_to_float(bias[row]);
  return float_to_half(activate(sum, act));
}

HWB_DEVICE void store_fragment(const float (&d)[4], int row, int column, int n, int m, const float* scales, const uint16_t* bias, int act,
                               uint16_t* y) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = row + lane / 4 + 8 * (i / 2), c = column + lane % 4 * 2 + i % 2;
    if (r < m && c < n) y[size_t(c) * m + r] = finish(d[i], r, scales, bias, act);
  }
}

}  // namespace hwb
