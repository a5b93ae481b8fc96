// Y[N, M] = X[N, K] · W[M, K]ᵀ for N <= 4 with W unstructured: of each row the kept weights as fp16, each with the number
// of zeros before it in 4 bits.
//
// X lies in shared memory, `kPanel` columns at a time, the N values of a column side by side; a warp has a row. Of each
// step of 512 kept weights a lane takes 16 that follow one another: two 16-byte loads of weights, one 8-byte load of gaps.
// Where they lie in the panel is a sum over all gaps before them: of the lane's own by a multiplication that adds up
// bytes, of the lanes before by a scan over the warp. The loads do not wait for the sums, so the next step's are under way.
#pragma once
#include "hwb/epilogue.cuh"
#include "hwb/load.cuh"

namespace hwb::gap4_detail {

constexpr int kPanel = 4096;  // columns; places start again at every panel
constexpr int kGroup = 16;    // kept weights of a lane and step
constexpr int kWarps = 16;

template <int N>
struct Panel {  // halves[column * N + row of X]; filling up the last group of a row steps up to kGroup columns too far
  static constexpr int kHalves = (kPanel + kGroup) * N;

  // Eight columns of the N rows, in the order of the panel.
  static HWB_DEVICE void put(uint4* at, const uint4 (&rows)[N]) {
    if constexpr (N == 1) {
      at[0] = rows[0];
    } else {
      uint32_t words[4 * N];
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < N; j += 2) {
          const uint32_t a = word(rows[j], i), b = word(rows[j + 1], i);
          words[i * N + j / 2] = __byte_perm(a, b, 0x5410);
          words[i * N + N / 2 + j / 2] = __byte_perm(a, b, 0x7632);
        }
#pragma unroll
      for (int i = 0; i < N; ++i) at[i] = uint4{words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]};
    }
  }

  static HWB_DEVICE uint32_t word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

  // All threads of the block. Columns from k on and rows from `rows` on are zero.
  static HWB_DEVICE void fill(uint16_t* panel, const uint16_t* x, int rows, int k, int first) {
    for (int c = threadIdx.x * 8; c < kPanel + kGroup; c += kWarps * 32 * 8) {
      uint4 in[N];
#pragma unroll
      for (int j = 0; j < N; ++j)
        in[j] = j < rows && c < kPanel && first + c < k ? load16(x + size_t(j) * k + first + c) : uint4{0, 0, 0, 0};
      put(reinterpret_cast<uint4*>(panel + c * N), in);
    }
  }

  static HWB_DEVICE void multiply(float (&sum)[N], const uint16_t* column, float weight) {
    if constexpr (N == 1) {
      sum[0] += weight * half_to_float(*column);
    } else if constexpr (N == 2) {
      add(sum[0], sum[1], *reinterpret_cast<const uint32_t*>(column), weight);
    } else {
      const uint2 pair = *reinterpret_cast<const uint2*>(column);
      add(sum[0], sum[1], pair.x, weight);
      add(sum[2], sum[3], pair.y, weight);
    }
  }

  static HWB_DEVICE void add(float& low, float& high, uint32_t pair, float weight) {
    low += weight * half_to_float(uint16_t(pair));
    high += weight * half_to_float(uint16_t(pair >> 16));
  }
};

// Places of eight kept weights from their gaps, counted from the column behind the weight before them.
struct Places {
  uint32_t even, odd, next;  // bytes: weights 0 2 4 6, weights 1 3 5 7; columns all eight take

  explicit HWB_DEVICE Places(uint32_t gaps) {
    const uint32_t odds = gaps >> 4 & 0x0f0f0f0fu;
    const uint32_t pairs = (gaps & 0x0f0f0f0fu) + odds + 0x02020202u;  // columns each pair takes, at most 32
    const uint32_t sums = pairs * 0x01010101u;                         // of the pairs up to each, at most 128
    odd = sums - 0x01010101u;
    even = odd - 0x01010101u - odds;
    next = sums >> 24;
  }
  HWB_DEVICE uint32_t at(int i) const { return __byte_perm(i & 1 ? odd : even, 0, 0x4440u + i / 2); }
};

