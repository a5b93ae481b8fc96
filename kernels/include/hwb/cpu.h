// Runs the source of a kernel on a CPU, under g++ -std=c++20, to test what it computes.
//
// A CUDA thread is a fiber (ucontext); a block's fibers take turns on one thread, blocks run one after another. A fiber
// runs until it must wait for others: at __syncthreads, or at something a warp does together (a shuffle, an mma). The
// last to arrive does the work for all. Found this way: wrong indices and layouts, reads past an array (AddressSanitizer),
// misaligned wide loads and overflow (UndefinedBehaviorSanitizer), barriers and collectives that not all reach (named,
// with the line they wait at), shared memory read before it is written, more than 48 KiB of it. Not found: races between
// barriers, timing, what the compiler for the GPU does.
//
// A fiber that has ended does not count at a barrier: here, as in the strict reading of CUDA, it is missed.
//
//   hwb::cpu::launch(grid, block, kernel, arguments...)
//   hwb::cpu::together(mask, "name", in, work, where)   a collective: work(lanes' inputs, lanes' outputs) once per warp
#pragma once

#include <sanitizer/asan_interface.h>
#include <ucontext.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <source_location>
#include <type_traits>
#include <utility>
#include <vector>

#ifndef HWB_ARCH
#define HWB_ARCH 800
#endif
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define HWB_DEVICE inline
#define HWB_SHARED(type, name, count) \
  alignas(16) static type name[count]; \
  hwb::cpu::open_shared(name, sizeof name)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

