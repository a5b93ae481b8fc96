// Y[N, M] = X[N, K] · W[M, K]ᵀ with W in 2:4: of every four neighbouring weights of a row at most two are kept.
//
// A strip is 16 rows. Its weights lie as the operand of mma.sp.m16n8k32 wants them, so that a lane reads 16 bytes and
// has its registers; 64 columns, a unit, are two such steps and share 32 words of metadata.
// A block has 8 warps and `Strips` strips: warp w takes the units w, w+8, ..., each of all strips, so that what it reads
// of X serves all of them; in the end the warps add up in shared memory.
// X: lane (g, t) reads 16 bytes of row g. The instruction wants a group of four columns in two neighbouring lanes, so even
// and odd lanes swap halves of what they read: group 4u + r of the step becomes group 2r + u of the instruction. The packed
// weights are in that order.
#pragma once
#include "hwb/epilogue.cuh"
#include "hwb/load.cuh"
#include "hwb/mma.cuh"
#include "hwb/reduce.cuh"

namespace hwb::s24_detail {

constexpr int kWarps = 8, kUnit = 64;

template <bool Int8>
struct Unit {  // of one strip
  uint4 words[Int8 ? 1 : 2];
  uint32_t meta;

  HWB_DEVICE void load(const unsigned char* values, const uint32_t* metadata, int unit) {  // both at the lane's place
    constexpr int kCount = Int8 ? 1 : 2;
#pragma unroll
    for (int i = 0; i < kCount; ++i) words[i] = stream16(values + (size_t(unit) * kCount + i) * 512);
    meta = stream4(metadata + size_t(unit) * 32);
  }

  template <int Step>
  HWB_DEVICE void operand(uint32_t (&a)[4]) const {
    if constexpr (Int8) {
      int8_to_fragment(Step ? words[0].z : words[0].x, Step ? words[0].w : words[0].y, a);
    } else {
      a[0] = words[Step].x, a[1] = words[Step].y, a[2] = words[Step].z, a[3] = words[Step].w;
    }
  }
};

HWB_DEVICE void swap_halves(const uint4& w, int lane, uint32_t (&b)[4]) {
  const bool odd = lane & 1;
  const uint32_t first = __shfl_xor_sync(kWarp, odd ? w.x : w.y, 1), second = __shfl_xor_sync(kWarp, odd ? w.z : w.w, 1);
  b[0] = odd ? first : w.x;
  b[1] = odd ? second : w.z;
  b[2] = odd ? w.y : first;
  b[3] = odd ? w.w : second;
}

template <int Step, int Tiles, int Strips, bool Int8>
HWB_DEVICE void multiply(float (&d)[Strips * Tiles][4], const Unit<Int8> (&units)[Strips], const uint16_t* const (&rows)[Tiles], int column, int lane) {
  uint32_t a[Strips][4];
#pragma unroll
  for (int s = 0; s < Strips; ++s) units[s].template operand<Step>(a[s]);
#pragma unroll
  for (int i = 0; i < Tiles; ++i) {
    uint32_t b[4];
    swap_halves(load16(rows[i] + column + 32 * Step), lane, b);
#pragma unroll
    for (int s = 0; s < Strips; ++s) mma_sp_m16n8k32<Step>(d[s * Tiles + i], a[s], b, units[s].meta);
  }
}

}  // namespace hwb::s24_detail

namespace hwb {

template <int TileN, int Strips, bool Int8>
HWB_DEVICE void s24(const uint16_t* x, const void* values, const uint32_t* metadata, const float* scales, const uint16_t* bias, int act, int n, int m,
                    int k, uint16_t* y) {
  using namespace s24_detail;
  constexpr int kTiles = TileN / 8, kAhead = Strips >= 4 ? 1 : 4 / Strips, kUnitBytes = Int8 ? 16 : 32;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const int units = k / kUnit, strips = ceil_div(m, 16), strip = blockIdx.x * Strips, column = blockIdx.y * TileN;

  const unsigned char* mine[Strips];
  const uint32_t* places[Strips];
#pragma unroll
  for (int s = 0; s < Strips; ++s) {
    const size_t which = strip + s < strips ? strip + s : strips - 1;  // read again, and never stored
    mine[s] = held(static_cast<const unsigned char*>(values) + which * units * (kUnitBytes * 32) + lane * 16);
    places[s] = held(metadata + which * units * 32 + lane);
  }
  const uint16_t* rows[kTiles];
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int row = column + 8 * i + lane / 4;
    rows[i] = held(x + size_t(row < n ? row : n - 1) * k + lane % 4 * 8);  // past n: read again, and never stored
  }

  float d[Strips * kTiles][4] = {};
  for (int first = warp; first < units; first += kWarps * kAhead) {
    Unit<Int8> loaded[kAhead][Strips];
#pragma unroll
    for (int u = 0; u < kAhead; ++u)
      if (first + u * kWarps < units)
#pragma unroll
        for (int s = 0; s < Strips; ++s) loaded[u][s].load(mine[s], places[s], first + u * kWarps);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int unit = first + u * kWarps;
      if (unit >= units) break;
      multiply<0, kTiles, Strips, Int8>(d, loaded[u], rows, unit * kUnit, lane);
      multiply<1, kTiles, Strips, Int8>(d, loaded[u], rows, unit * kUnit, lane);
    }
  }

  HWB_SHARED(float, sums, kWarps / 2 * 128 * Strips * kTiles);
  reduce_warps<kWarps>(d, sums);
  if (warp != 0) return;
#pragma unroll
  for (int i = 0; i < Strips * kTiles; ++i)
    store_fragment(d[i], (strip + i / kTiles) * 16, column + i % kTiles * 8, n, m, scales, bias, act, y);
}

}  // namespace hwb