struct Step {  // what a lane has of 512 kept weights
  uint4 values[2];
  uint2 gaps;

  // `group`: the step's first 16 weights; `groups`, at least one, of the row's panel are left. Lanes without a group read
  // the last one, for nothing.
  HWB_DEVICE void load(const uint16_t* weights, const uint2* all_gaps, int group, int groups, int lane) {
    const int lanes = groups < 32 ? groups : 32, mine = lane < lanes ? lane : lanes - 1;
    const uint16_t* first = weights + size_t(group) * kGroup + mine * 8;
    values[0] = stream16(first);
    values[1] = stream16(first + lanes * 8);
    gaps = stream8(all_gaps + group + mine);
  }
};

// What the compiler must not see through: from here on `column` is one number, so that an address is one addition.
HWB_DEVICE uint32_t settled(uint32_t column) {
#if defined(__CUDACC__)
  asm("" : "+r"(column));
#endif
  return column;
}

template <int N>
HWB_DEVICE void multiply8(float (&sum)[N], const uint16_t* panel, uint32_t column, const Places& places, const uint4& values) {
  const uint32_t words[4] = {values.x, values.y, values.z, values.w}, first = settled(column * 2 * N);
  const auto* bytes = reinterpret_cast<const unsigned char*>(panel);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    Panel<N>::multiply(sum, reinterpret_cast<const uint16_t*>(bytes + (first + places.at(i) * 2 * N)), half_to_float(uint16_t(words[i / 2] >> (16 * (i & 1)))));
}

// Adds a step to the sums and returns the column behind it.
template <int N>
HWB_DEVICE int multiply(float (&sum)[N], const uint16_t* panel, int column, const Step& step, bool any, int lane) {
  const Places low(step.gaps.x), high(step.gaps.y);
  const int mine = any ? int(low.next + high.next) : 0;
  int behind = mine;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int before = __shfl_up_sync(kWarp, behind, by);
    if (lane >= by) behind += before;
  }
  if (any) {
    const uint32_t first = uint32_t(column + behind - mine);
    multiply8<N>(sum, panel, first, low, step.values[0]);
    multiply8<N>(sum, panel, first + low.next, high, step.values[1]);
  }
  return column + __shfl_sync(kWarp, behind, 31);
}

}  // namespace hwb::gap4_detail

namespace hwb {

template <int N>
HWB_DEVICE void gap4_mv(const uint16_t* x, const uint16_t* weights, const uint2* gaps, const int* offsets, const uint16_t* bias, int act, int n,
                        int m, int k, uint16_t* y) {
  using namespace gap4_detail;
  HWB_SHARED(uint16_t, panel, Panel<N>::kHalves);
  const int lane = threadIdx.x & 31, row = blockIdx.x * kWarps + threadIdx.x / 32, panels = ceil_div(k, kPanel);
  const int first_n = blockIdx.y * N, rows = n - first_n;
  float sum[N] = {};
  for (int p = 0; p < panels; ++p) {
    int group = 0, end = 0;
    if (row < m) {
      group = offsets[size_t(row) * panels + p];
      end = offsets[size_t(row) * panels + p + 1];
    }
    Step step{};
    if (group < end) step.load(weights, gaps, group, end - group, lane);
    __syncthreads();  // the panel before has been read
    Panel<N>::fill(panel, x + size_t(first_n) * k, rows, k, p * kPanel);
    __syncthreads();
    for (int column = 0; group < end; group += 32) {
      const Step now = step;
      if (group + 32 < end) step.load(weights, gaps, group + 32, end - group - 32, lane);
      column = multiply<N>(sum, panel, column, now, lane < end - group, lane);
    }
  }
#pragma unroll
  for (int j = 0; j < N; ++j) {
#pragma unroll
    for (int by = 16; by >= 1; by /= 2) sum[j] += __shfl_xor_sync(kWarp, sum[j], by);
    if (lane == 0 && row < m && j < rows) y[size_t(first_n + j) * m + row] = finish(sum[j], row, nullptr, bias, act);
  }
}

}  // namespace hwb