namespace hwb::cpu {

using Where = std::source_location;
constexpr size_t kStack = 64 * 1024, kLane = 64, kMostShared = 48 * 1024;

struct Meeting {  // what some fibers wait for
  uint32_t mask = 0, arrived = 0;
  unsigned count = 0, generation = 0;
  const char* what = nullptr;
  unsigned char in[32 * kLane], out[32 * kLane];
};

struct Copy {  // a cp.async under way
  void* to;
  unsigned char bytes[16];
  unsigned size;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  dim3 thread;
  unsigned number = 0;
  bool ended = false;
  const Meeting* waits = nullptr;
  unsigned generation = 0;
  const char* what = "";
  Where where;
  std::vector<std::vector<Copy>> copies;  // groups; the last is open
};

struct Block {
  dim3 index, size, grid;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::vector<std::unique_ptr<Meeting>>> warps;  // of each warp, one meeting per mask
  Meeting all;
  std::vector<const void*> shared;
  size_t shared_bytes = 0;
  void (*body)(const void*) = nullptr;
  const void* arguments = nullptr;
};

inline Block block;
inline Fiber* current = nullptr;
inline ucontext_t scheduler;

[[noreturn]] inline void fail(const char* message, const char* a = "", const char* b = "", const Where& where = Where::current()) {
  std::fprintf(stderr, "hwb: %s%s%s (%s:%u)\n", message, a, b, where.file_name(), unsigned(where.line()));
  std::_Exit(3);
}

inline void open_shared(void* at, size_t bytes) {
  for (const void* each : block.shared)
    if (each == at) return;
  block.shared.push_back(at);
  block.shared_bytes += bytes;
  if (block.shared_bytes > kMostShared) fail("more than 48 KiB of static shared memory");
  std::memset(at, 0xff, bytes);
}

inline void wait_for(const Meeting& meeting, const char* what, const Where& where) {
  current->waits = &meeting;
  current->generation = meeting.generation;
  current->what = what;
  current->where = where;
  swapcontext(&current->context, &scheduler);
  current->waits = nullptr;
}

inline unsigned lanes_of(unsigned warp) {
  unsigned left = unsigned(block.fibers.size()) - warp * 32;
  return left < 32 ? left : 32;
}

template <class In, class Out, class Work>
Out together(uint32_t mask, const char* what, const In& in, Work work, const Where& where = Where::current()) {
  static_assert(sizeof(In) <= kLane && sizeof(Out) <= kLane);
  const unsigned warp = current->number / 32, lane = current->number % 32, lanes = lanes_of(warp);
  if (lanes < 32) mask &= (1u << lanes) - 1;
  if (!(mask >> lane & 1)) fail("a lane is not in the mask of its own ", what, "", where);
  Meeting* meeting = nullptr;
  for (auto& each : block.warps[warp])
    if (each->mask == mask) meeting = each.get();
  if (!meeting) {
    block.warps[warp].push_back(std::make_unique<Meeting>());
    meeting = block.warps[warp].back().get();
    meeting->mask = mask;
  }
  if (!meeting->arrived) meeting->what = what;
  if (std::strcmp(meeting->what, what) != 0) fail("lanes of one warp are at different collectives, one at ", meeting->what, "", where);
  std::memcpy(meeting->in + lane * kLane, &in, sizeof in);
  meeting->arrived |= 1u << lane;
  if (meeting->arrived == mask) {
    In ins[32];
    Out outs[32];
    std::memset(static_cast<void*>(ins), 0, sizeof ins);
    for (unsigned i = 0; i < 32; ++i)
      if (mask >> i & 1) std::memcpy(static_cast<void*>(&ins[i]), meeting->in + i * kLane, sizeof(In));
    std::memset(static_cast<void*>(outs), 0, sizeof outs);
    work(ins, outs);
    for (unsigned i = 0; i < 32; ++i) std::memcpy(meeting->out + i * kLane, static_cast<void*>(&outs[i]), sizeof(Out));
    meeting->arrived = 0;
    ++meeting->generation;
  } else {
    wait_for(*meeting, what, where);
  }
  Out out;
  std::memcpy(static_cast<void*>(&out), meeting->out + lane * kLane, sizeof out);
  return out;
}

inline void deadlock() {
  std::fprintf(stderr, "hwb: deadlock in block (%u, %u, %u):\n", block.index.x, block.index.y, block.index.z);
  for (size_t i = 0, from = 0; i < block.fibers.size(); ++i) {
    const Fiber &a = *block.fibers[i], &next = *block.fibers[i + 1 < block.fibers.size() ? i + 1 : i];
    const bool same = &a != &next && a.ended == next.ended && (a.ended || (a.what == next.what && a.where.line() == next.where.line()));
    if (same) continue;
    if (a.ended) std::fprintf(stderr, "  threads %zu to %zu have ended\n", from, i);
    else std::fprintf(stderr, "  threads %zu to %zu wait at %s (%s:%u)\n", from, i, a.what, a.where.file_name(), unsigned(a.where.line()));
    from = i + 1;
  }
  std::_Exit(3);
}

inline void trampoline() {
  block.body(block.arguments);
  current->ended = true;
  swapcontext(&current->context, &scheduler);
}

inline void prepare(Fiber& fiber) {
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack.get(), kStack);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, trampoline, 0);
}

inline void run_block() {
  const size_t threads = size_t(block.size.x) * block.size.y * block.size.z;
  while (block.fibers.size() > threads) block.fibers.pop_back();
  while (block.fibers.size() < threads) block.fibers.push_back(std::make_unique<Fiber>());
  block.warps.clear();
  block.warps.resize((threads + 31) / 32);
  block.all = Meeting{};
  block.shared.clear();
  block.shared_bytes = 0;
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = *block.fibers[i];
    fiber.thread = dim3(unsigned(i % block.size.x), unsigned(i / block.size.x % block.size.y), unsigned(i / block.size.x / block.size.y));
    fiber.number = unsigned(i);
    fiber.ended = false;
    fiber.waits = nullptr;
    fiber.copies.assign(1, {});
    prepare(fiber);
  }
  for (size_t left = threads; left > 0;) {
    bool any = false;
    for (auto& fiber : block.fibers) {
      if (fiber->ended || (fiber->waits && fiber->waits->generation == fiber->generation)) continue;
      any = true;
      current = fiber.get();
      swapcontext(&scheduler, &fiber->context);
      left -= fiber->ended;
    }
    if (!any) deadlock();
  }
}

