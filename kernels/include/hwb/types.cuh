// What every kernel file begins with: the words that mean one thing to nvcc and the same thing to g++.
//
//   HWB_ARCH               the compute capability times ten, as __CUDA_ARCH__ (800 is sm_80); under g++ -DHWB_ARCH=750 tries
//                          the path of Turing, 800 is the default
//   HWB_DEVICE             in front of a function of the device
//   HWB_SHARED(T, a, n)    static shared memory: T a[n], 16-byte aligned. Under g++ it is filled with 0xff (NaN) for every
//                          block, so what is read before it is written shows
//   HWB_ENTRY(name)        the name of the extern "C" entry; the emulation gives each variant a name of its own
//   HWB_TILE_N             columns of Y (rows of X) that a block computes: set by the compiler's command line
//   HWB_BIAS, HWB_ACT      see epilogue.cuh
//   hwb::ceil_div(a, b)
//
// NVRTC has no <cstdint>; nothing else is included for the device.
#pragma once

#if defined(__CUDACC__)
#if defined(__CUDACC_RTC__)
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
#else
#include <cstdint>
#endif
#if defined(__CUDA_ARCH__)
#define HWB_ARCH __CUDA_ARCH__
#else
#define HWB_ARCH 800  // nvcc reads the file once more for the host
#endif
#define HWB_DEVICE __device__ __forceinline__
#define HWB_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#else
#include "hwb/cpu.h"
#endif

#ifndef HWB_ENTRY
#define HWB_ENTRY(name) name
#endif

namespace hwb {

constexpr uint32_t kWarp = 0xffffffffu;  // every lane

HWB_DEVICE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace hwb
