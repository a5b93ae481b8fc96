// Matrix instructions of a warp: inline PTX under nvcc, the PTX ISA's definition under g++.
//
// d += a · b, a row-major 16 x K in fp16, b K x 8 in fp16, d 16 x 8 in fp32. With g = lane / 4, t = lane % 4:
//
//   d[0] (g, 2t)  d[1] (g, 2t+1)  d[2] (g+8, 2t)  d[3] (g+8, 2t+1)
//   m16n8k16       a[0] (g, 2t..2t+1)  a[1] (g+8, 2t..)  a[2] (g, 2t+8..)  a[3] (g+8, 2t+8..)    b[r] (2t+8r.., g)
//                  sm_75 has no k16: it is done as two m16n8k8, which take a[0..1], b[0] and a[2..3], b[1]
//   mma_sp_m16n8k32<S>   2:4: a holds the two kept of every four, laid out as in m16n8k16 over the 16 kept columns;
//                  b[r] (2t+8r.., g) for r = 0..3. sm_80 and newer.
//                  meta of lanes 4g+2S and 4g+2S+1: low half row g, high half row g+8, of the first and the last 16 columns;
//                  16 bits are four groups of 4 bits, each the two kept places, lower first. Other lanes' meta is not read.
//   load_matrix<Count>(r, p)           ldmatrix: r[i] of lane (g, t) = row g, columns 2t..2t+1 of matrix i; lane 8i + j
//                                      gives the address of row j of matrix i: 16 bytes of shared memory
//   load_matrix_transposed<Count>(r, p)   the same of the transposed matrix: rows 2t..2t+1 of column g
//   store_matrix_transposed(p, r)      stmatrix of four: the same the other way; sm_90 and newer
//   transpose8(r)                      movmatrix: an 8x8 matrix of halves, held as above, transposed in registers
//
// HWB_ORDERED_METADATA 0 writes mma.sp as PTX older than 8.5 has it: without a promise that a group's places ascend, which
// ours do. Operands and result are the same; the PTX ISA announces that later GPUs will be slower at it.
#pragma once
#include "hwb/half.cuh"
#include "hwb/types.cuh"

namespace hwb {

#if defined(__CUDACC__)

#ifndef HWB_ORDERED_METADATA
#define HWB_ORDERED_METADATA (__CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1205)
#endif
#if HWB_ORDERED_METADATA
#define HWB_MMA_SP "mma.sp::ordered_metadata"
#else
#define HWB_MMA_SP "mma.sp"
#endif

HWB_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if HWB_ARCH >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int i = 0; i < 2; ++i)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
#endif
}

template <int Selector>
HWB_DEVICE void mma_sp_m16n8k32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t meta) {
#if HWB_ARCH >= 800
  asm volatile(HWB_MMA_SP ".sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, "
               "{%0, %1, %2, %3}, %12, %13;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(meta), "n"(Selector));
#endif
}

template <int Count>
HWB_DEVICE void load_matrix(uint32_t (&r)[Count], const void* row) {
  static_assert(Count == 1 || Count == 2 || Count == 4);
  const uint32_t p = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (Count == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(p) : "memory");
  else if constexpr (Count == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(p) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p) : "memory");
}

template <int Count>
HWB_DEVICE void load_matrix_transposed(uint32_t (&r)[Count], const void* row) {
  static_assert(Count == 1 || Count == 2 || Count == 4);
  const uint32_t p = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (Count == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(p) : "memory");
  else if constexpr (Count == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(p) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p) : "memory");
}

HWB_DEVICE void store_matrix_transposed(void* row, const uint32_t (&r)[4]) {
#if HWB_ARCH >= 900
  const uint32_t p = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(p), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
#endif
}

HWB_DEVICE uint32_t transpose8(uint32_t r) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(r));
  return out;
}

#else

namespace cpu {

template <int A, int B>
struct Operands { uint32_t a[A], b[B], meta; float d[4]; };
struct Result { float d[4]; };

inline float part(uint32_t pair, int i) { return half_to_float(uint16_t(pair >> (16 * i))); }

// Element (row, column) of a 16-row operand A whose registers cover 8 columns each, and (k, column) of B.
template <int A, int B>
float element_a(const Operands<A, B>* in, int row, int k) { return part(in[row % 8 * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)], k & 1); }
template <int A, int B>
float element_b(const Operands<A, B>* in, int k, int column) { return part(in[column * 4 + k % 8 / 2].b[k / 8], k & 1); }

