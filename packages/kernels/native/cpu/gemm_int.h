// Integer-input kernel (draft arithmetic: W4A8, W4A4, W8A8).
//
// Within a group the sum is an exact integer; groups are combined in order in float:
//   acc = fma(float(Σ u·x - offset · Σ x), weight_scale · activation_scale, acc)
// u are the unsigned codes as they lie in memory (code + 8, or radix·hi + lo + 8·(radix + 1)), so the shift back to signed ones costs
// one subtraction a group: offset · (sum of the group's activation codes). 4-bit activations are int8 codes with small values.
#pragma once
#include <cstring>

#include "gemm_sources.h"
#include "qspec/params.h"

namespace qspec::cpu {
namespace {

// The hi plane alone.
template <class L>
struct HiCodes {
  static constexpr int kPlanes = 1;
  HiCodes(const PackedWeight& w) : weight(w) {}
  QSPEC_INLINE auto load(int64_t offset, int /*plane*/) const { return L::split_nibbles(L::load_words(weight.hi + offset)); }
  int multiplier(int /*plane*/) const { return 1; }
  int32_t offset() const { return 8; }
  float divisor() const { return 1; }
  const PackedWeight& weight;
};

// radix·hi + lo: one combined plane of bytes where the dot product takes codes up to 240, else two planes, the first times radix.
template <class L>
struct NestedCodes {
  static constexpr int kPlanes = L::kWideCodes ? 1 : 2;
  NestedCodes(const PackedWeight& w) : weight(w) {}
  QSPEC_INLINE auto load(int64_t offset, int plane) const {
    if constexpr (L::kWideCodes) {
      return L::combine(L::split_nibbles(L::load_words(weight.hi + offset)), L::split_nibbles(L::load_words(weight.lo + offset)), weight.radix);
    } else {
      return L::split_nibbles(L::load_words((plane == 0 ? weight.hi : weight.lo) + offset));
    }
  }
  int multiplier(int plane) const { return plane == 0 ? weight.radix : 1; }
  int32_t offset() const { return 8 * (weight.radix + 1); }
  float divisor() const { return static_cast<float>(weight.radix); }
  const PackedWeight& weight;
};

QSPEC_INLINE int32_t load_four(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, 4);
  return four;
}

constexpr int kChunk = 32;  // elements of K that a 16-bit partial sum survives; divides every group size

template <class L, class S, int R, int T>
QSPEC_INLINE void int_chunk(const S& source, const int64_t (&offsets)[T], int64_t step, int plane, const int8_t* codes, int64_t ldx, typename L::I (&sums)[T][R]) {
  typename L::Partial partial[T][R];
  for (int t = 0; t < T; ++t) {
    for (int r = 0; r < R; ++r) partial[t][r] = L::start(sums[t][r]);
  }
  for (int o = 0; o < kChunk / 8; ++o, codes += 8) {
    typename L::Codes weights[T];
    for (int t = 0; t < T; ++t) weights[t] = source.load(offsets[t] + (step + o) * kTileRows, plane);
    for (int r = 0; r < R; ++r) {
      const int32_t low = load_four(codes + r * ldx), high = load_four(codes + r * ldx + 4);
      for (int t = 0; t < T; ++t) partial[t][r] = L::dot(L::dot(partial[t][r], weights[t].low, low), weights[t].high, high);
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int r = 0; r < R; ++r) sums[t][r] = L::finish(sums[t][r], partial[t][r], source.multiplier(plane));
  }
}

template <class L, class S, int R, int T>
__attribute__((noinline)) void int_kernel(const S& source, int64_t strip, const QuantizedRows& x, int64_t row, float* acc) {
  using F = typename L::F;
  using I = typename L::I;
  const PackedWeight& w = source.weight;
  const int64_t ldx = w.k, num_groups = w.k / w.group_size;
  int64_t offsets[T];
  for (int t = 0; t < T; ++t) offsets[t] = strip_offset<L>(strip + t, w.k / 8);
  for (int64_t group = 0; group < num_groups; ++group) {
    I sums[T][R];
    for (int t = 0; t < T; ++t) {
      for (int r = 0; r < R; ++r) sums[t][r] = L::broadcast_int(0);
    }
    for (int64_t k = group * w.group_size; k < (group + 1) * w.group_size; k += kChunk) {
      for (int plane = 0; plane < S::kPlanes; ++plane) int_chunk<L, S, R, T>(source, offsets, k / 8, plane, x.codes + row * ldx + k, ldx, sums);
    }
    for (int t = 0; t < T; ++t) {
      const F weight_scale = L::load_bf16(w.scales + strip_offset<L>(strip + t, num_groups) + group * kTileRows);
      for (int r = 0; r < R; ++r) {
        const int64_t at = (row + r) * num_groups + group;
        const I shifted = L::sub(sums[t][r], L::broadcast_int(source.offset() * x.sums[at]));
        const F scale = L::mul(weight_scale, L::broadcast(x.scales[at]));
        float* out = acc + (t * R + r) * L::kWidth;
        L::store(out, L::fma(L::to_float(shifted), scale, group == 0 ? L::zero() : L::load(out)));
      }
    }
  }
}

template <class L, class Source>
struct IntGemm {
  Source source;
  const QuantizedRows& x;

  float divisor() const { return source.divisor(); }
  template <int R, int T>
  QSPEC_INLINE void run(int64_t strip, int64_t row, float* acc) const {
    int_kernel<L, Source, R, T>(source, strip, x, row, acc);
  }
};

}  // namespace
}  // namespace qspec::cpu
