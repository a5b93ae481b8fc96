// Y[N, M] = X[N, K] · W[M, K]ᵀ with W dense in 4 or 2 bits and an fp16 scale for every `group` columns of a row.
//
//   quantised_mm<Bits, TileN>(x, codes, scales, bias, act, n, m, k, group, y)
//
//   group    64 or 128
//   4 bits   a code u is the weight (u - 8) · scale          2 bits   (u - 1.5) · scale: four levels around zero
//
// Codes become fp16 exactly in registers: their bits are put into the mantissa of a power of two by one logical
// instruction, which a multiply-add takes off again, two weights at a time. The matrix instruction multiplies and sums in
// fp32, and after every 64 columns the sums are scaled. So a weight costs about 1.5 instructions at any N up to 8.
//
// A strip is 16 rows, a unit what a lane reads of a strip by 16 bytes: 64 columns of 4 bits, 128 of 2. Within 64 columns
// lane (g, t) has the 16 columns from 16t on, of rows g and g + 8, and of X it reads those of row g: the order of columns
// does not matter to a sum as long as both sides have the same.
// A block has 8 warps and two strips: warp w takes units w, w + 8, ... of both; in the end the warps add up.
#pragma once
#include "hwb/epilogue.cuh"
#include "hwb/load.cuh"
#include "hwb/mma.cuh"
#include "hwb/reduce.cuh"

namespace hwb {

HWB_DEVICE uint32_t fma_half2(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#else
  const auto fma = [](uint32_t x, uint32_t y, uint32_t z) {
    const double exact = double(half_to_float(uint16_t(x))) * half_to_float(uint16_t(y)) + half_to_float(uint16_t(z));
    return uint32_t(std::bit_cast<uint16_t>(_Float16(exact)));
  };
  return fma(a, b, c) | fma(a >> 16, b >> 16, c >> 16) << 16;
#endif
}

// (word & mask) | bits, which the compiler makes two instructions of.
template <uint32_t Mask>
HWB_DEVICE uint32_t pick(uint32_t word, uint32_t bits) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(word), "n"(Mask), "r"(bits));
  return d;
#else
  return (word & Mask) | bits;
#endif
}

namespace quantised_detail {

constexpr int kWarps = 8, kStrips = 2;

HWB_DEVICE constexpr uint32_t twice(uint32_t half) { return half | half << 16; }

// Codes at bit `At` of both halves of a word: the half 1024 + code · 2^At, then (code · 2^At + 1024) · 2^-At - offset.
template <int At, uint32_t Mask, uint32_t Offset>
HWB_DEVICE uint32_t widen(uint32_t word) {
  constexpr uint32_t kDown = twice(uint32_t(15 - At) << 10);  // 2^-At
  return fma_half2(pick<twice(Mask << At)>(word, 0x64006400u), kDown, twice(Offset));
}

// The operand of 16 columns of a strip: `word` has them all (4 bits), or its half `Half` has (2 bits).
template <int Bits, int Half>
HWB_DEVICE void operand(uint32_t word, uint32_t (&a)[4]) {
  if constexpr (Bits == 4) {  // register r: bits 4r and 16 + 4r
    const uint32_t high = word >> 8;
    a[0] = widen<0, 15, 0xe408>(word);  // -(1024 + 8)
    a[1] = widen<4, 15, 0xd480>(word);  // -(64 + 8)
    a[2] = widen<0, 15, 0xe408>(high);
    a[3] = widen<4, 15, 0xd480>(high);
  } else if constexpr (Half == 0) {  // register r: bits 2r and 16 + 2r; at bit 0 an offset of 1025.5 is no half
    a[0] = widen<2, 3, 0xdc06>(word << 2);  // -(256 + 1.5)
    a[1] = widen<2, 3, 0xdc06>(word);
    a[2] = widen<4, 3, 0xd418>(word);  // -(64 + 1.5)
    a[3] = widen<6, 3, 0xcc60>(word);  // -(16 + 1.5)
  } else {
    const uint32_t high = word >> 8;
    a[0] = widen<8, 3, 0xc580>(word);  // -(4 + 1.5)
    a[1] = widen<2, 3, 0xdc06>(high);
    a[2] = widen<4, 3, 0xd418>(high);
    a[3] = widen<6, 3, 0xcc60>(high);
  }
}

struct Scales {  // of a lane's two rows
  float low, high;

