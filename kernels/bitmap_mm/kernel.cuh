// Y[N, M] = X[N, K] · W[M, K]ᵀ with W unstructured: one bit a weight says whether it is kept, the kept ones follow as fp16.
//
// A strip is 16 rows, a step 64 columns of it: lane (g, t) has the 16 columns from 16t on, of rows g and g + 8. Its 32 bits
// are the matrix instruction's operands of the step, element by element, and its values lie together, lane after lane.
// So a lane needs one number, where its values begin (a scan over the warp of how many each lane has), and then reads
// them one after another from shared memory, where a copy of the step's values arrives while the step before is decoded.
// That is some five instructions for every weight, kept or not: the kernel pays only where a GPU has many instructions
// for each byte it reads (README.md).
// A block has 8 warps and two strips; the warps cut K into as many stretches and add up in the end.
#pragma once
#include "hwb/epilogue.cuh"
#include "hwb/load.cuh"
#include "hwb/mma.cuh"
#include "hwb/reduce.cuh"

namespace hwb::bitmap_detail {

constexpr int kWarps = 8, kStrips = 2, kStep = 64, kBatch = 4;  // steps whose bits a lane reads by 16 bytes
constexpr int kMost = 16 * kStep;                               // kept weights of a step

HWB_DEVICE uint4 load16_if(bool valid, const void* p) { return valid ? load16(p) : uint4{0, 0, 0, 0}; }

// Reads halves of shared memory one after another, each only if a bit is set. Left to the compiler, every one of them
// costs two copies of registers more.
struct Reader {
#if defined(__CUDACC__)
  uint32_t at;

  explicit HWB_DEVICE Reader(const uint16_t* p) : at(static_cast<uint32_t>(__cvta_generic_to_shared(p))) {}
  template <int Bit>
  HWB_DEVICE uint32_t take(uint32_t bits) {
    const uint32_t set = bits & 1u << Bit;
    uint32_t value = 0;
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p ld.shared.u16 %0, [%1]; }" : "+r"(value) : "r"(at), "r"(set));
    at += Bit == 0 ? set << 1 : set >> (Bit - 1);
    return value;
  }
#else
  const uint16_t* at;

  explicit Reader(const uint16_t* p) : at(p) {}
  template <int Bit>
  uint32_t take(uint32_t bits) { return bits >> Bit & 1 ? *at++ : 0; }
#endif
};

struct Operands {  // of a step
  uint32_t a[4][4];

  // `values`: the step's, in shared memory.
  HWB_DEVICE void decode(uint32_t bits, const uint16_t* values, int lane) {
    const int mine = __popc(bits);
    int behind = mine;
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
      const int before = __shfl_up_sync(kWarp, behind, by);
      if (lane >= by) behind += before;
    }
    Reader reader(values + (behind - mine));
    fill<0>(bits, reader);
  }

 private:
  template <int I>
  HWB_DEVICE void fill(uint32_t bits, Reader& reader) {
    const uint32_t low = reader.take<2 * I>(bits), high = reader.take<2 * I + 1>(bits);
    a[I / 4][I % 4] = __byte_perm(low, high, 0x5410);
    if constexpr (I < 15) fill<I + 1>(bits, reader);
  }
};

// The values of a strip, copied to shared memory a step ahead. `offsets` counts them by eights.
struct Copies {
  const unsigned char* values;
  const int* offsets;
  uint16_t* room;
  int first, end;  // of the step to copy next

  HWB_DEVICE void start(const void* all, const int* of_strip, int step, uint16_t* where) {
    values = static_cast<const unsigned char*>(all);
    offsets = of_strip + step;
    room = where;
    first = offsets[0];
    end = offsets[1];
  }
  // Copies a step, and reads where the one after the next ends; `more` is whether there is a next.
  HWB_DEVICE void advance(bool more, int lane) {
    const unsigned char* from = values + size_t(first + lane) * 16;
#pragma unroll
    for (int i = 0; i < kMost / 8; i += 32)
      if (i + lane < end - first) copy_async16(room + (i + lane) * 8, from + i * 16, true);
    copy_commit();
    first = end;
    if (more) end = offsets[2];
    ++offsets;
  }
};

}  // namespace hwb::bitmap_detail