template <int A, int B, class Sum>
void multiply(const char* what, float (&d)[4], const uint32_t (&a)[A], const uint32_t (&b)[B], uint32_t meta, Sum sum) {
  Operands<A, B> mine{};
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  std::memcpy(mine.d, d, sizeof d);
  mine.meta = meta;
  const Result result = together<Operands<A, B>, Result>(kWarp, what, mine, [&](const Operands<A, B>* in, Result* out) {
    for (int row = 0; row < 16; ++row)
      for (int column = 0; column < 8; ++column) {
        const int lane = row % 8 * 4 + column / 2, i = row / 8 * 2 + column % 2;
        out[lane].d[i] = in[lane].d[i] + float(sum(in, row, column));
      }
  });
  std::memcpy(d, result.d, sizeof d);
}

}  // namespace cpu

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if (HWB_ARCH >= 800) {
    cpu::multiply("mma.m16n8k16", d, a, b, 0, [](const auto* in, int row, int column) {
      double sum = 0;
      for (int k = 0; k < 16; ++k) sum += double(cpu::element_a(in, row, k)) * cpu::element_b(in, k, column);
      return sum;
    });
    return;
  }
  for (int i = 0; i < 2; ++i) {
    const uint32_t half_a[2] = {a[2 * i], a[2 * i + 1]}, half_b[1] = {b[i]};
    cpu::multiply("mma.m16n8k8", d, half_a, half_b, 0, [](const auto* in, int row, int column) {
      double sum = 0;
      for (int k = 0; k < 8; ++k) sum += double(cpu::element_a(in, row, k)) * cpu::element_b(in, k, column);
      return sum;
    });
  }
}

template <int Selector>
inline void mma_sp_m16n8k32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t meta) {
  static_assert(Selector == 0 || Selector == 1);
  if (HWB_ARCH < 800) cpu::fail("mma.sp needs sm_80");
  cpu::multiply("mma.sp.m16n8k32", d, a, b, meta, [](const auto* in, int row, int column) {
    double sum = 0;
    for (int kept = 0; kept < 16; kept += 2) {
      const int group = kept / 2;  // of four columns
      const uint32_t word = in[row % 8 * 4 + 2 * Selector + group / 4].meta, places = word >> (16 * (row / 8) + 4 * (group % 4)) & 15;
      const int first = int(places & 3), second = int(places >> 2);
      if (first >= second) cpu::fail("mma.sp: the two places of a group are not in order");
      sum += double(cpu::element_a(in, row, kept)) * cpu::element_b(in, 4 * group + first, column);
      sum += double(cpu::element_a(in, row, kept + 1)) * cpu::element_b(in, 4 * group + second, column);
    }
    return sum;
  });
}

namespace cpu {

template <int Count>
struct Fragments { uint32_t r[Count]; };

template <int Count>
void load_matrices(const char* what, bool transposed, uint32_t (&r)[Count], const void* row) {
  static_assert(Count == 1 || Count == 2 || Count == 4);
  const auto result = together<const void*, Fragments<Count>>(kWarp, what, row, [&](const void* const* in, Fragments<Count>* out) {
    uint16_t m[8][8];
    for (int i = 0; i < Count; ++i) {
      for (int j = 0; j < 8; ++j) {
        const uint4 line = *static_cast<const uint4*>(in[8 * i + j]);  // read as 16 aligned bytes: the sanitizers look on
        std::memcpy(m[j], &line, 16);
      }
      for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, c = lane % 4 * 2;
        out[lane].r[i] = transposed ? pack_half2(m[c][g], m[c + 1][g]) : pack_half2(m[g][c], m[g][c + 1]);
      }
    }
  });
  std::memcpy(r, result.r, sizeof r);
}

}  // namespace cpu

template <int Count>
inline void load_matrix(uint32_t (&r)[Count], const void* row) { cpu::load_matrices("ldmatrix", false, r, row); }
template <int Count>
inline void load_matrix_transposed(uint32_t (&r)[Count], const void* row) { cpu::load_matrices("ldmatrix.trans", true, r, row); }

inline void store_matrix_transposed(void* row, const uint32_t (&r)[4]) {
  if (HWB_ARCH < 900) cpu::fail("stmatrix needs sm_90");
  struct Given { void* row; uint32_t r[4]; } given{row, {r[0], r[1], r[2], r[3]}};
  struct Nothing {};
  cpu::together<Given, Nothing>(kWarp, "stmatrix.trans", given, [](const Given* in, Nothing*) {
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 8; ++j) {
        uint16_t line[8];
        for (int g = 0; g < 8; ++g) line[g] = uint16_t(in[g * 4 + j / 2].r[i] >> (16 * (j & 1)));
        uint4 words;
        std::memcpy(&words, line, 16);
        *static_cast<uint4*>(in[8 * i + j].row) = words;  // written as 16 aligned bytes: the sanitizers look on
      }
  });
}

inline uint32_t transpose8(uint32_t r) {
  return cpu::together<uint32_t, uint32_t>(kWarp, "movmatrix", r, [](const uint32_t* in, uint32_t* out) {
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, c = lane % 4 * 2;
      const auto at = [&](int row, int column) { return uint16_t(in[row * 4 + column / 2] >> (16 * (column & 1))); };
      out[lane] = pack_half2(at(c, g), at(c + 1, g));
    }
  });
}

#endif

}  // namespace hwb
