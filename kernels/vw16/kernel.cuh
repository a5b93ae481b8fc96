// Y[N, M] = X[N, K] · W[M, K]ᵀ with W vector-wise: a strip of 16 rows keeps whole columns, 16 weights high.
//
// Kept columns of a strip stand side by side in fragments, dense operands of mma.m16n8k16; which column of W each was is in
// `columns`. The matching rows of Xᵀ are gathered by ldmatrix, whose eight row addresses are free to choose, so the gather
// costs no instruction of its own. For that X stands in shared memory as [k][n]: a tile of columns at a time, transposed on
// the way (by stmatrix from sm_90 on, by movmatrix before), in a ring of two tiles. The 16-byte chunks of a row are swapped
// about by k (chunk), so that rows that lie a power of two apart are not all in the same banks.
// A block has `Warps` warps and `Strips` strips, all of which use the tile of X; the Warps/Strips warps of a strip take its
// fragments in turn, and add up in the end.
// A fragment is worked on with the tile that holds its last column; the format keeps its first column no further back than
// the tile before (kQuarter), and `starts` says which fragments end in which quarter. A warp loads kAhead fragments at once,
// and those that end in a later tile wait in registers: where few are kept, several tiles pass before it waits for memory.
#pragma once
#include "hwb/epilogue.cuh"
#include "hwb/load.cuh"
#include "hwb/mma.cuh"
#include "hwb/reduce.cuh"

namespace hwb::vw16_detail {

constexpr int kQuarter = 256, kTileHalves = 8192;

template <int TileN, int Warps>
struct Ring {  // X as [k][n]: two tiles of kTile columns
  static constexpr int kTile = kTileHalves / TileN, kChunks = TileN / 8;
  // A warp loads 8 n by 16 k, always of the same n; the next is kStride columns on, so addresses differ by constants.
  static constexpr int kLoads = kTileHalves / 128 / Warps, kStride = Warps * 16 / kChunks;

  uint16_t* shared;

  HWB_DEVICE uint16_t* chunk(int slot, int j) const { return shared + slot * TileN + (j ^ (slot / (8 / kChunks) & (kChunks - 1))) * 8; }

  // A lane's place in X. Rows past n and columns past k are read where there are some: the sums go nowhere.
  HWB_DEVICE static const uint16_t* row(const uint16_t* x, int column, int n, int k) {
    const int at = column + threadIdx.x / 32 % kChunks * 8 + (threadIdx.x & 31) / 4;
    return held(x + size_t(at < n ? at : n - 1) * k);
  }

  HWB_DEVICE static void load(uint2 (&staged)[kLoads], const uint16_t* row, int from, int k) {
    const int at = from + threadIdx.x / 32 / kChunks * 16 + threadIdx.x % 4 * 4;
    if (from + kTile <= k) {
      const uint16_t* p = held(row + at);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) staged[i] = load8(p + i * kStride);
    } else {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) staged[i] = load8(row + (at + i * kStride < k ? at + i * kStride : k - 4));
    }
  }

  // Before: lane (g, t) holds row g, columns 4t..4t+3. After: columns 4(g/2) + g%2 and two more, rows 2t, 2t+1. Lanes of the
  // upper half take the two the other way round: then the eight rows that are stored at once fall into different banks.
  HWB_DEVICE void store(const uint2 (&staged)[kLoads], int tile) const {
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, from = tile % 2 * kTileHalves;
    if constexpr (HWB_ARCH >= 900) {
      static_assert(kLoads % 2 == 0);
      const bool swapped = lane & 2;  // holds columns that the upper half takes
      const int r = lane % 8, at = warp / kChunks * 16 + r / 2 * 4 + r % 2 + (lane / 8 % 2 ^ r / 4) * 2;
      uint16_t* row = chunk(at, warp % kChunks) + from + lane / 16 * kStride * TileN;
#pragma unroll
      for (int i = 0; i < kLoads; i += 2) {
        const uint2 &v = staged[i], &w = staged[i + 1];
        store_matrix_transposed(row + i * kStride * TileN, {swapped ? v.y : v.x, swapped ? v.x : v.y, swapped ? w.y : w.x, swapped ? w.x : w.y});
      }
    } else {
      const int at = warp / kChunks * 16 + lane / 8 * 4 + lane / 4 % 2, to = from + lane % 4 * 2;
      const bool swapped = lane & 16;
      uint16_t* first = chunk(swapped ? at + 2 : at, warp % kChunks) + to;
      uint16_t* second = chunk(swapped ? at : at + 2, warp % kChunks) + to;
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const uint32_t x = transpose8(staged[i].x), y = transpose8(staged[i].y);
        *reinterpret_cast<uint32_t*>(first + i * kStride * TileN) = swapped ? y : x;
        *reinterpret_cast<uint32_t*>(second + i * kStride * TileN) = swapped ? x : y;
      }
    }
  }

  HWB_DEVICE const uint16_t* at(int k, int j) const { return chunk(k & (2 * kTile - 1), j); }
};

