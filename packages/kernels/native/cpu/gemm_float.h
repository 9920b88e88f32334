// Float-input kernel (target arithmetic: W4A16, W8A16, bf16, f32), the same text for every instruction set and format.
//
// One lane is one output feature and walks K in order:
//   grouped:  acc = fma(scale_g, Σ_{k in g} code_k · x_k, acc)   group after group, the inner sum an fma chain from 0
//   dense:    acc = fma(w_k, x_k, acc)
// then divides by the radix and adds the bias. Nothing of this depends on the number of rows, on T, or on the lanes' width, so a
// row's result is the same bits for any batch, any Part and any instruction set. Codes stay unscaled inside a group because one
// multiply a group is cheaper than one an element, and because code and product sums are then as exact as float32 allows.
//
// R rows x T strips are R·T independent chains: enough to cover the latency of an fma (4 cycles x 2 ports = 8 chains), and a decoded
// weight vector is used R times.
#pragma once
#include "gemm_sources.h"

namespace qspec::cpu {
namespace {

// Fused multiply-adds of one step: words of T strips against R rows of x at `x[r · ldx]`.
template <class L, class S, int R, int T, int Count, class Words>
QSPEC_INLINE void float_step(const S& source, const Words (&words)[T], const float* x, int64_t ldx, typename L::F (&sums)[T][R]) {
  unroll<Count>([&](auto j) __attribute__((always_inline)) {
    typename L::F weights[T];
    for (int t = 0; t < T; ++t) weights[t] = source.template at<j.value>(words[t]);
    for (int r = 0; r < R; ++r) {
      const typename L::F xs = L::broadcast(x[r * ldx + j.value]);
      for (int t = 0; t < T; ++t) sums[t][r] = L::fma(weights[t], xs, sums[t][r]);
    }
  });
}

// acc[t][r][lane] = Σ_k code · scale · x, not yet divided by the radix.
template <class L, class S, int R, int T>
__attribute__((noinline)) void float_kernel(const S& source, int64_t strip, const float* x, int64_t ldx, float* acc) {
  using F = typename L::F;
  typename S::Cursor cursors[T];
  for (int t = 0; t < T; ++t) cursors[t] = source.cursor(strip + t);
  int64_t step = 0;
  for (int64_t group = 0; group < source.num_groups; ++group) {
    F sums[T][R];
    for (int t = 0; t < T; ++t) {
      for (int r = 0; r < R; ++r) sums[t][r] = L::zero();
    }
    for (const int64_t end = step + source.group_steps; step < end; ++step, x += S::kStep) {
      decltype(source.load(cursors[0], step)) words[T];
      for (int t = 0; t < T; ++t) words[t] = source.load(cursors[t], step);
      float_step<L, S, R, T, S::kStep>(source, words, x, ldx, sums);
    }
    if constexpr (S::kStep == 2) {
      if (source.weight.k % 2 != 0) {  // the last pair has one element; x has no second
        decltype(source.load(cursors[0], step)) words[T];
        for (int t = 0; t < T; ++t) words[t] = source.load(cursors[t], step);
        float_step<L, S, R, T, 1>(source, words, x, ldx, sums);
      }
    }
    for (int t = 0; t < T; ++t) {
      for (int r = 0; r < R; ++r) {
        float* out = acc + (t * R + r) * L::kWidth;
        if constexpr (S::kGrouped) sums[t][r] = L::fma(source.scale(strip + t, group), sums[t][r], group == 0 ? L::zero() : L::load(out));
        L::store(out, sums[t][r]);
      }
    }
  }
}

template <class L, class Source>
struct FloatGemm {
  Source source;
  const float* x;
  int64_t ldx;

  float divisor() const { return source.divisor; }
  template <int R, int T>
  QSPEC_INLINE void run(int64_t strip, int64_t row, float* acc) const {
    float_kernel<L, Source, R, T>(source, strip, x + row * ldx, ldx, acc);
  }
};

}  // namespace
}  // namespace qspec::cpu
