// Y[N, M] = X[N, K] · W[M, K]ᵀ with W in blocks of 16 x 16 or 32 x 32, kept or dropped as a whole.
//
// A block of threads has 4 warps and one row of blocks; the warps take the kept blocks in turn, and add up in the end. X is
// read straight from where it lies: the order of the columns within a block is free, so the packed weights have the order
// in which a lane's registers are neighbours in X (lane t of four has columns 4t..4t+3 of 16, 8t..8t+7 of 32), 8 or 16
// bytes at a time.
#pragma once
#include "hwb/epilogue.cuh"
#include "hwb/load.cuh"
#include "hwb/mma.cuh"
#include "hwb/reduce.cuh"

namespace hwb::bsr_detail {

constexpr int kWarps = 4;

template <int Size, bool Int8>
struct Block {
  static constexpr int kTiles = Size / 16;  // rows of operands, and steps of 16 columns
  static constexpr int kWords = kTiles * kTiles * (Int8 ? 2 : 4);
  static constexpr int kBytes = Size * Size * (Int8 ? 1 : 2);
  uint32_t words[kWords];
  int column;

  static constexpr int kLaneBytes = kWords == 2 ? 8 : 16;

  HWB_DEVICE void load(const unsigned char* values, const uint16_t* columns) {  // both of the block, values at the lane's place
    if constexpr (kWords == 2) {
      const uint2 v = stream8(values);
      words[0] = v.x, words[1] = v.y;
    } else {
#pragma unroll
      for (int i = 0; i < kWords / 4; ++i) {
        const uint4 v = stream16(values + i * 512);
        words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
      }
    }
    column = load2(columns) * Size;
  }

  template <int Fragments>
  HWB_DEVICE void multiply(float (&d)[Fragments][4], const uint16_t* const (&rows)[Fragments / kTiles]) const {
    constexpr int kN = Fragments / kTiles;
    uint32_t b[kN][kTiles][2];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const uint16_t* p = rows[i] + column;
      if constexpr (kTiles == 1) {
        const uint2 v = load8(p);
        b[i][0][0] = v.x, b[i][0][1] = v.y;
      } else {
        const uint4 v = load16(p);
        b[i][0][0] = v.x, b[i][0][1] = v.y, b[i][kTiles - 1][0] = v.z, b[i][kTiles - 1][1] = v.w;
      }
    }
#pragma unroll
    for (int r = 0; r < kTiles; ++r)
#pragma unroll
      for (int s = 0; s < kTiles; ++s) {
        const uint32_t* w = words + (r * kTiles + s) * (Int8 ? 2 : 4);
        uint32_t a[4];
        if constexpr (Int8) int8_to_fragment(w[0], w[1], a);
        else a[0] = w[0], a[1] = w[1], a[2] = w[2], a[3] = w[3];
#pragma unroll
        for (int i = 0; i < kN; ++i) mma_m16n8k16(d[r * kN + i], a, b[i][s]);
      }
  }
};

}  // namespace hwb::bsr_detail

namespace hwb {

template <int TileN, int Size, bool Int8>
HWB_DEVICE void bsr(const uint16_t* x, const void* values, const uint16_t* columns, const int* starts, const float* scales, const uint16_t* bias,
                    int act, int n, int m, int k, uint16_t* y) {
  using namespace bsr_detail;
  using Held = Block<Size, Int8>;
  constexpr int kN = TileN / 8, kAhead = 16 / Held::kWords > 1 ? 16 / Held::kWords : 1;  // at least 64 bytes a lane under way
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, column = blockIdx.y * TileN;

  const uint16_t* rows[kN];
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    const int row = column + 8 * i + lane / 4;
    rows[i] = held(x + size_t(row < n ? row : n - 1) * k + lane % 4 * (Size / 4));  // past n: read again, and never stored
  }

  float d[Held::kTiles * kN][4] = {};
  const int end = starts[blockIdx.x + 1];
  for (int at = starts[blockIdx.x] + warp; at < end; at += kWarps * kAhead) {
    Held ahead[kAhead];
    const unsigned char* v = held(static_cast<const unsigned char*>(values) + size_t(at) * Held::kBytes + lane * Held::kLaneBytes);
    const uint16_t* c = held(columns + at);
#pragma unroll
    for (int u = 0; u < kAhead; ++u)
      if (at + u * kWarps < end) ahead[u].load(v + u * kWarps * Held::kBytes, c + u * kWarps);
#pragma unroll
    for (int u = 0; u < kAhead; ++u)
      if (at + u * kWarps < end) ahead[u].multiply(d, rows);
  }

  HWB_SHARED(float, sums, kWarps / 2 * 128 * Held::kTiles * kN);
  reduce_warps<kWarps>(d, sums);
  if (warp != 0) return;
#pragma unroll
  for (int i = 0; i < Held::kTiles * kN; ++i)
    store_fragment(d[i], blockIdx.x * Size + i / kN * 16, column + i % kN * 8, n, m, scales, bias, act, y);
}

}  // namespace hwb