template <bool Int8>
struct Fragment {  // 16 kept columns, or 32 of int8
  static constexpr int kSteps = Int8 ? 2 : 1;
  uint4 words;
  int columns[kSteps];

  HWB_DEVICE void load(const unsigned char* values, const uint16_t* all) {  // both at the lane's place in the fragment
    words = stream16(values);
#pragma unroll
    for (int i = 0; i < kSteps; ++i) columns[i] = load2(all + i * 16);
  }

  template <int TileN, int Warps>
  HWB_DEVICE void multiply(float (&d)[TileN / 8][4], const Ring<TileN, Warps>& ring, int lane) const {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      uint32_t a[4] = {words.x, words.y, words.z, words.w};
      if constexpr (Int8) int8_to_fragment(i ? words.z : words.x, i ? words.w : words.y, a);
      if constexpr (TileN == 8) {
        uint32_t b[2];
        load_matrix_transposed(b, ring.at(columns[i], 0));
        mma_m16n8k16(d[0], a, b);
      } else {
#pragma unroll
        for (int j = 0; j < TileN / 8; j += 2) {
          uint32_t r[4];
          load_matrix_transposed(r, ring.at(columns[i], j + lane / 16));
          const uint32_t even[2] = {r[0], r[1]}, odd[2] = {r[2], r[3]};
          mma_m16n8k16(d[j], a, even);
          mma_m16n8k16(d[j + 1], a, odd);
        }
      }
    }
  }
};

}  // namespace hwb::vw16_detail

namespace hwb {

template <int TileN, int Strips, int Warps, bool Int8>
HWB_DEVICE void vw16(const uint16_t* x, const void* values, const uint16_t* columns, const int* starts, const float* scales, const uint16_t* bias,
                     int act, int n, int m, int k, uint16_t* y) {
  using namespace vw16_detail;
  using Held = Fragment<Int8>;
  using Tile = Ring<TileN, Warps>;
  constexpr int kSlots = Warps / Strips, kAhead = Int8 ? 2 : 4, kQuarters = Tile::kTile / kQuarter;
  constexpr int kDeep = 8 / Tile::kLoads;  // tiles of X under way: more warps hold fewer words of each
  const int lane = threadIdx.x & 31, slot = threadIdx.x / 32 % kSlots;
  const int strips = ceil_div(m, 16), strip = blockIdx.x * Strips + threadIdx.x / 32 / kSlots, column = blockIdx.y * TileN;
  const int quarters = ceil_div(k, kQuarter), tiles = ceil_div(quarters, kQuarters);
  // Warps without a strip do the last one again; it is not stored twice.
  const int* mine = held(starts + size_t(strip < strips ? strip : strips - 1) * (quarters + 1));
  const unsigned char* my_values = held(static_cast<const unsigned char*>(values) + lane * 16);
  const uint16_t* my_columns = held(columns + lane % 16);

  HWB_SHARED(uint16_t, halves, 2 * kTileHalves);
  const Tile ring{halves};
  const uint16_t* row = ring.row(x, column, n, k);
  uint2 staged[kDeep][Tile::kLoads];
#pragma unroll
  for (int i = 0; i < kDeep; ++i)
    if (i < tiles) ring.load(staged[i], row, i * ring.kTile, k);

  float d[TileN / 8][4] = {};
  const int last = mine[quarters];
  int at = mine[0] + slot, next = at;  // in registers are the fragments at, at + kSlots, ...; `next` is multiplied next
  Held ahead[kAhead];
  const auto load = [&] {
    const unsigned char* v = held(my_values + size_t(at) * 512);
    const uint16_t* c = held(my_columns + size_t(at) * 16 * Held::kSteps);
#pragma unroll
    for (int u = 0; u < kAhead; ++u)
      if (at + u * kSlots < last) ahead[u].load(v + u * kSlots * 512, c + u * kSlots * 16 * Held::kSteps);
  };
  load();
  for (int pair = 0; pair < tiles; pair += kDeep) {
#pragma unroll
    for (int part = 0; part < kDeep; ++part) {
      const int tile = pair + part, quarter = (tile + 1) * kQuarters;
      if (tile >= tiles) break;
      const int end = mine[quarter < quarters ? quarter : quarters];
      __syncthreads();  // all are done with the tile that this one replaces
      ring.store(staged[part], tile);
      if (tile + kDeep < tiles) ring.load(staged[part], row, (tile + kDeep) * ring.kTile, k);
      __syncthreads();

      while (next < end) {
#pragma unroll
        for (int u = 0; u < kAhead; ++u)
          if (at + u * kSlots == next && next < end) {
            ahead[u].multiply(d, ring, lane);
            next += kSlots;
          }
        if (next == at + kAhead * kSlots) {
          at = next;
          load();
        }
      }
    }
  }

  reduce_warps<kSlots>(d, reinterpret_cast<float*>(halves));
  if (slot != 0) return;
#pragma unroll
  for (int i = 0; i < TileN / 8; ++i) store_fragment(d[i], strip * 16, column + i * 8, n, m, scales, bias, act, y);
}

}  // namespace hwb