namespace hwb {

template <int TileN>
HWB_DEVICE void bitmap_mm(const uint16_t* x, const uint4* bits, const void* values, const int* offsets, const uint16_t* bias, int act, int n, int m,
                          int k, uint16_t* y) {
  using namespace bitmap_detail;
  constexpr int kTiles = TileN / 8;
  HWB_SHARED(uint16_t, room, kWarps * kStrips * kMost);
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const int batches = ceil_div(k, kStep * kBatch), strips = ceil_div(m, 16), strip = blockIdx.x * kStrips, column = blockIdx.y * TileN;
  const int first = warp * batches / kWarps, end = (warp + 1) * batches / kWarps;  // of this warp

  const uint16_t* inputs = x + size_t(column) * k;
  int rows[kTiles];  // of X; a column of Y that does not exist is that of the last row, and never stored
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const int row = 8 * i + lane / 4;
    rows[i] = (column + row < n ? row : n - 1 - column) * k + lane % 4 * 16;
  }

  float d[kStrips * kTiles][4] = {};
  if (first < end) {
    const uint4* mine[kStrips];
    Copies copies[kStrips];
    uint4 ahead[kStrips];
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      const size_t which = strip + s < strips ? strip + s : strips - 1;  // read again, and never stored
      mine[s] = bits + (which * batches + first) * 32 + lane;
      ahead[s] = stream16(mine[s]);
      copies[s].start(values, offsets + which * batches * kBatch, first * kBatch, room + (warp * kStrips + s) * kMost);
      copies[s].advance(true, lane);
    }
    for (int batch = first; batch < end; ++batch) {
      uint4 now[kStrips];
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
        now[s] = ahead[s];
        mine[s] += 32;
        if (batch + 1 < end) ahead[s] = stream16(mine[s]);
      }
#pragma unroll 1
      for (int q = 0; q < kBatch; ++q) {
        const int at = (batch * kBatch + q) * kStep;
        if (at >= k) break;
        const bool last = batch + 1 == end && q + 1 == kBatch, next_is_last = batch + 1 == end && q + 2 >= kBatch;
        Operands operands[kStrips];
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
          copy_wait<kStrips - 1>();  // all but the newest, which is of the other strip
          __syncwarp();
          operands[s].decode(now[s].x, copies[s].room, lane);
          now[s] = uint4{now[s].y, now[s].z, now[s].w, 0};
          __syncwarp();  // the room has been read
          if (last) copy_commit();
          else copies[s].advance(!next_is_last, lane);
        }
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          const uint16_t* input = inputs + (rows[i] + at);
          const uint4 low = load16_if(at + lane % 4 * 16 < k, input), high = load16_if(at + lane % 4 * 16 + 8 < k, input + 8);
#pragma unroll
          for (int s = 0; s < kStrips; ++s) {
            mma_m16n8k16(d[s * kTiles + i], operands[s].a[0], {low.x, low.y});
            mma_m16n8k16(d[s * kTiles + i], operands[s].a[1], {low.z, low.w});
            mma_m16n8k16(d[s * kTiles + i], operands[s].a[2], {high.x, high.y});
            mma_m16n8k16(d[s * kTiles + i], operands[s].a[3], {high.z, high.w});
          }
        }
      }
    }
    copy_wait<0>();
  }

  reduce_warps<kWarps>(d, reinterpret_cast<float*>(room));
  if (warp != 0) return;
#pragma unroll
  for (int i = 0; i < kStrips * kTiles; ++i)
    store_fragment(d[i], (strip + i / kTiles) * 16, column + i % kTiles * 8, n, m, nullptr, bias, act, y);
}

}  // namespace hwb