template <class... Parameters, class... Arguments>
void launch(dim3 grid, dim3 threads, void (*kernel)(Parameters...), Arguments... arguments) {
  auto call = [&] { kernel(arguments...); };
  block.grid = grid;
  block.size = threads;
  block.body = [](const void* it) { (*static_cast<const decltype(call)*>(it))(); };
  block.arguments = &call;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block.index = dim3(x, y, z);
        run_block();
      }
}

template <class T, class From>
T shuffle(uint32_t mask, const char* what, T value, From from, const Where& where) {
  return together<T, T>(mask, what, value, [&](const T* in, T* out) {
    for (int i = 0; i < 32; ++i) {
      const int source = from(i);
      if (!(mask >> source & 1) && (mask >> i & 1)) fail("a shuffle reads a lane that is not in its mask: ", what, "", where);
      out[i] = in[source];
    }
  }, where);
}

}  // namespace hwb::cpu

#define threadIdx (hwb::cpu::current->thread)
#define blockIdx (hwb::cpu::block.index)
#define blockDim (hwb::cpu::block.size)
#define gridDim (hwb::cpu::block.grid)

inline void __syncthreads(const hwb::cpu::Where where = hwb::cpu::Where::current()) {
  hwb::cpu::Meeting& all = hwb::cpu::block.all;
  if (++all.count == hwb::cpu::block.fibers.size()) {
    all.count = 0;
    ++all.generation;
  } else {
    hwb::cpu::wait_for(all, "__syncthreads", where);
  }
}
inline void __syncwarp(uint32_t mask = ~0u, const hwb::cpu::Where where = hwb::cpu::Where::current()) {
  hwb::cpu::together<char, char>(mask, "__syncwarp", 0, [](const char*, char*) {}, where);
}
// A shuffle stays in segments of `width` lanes; outside of its segment a lane reads itself (up, down, xor) or wraps (idx).
template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, const hwb::cpu::Where where = hwb::cpu::Where::current()) {
  struct Asked { T value; int source; };
  return hwb::cpu::together<Asked, T>(mask, "__shfl_sync", {value, source}, [&](const Asked* in, T* out) {
    for (int i = 0; i < 32; ++i) out[i] = in[(i & ~(width - 1)) | (in[i].source & (width - 1))].value;
  }, where);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int by, int width = 32, const hwb::cpu::Where where = hwb::cpu::Where::current()) {
  return hwb::cpu::shuffle(mask, "__shfl_up_sync", value, [=](int i) { return (i & (width - 1)) < by ? i : i - by; }, where);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, int by, int width = 32, const hwb::cpu::Where where = hwb::cpu::Where::current()) {
  return hwb::cpu::shuffle(mask, "__shfl_down_sync", value, [=](int i) { return (i & (width - 1)) + by >= width ? i : i + by; }, where);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int by, int width = 32, const hwb::cpu::Where where = hwb::cpu::Where::current()) {
  return hwb::cpu::shuffle(mask, "__shfl_xor_sync", value, [=](int i) { return (i ^ by) / width == i / width ? i ^ by : i; }, where);
}
inline uint32_t __ballot_sync(uint32_t mask, int vote, const hwb::cpu::Where where = hwb::cpu::Where::current()) {
  return hwb::cpu::together<int, uint32_t>(mask, "__ballot_sync", vote != 0, [](const int* in, uint32_t* out) {
    uint32_t all = 0;
    for (int i = 0; i < 32; ++i) all |= uint32_t(in[i]) << i;
    for (int i = 0; i < 32; ++i) out[i] = all;
  }, where);
}
inline int __any_sync(uint32_t mask, int vote, const hwb::cpu::Where where = hwb::cpu::Where::current()) { return __ballot_sync(mask, vote, where) != 0; }
inline int __popc(uint32_t v) { return std::popcount(v); }
inline int __popcll(uint64_t v) { return std::popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
template <class T>
T __ldg(const T* p) { return *p; }
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = uint64_t(b) << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = selector >> (4 * i) & 15;
    uint32_t byte = uint32_t(both >> (8 * (pick & 7))) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;
    out |= byte << (8 * i);
  }
  return out;
}
inline float __expf(float v) { return std::exp(v); }
