// Float-input kernel (target arithmetic: W4A16, W8A16, bf16, f32), the same text for every instruction set and format.
//
// One lane is one output feature and walks K in order:
//   grouped:  acc = fma(scale_g, Σ_{k in g} code_k · x_k, acc)   group after group, the inner sum an fma chain from 0
//   dense:    acc = fma(w_k, x_k, acc)
// then divides by the radix and adds the bias. Nothing of this depends on the number of rows, on T, or on the lanes'
// width, so a row's result is the same bits for any batch, any Part and any instruction set. Codes stay unscaled inside
// a group because one multiply a group is cheaper than one an element, and because code and product sums are then as
// exact as float32 allows.
//
// R rows x T strips are R·T independent chains: enough to cover the latency of an fma (4 cycles x 2 ports = 8 chains),
// and a decoded weight vector is used R times.
#pragma once
#include <cstring>

#include "gemm_sources.h"

namespace qspec::cpu {
namespace {

// Fused multiply-adds of one step: words of T strips against element k (and the step's next ones) of R rows.
template <class L, class S, int R, int T, int Count, class Words>
QSPEC_INLINE void float_step(const S& source, const Words (&words)[T], const float* const (&x)[R], int64_t k,
                             typename L::F (&sums)[T][R]) {
  unroll<Count>([&](auto j) QSPEC_INLINE_LAMBDA {
    typename L::F weights[T];
    unroll<T>([&](auto t) QSPEC_INLINE_LAMBDA { weights[t] = source.template at<j.value>(words[t]); });
    unroll<R>([&](auto r) QSPEC_INLINE_LAMBDA {
      const typename L::F xs = L::broadcast(x[r][k + j.value]);
      unroll<T>([&](auto t) QSPEC_INLINE_LAMBDA { sums[t][r] = L::fma(weights[t], xs, sums[t][r]); });
    });
  });
}

// acc[t][r][lane] += Σ code · scale · x over the groups [first_group, end_group), not yet divided by the radix; dense:
// = Σ w · x. x and the cursors begin at first_group.
template <class L, class S, int R, int T>
__attribute__((noinline)) void float_kernel(const S& shared_source, int64_t strip, const float* x, int64_t ldx,
                                            int64_t first_group, int64_t end_group, float* acc) {
  using F = typename L::F;
  const S source = shared_source;  // a copy that stores to acc cannot alias
  typename S::Cursor cursors[T];
  unroll<T>([&](auto t) QSPEC_INLINE_LAMBDA { cursors[t] = source.cursor(strip + t); });
  const float* rows[R];
  unroll<R>([&](auto r) QSPEC_INLINE_LAMBDA {
    rows[r] = x + r * ldx;
    QSPEC_OPAQUE(rows[r]);
  });
  const auto load_step = [&](auto(&words)[T], int64_t step) QSPEC_INLINE_LAMBDA {
    unroll<T>([&](auto t) QSPEC_INLINE_LAMBDA { words[t] = source.load(cursors[t], step); });
  };
  int64_t step = 0;
  for (int64_t group = first_group; group < end_group; ++group) {
    F sums[T][R];
    unroll<T * R>([&](auto i) QSPEC_INLINE_LAMBDA { sums[i / R][i % R] = L::zero(); });
    decltype(source.load(cursors[0], step)) words[T];
    for (const int64_t end = step + source.group_steps; step < end; ++step) {
      load_step(words, step);
      float_step<L, S, R, T, S::kStep>(source, words, rows, step * S::kStep, sums);
    }
    if constexpr (S::kHasTail) {
      if (source.has_tail) {  // the last pair has one element; x has no second
        load_step(words, step);
        float_step<L, S, R, T, 1>(source, words, rows, step * S::kStep, sums);
      }
    }
    unroll<T>([&](auto t) QSPEC_INLINE_LAMBDA {
      if constexpr (S::kGrouped) {
        const F scale = source.scale(strip + t, group);
        unroll<R>([&](auto r) QSPEC_INLINE_LAMBDA {
          sums[t][r] = L::fma(scale, sums[t][r], L::load(acc + (t * R + r) * L::kWidth));
        });
      }
      unroll<R>([&](auto r) QSPEC_INLINE_LAMBDA { L::store(acc + (t * R + r) * L::kWidth, sums[t][r]); });
    });
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
    std::memset(acc, 0, sizeof(float) * T * R * L::kWidth);
    float_kernel<L, Source, R, T>(source, strip, x + row * ldx, ldx, 0, source.num_groups, acc);
  }
};

}  // namespace
}  // namespace qspec::cpu
