// fp16 as raw bits, so that no header of CUDA is needed and the CPU rounds the same way.
//
//   float    half_to_float(uint16_t)
//   uint16_t float_to_half(float)                       to nearest, ties to even
//   uint32_t pack_half2(uint16_t low, uint16_t high)
//   uint32_t sub_half2(uint32_t a, uint32_t b)           two halves at a time
//   void     int8_to_half(uint32_t four, uint32_t& low, uint32_t& high)
//            four bytes, each a signed value + 128 -> two pairs of halves, exactly: 0x64 in front of a byte u makes the
//            half 1024 + u, and 1152 is taken off. Two permutes and two subtractions for four values.
//   void     int8_to_fragment(uint32_t first, uint32_t last, uint32_t (&a)[4])
//            eight of them -> the operand a of m16n8k16, in the order of its registers
#pragma once
#include "hwb/types.cuh"

namespace hwb {

#if defined(__CUDACC__)
HWB_DEVICE float half_to_float(uint16_t h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
HWB_DEVICE uint16_t float_to_half(float f) {
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
HWB_DEVICE uint32_t sub_half2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("sub.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
#else
inline float half_to_float(uint16_t h) { return float(std::bit_cast<_Float16>(h)); }
inline uint16_t float_to_half(float f) { return std::bit_cast<uint16_t>(_Float16(f)); }
inline uint32_t sub_half2(uint32_t a, uint32_t b) {
  const auto sub = [](uint32_t x, uint32_t y) {
    return uint32_t(float_to_half(half_to_float(uint16_t(x)) - half_to_float(uint16_t(y))));
  };
  return sub(a, b) | sub(a >> 16, b >> 16) << 16;
}
#endif

HWB_DEVICE uint32_t pack_half2(uint16_t low, uint16_t high) { return uint32_t(low) | uint32_t(high) << 16; }

HWB_DEVICE void int8_to_half(uint32_t four, uint32_t& low, uint32_t& high) {
  constexpr uint32_t k1152 = 0x64806480u;
  low = sub_half2(__byte_perm(four, 0x64646464u, 0x4140), k1152);
  high = sub_half2(__byte_perm(four, 0x64646464u, 0x4342), k1152);
}

HWB_DEVICE void int8_to_fragment(uint32_t first, uint32_t last, uint32_t (&a)[4]) {
  int8_to_half(first, a[0], a[1]);
  int8_to_half(last, a[2], a[3]);
}

}  // namespace hwb
