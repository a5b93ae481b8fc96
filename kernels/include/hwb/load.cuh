// Loads from global memory.
//
//   uint4 / uint2 / uint32_t stream16 / stream8 / stream4(p)   the weight: read once, through the read-only path, not kept in L1;
//                                                               p is a multiple of 16 / 8 / 4 bytes
//   uint4 / uint2 / uint32_t load16 / load8 / load4(p)          the activations: read by many, kept in L1
//   uint16_t load2(p)
//   P held(p)                                                   p, in a register from here on: without it the compiler adds up
//                                                               an address anew in every branch that loads
//   void copy_async16(shared, global, valid)                    cp.async of 16 bytes (zeros where not valid); sm_75 has no
//   void copy_commit(); void copy_wait<Pending>()               cp.async and copies at once
//
// In the emulation a copy arrives no sooner than the copy_wait that covers it, so that a missing wait shows.
#pragma once
#include "hwb/types.cuh"

namespace hwb {

#if defined(__CUDACC__)
HWB_DEVICE uint4 stream16(const void* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
HWB_DEVICE uint2 stream8(const void* p) {
  uint2 v;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
HWB_DEVICE uint32_t stream4(const void* p) {
  uint32_t v;
  asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
template <class P>
HWB_DEVICE P held(P p) {
  asm volatile("" : "+l"(p));
  return p;
}
HWB_DEVICE uint4 load16(const void* p) { return __ldg(static_cast<const uint4*>(p)); }
HWB_DEVICE uint2 load8(const void* p) { return __ldg(static_cast<const uint2*>(p)); }
HWB_DEVICE uint32_t load4(const void* p) { return __ldg(static_cast<const uint32_t*>(p)); }
HWB_DEVICE uint16_t load2(const void* p) { return __ldg(static_cast<const uint16_t*>(p)); }
HWB_DEVICE void copy_async16(void* shared, const void* global, bool valid) {
#if HWB_ARCH >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global),
               "r"(valid ? 16 : 0) : "memory");
#else
  *static_cast<uint4*>(shared) = valid ? load16(global) : uint4{0, 0, 0, 0};
#endif
}
HWB_DEVICE void copy_commit() {
#if HWB_ARCH >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int Pending>
HWB_DEVICE void copy_wait() {
#if HWB_ARCH >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}
#else
template <class P>
inline P held(P p) {
  return p;
}
inline uint4 load16(const void* p) { return *static_cast<const uint4*>(p); }
inline uint2 load8(const void* p) { return *static_cast<const uint2*>(p); }
inline uint32_t load4(const void* p) { return *static_cast<const uint32_t*>(p); }
inline uint16_t load2(const void* p) { return *static_cast<const uint16_t*>(p); }
inline uint4 stream16(const void* p) { return load16(p); }
inline uint2 stream8(const void* p) { return load8(p); }
inline uint32_t stream4(const void* p) { return load4(p); }
inline void copy_async16(void* shared, const void* global, bool valid) {
  const uint4 value = valid ? load16(global) : uint4{0, 0, 0, 0};
  if (HWB_ARCH < 800) {
    *static_cast<uint4*>(shared) = value;
    return;
  }
  cpu::Copy copy{static_cast<uint4*>(shared), {}, 16};
  std::memcpy(copy.bytes, &value, 16);
  cpu::current->copies.back().push_back(copy);
}
inline void copy_commit() { cpu::current->copies.emplace_back(); }
template <int Pending>
inline void copy_wait() {
  auto& groups = cpu::current->copies;  // the last one is still open
  while (groups.size() > size_t(Pending) + 1) {
    for (const cpu::Copy& copy : groups.front()) std::memcpy(copy.to, copy.bytes, copy.size);
    groups.erase(groups.begin());
  }
}
#endif

}  // namespace hwb