  explicit HWB_DEVICE Scales(uint32_t pair) : low(half_to_float(uint16_t(pair))), high(half_to_float(uint16_t(pair >> 16))) {}
  HWB_DEVICE void add(float (&d)[4], const float (&part)[4]) const {
    d[0] += low * part[0];
    d[1] += low * part[1];
    d[2] += high * part[2];
    d[3] += high * part[3];
  }
};

// The operands of 64 columns of a strip.
template <int Bits>
struct Operands {
  uint32_t a[4][4];

  HWB_DEVICE void widen(uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
    if constexpr (Bits == 4) {
      operand<4, 0>(w0, a[0]), operand<4, 0>(w1, a[1]), operand<4, 0>(w2, a[2]), operand<4, 0>(w3, a[3]);
    } else {
      operand<2, 0>(w0, a[0]), operand<2, 1>(w0, a[1]), operand<2, 0>(w1, a[2]), operand<2, 1>(w1, a[3]);
    }
  }
  HWB_DEVICE void multiply(float (&part)[4], const uint4& first, const uint4& second) const {
    mma_m16n8k16(part, a[0], {first.x, first.y});
    mma_m16n8k16(part, a[1], {first.z, first.w});
    mma_m16n8k16(part, a[2], {second.x, second.y});
    mma_m16n8k16(part, a[3], {second.z, second.w});
  }
};

}  // namespace quantised_detail

template <int Bits, int TileN>
HWB_DEVICE void quantised_mm(const uint16_t* x, const void* codes, const uint32_t* scales, const uint16_t* bias, int act, int n, int m, int k,
                             int group, uint16_t* y) {
  using namespace quantised_detail;
  constexpr int kTiles = TileN / 8, kAhead = TileN < 32 ? 2 : 1, kUnit = 256 / Bits, kBlocks = kUnit / 64;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const int units = ceil_div(k, kUnit), shift = group == 128 ? 7 : 6, groups = k >> shift, strips = ceil_div(m, 16), strip = blockIdx.x * kStrips, column = blockIdx.y * TileN;

  const bool two = strip + 1 < strips;  // else the second strip is the first again, and never stored
  const auto* next = static_cast<const unsigned char*>(codes) + (size_t(strip) * units + warp) * 512 + lane * 16;
  const auto* factors = scales + size_t(strip) * groups * 8 + lane / 4;
  const int far = two ? units * 512 : 0, far_factors = two ? groups * 8 : 0;
  const uint16_t* inputs = x + size_t(column) * k;
  int rows[kTiles];  // of X; a column of Y that does not exist is that of the last row, and never stored
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int row = 8 * i + lane / 4;
    rows[i] = (column + row < n ? row : n - 1 - column) * k + lane % 4 * 16;
  }

  float d[kStrips * kTiles][4] = {};
  uint4 ahead[kAhead][kStrips] = {};
  const auto load = [&](int u, int unit) {
    if (unit >= units) return;
    ahead[u][0] = stream16(next);
    ahead[u][1] = stream16(next + far);
    next += kWarps * 512;
  };
#pragma unroll
  for (int u = 0; u < kAhead; ++u) load(u, warp + u * kWarps);
  for (int first = warp; first < units; first += kWarps * kAhead) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int unit = first + u * kWarps;
      if (unit >= units) break;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const int at = unit * kUnit + block * 64;
        if (block > 0 && at >= k) break;
        Operands<Bits> operands[kStrips];
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
          const uint4& words = ahead[u][s];
          if (block == 0) operands[s].widen(words.x, words.y, words.z, words.w);
          else operands[s].widen(words.z, words.w, 0, 0);
        }
        if (block == kBlocks - 1) load(u, unit + kWarps * kAhead);
        const int factor = (at >> shift) * 8;
        const Scales scale[kStrips] = {Scales(load4(factors + factor)), Scales(load4(factors + factor + far_factors))};
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          const uint16_t* input = inputs + (rows[i] + at);
          const uint4 low = load16(input), high = load16(input + 8);
#pragma unroll
          for (int s = 0; s < kStrips; ++s) {
            float part[4] = {};
            operands[s].multiply(part, low, high);
            scale[s].add(d[s * kTiles + i], part);
          }
        }
      }
    }
  }

  HWB_SHARED(float, sums, kWarps / 2 * 128 * kStrips * kTiles);
  reduce_warps<kWarps>(d, sums);
  if (warp != 0) return;
#pragma unroll
  for (int i = 0; i < kStrips * kTiles; ++i)
    store_fragment(d[i], (strip + i / kTiles) * 16, column + i % kTiles * 8, n, m, nullptr, bias, act, y);
}

}  // namespace hwb
