// Integer-input kernel (draft arithmetic: W4A8, W4A4, W8A8).
//
// Within a group the sum is an exact integer; groups are combined in order in float:
//   acc = fma(float(Σ u·x - offset · Σ x), weight_scale · activation_scale, acc)
// u are the unsigned codes as they lie in memory (code + 8, or radix·hi + lo + 8·(radix + 1)), so the shift back to
// signed ones costs one subtraction a group: offset · (sum of the group's activation codes). 4-bit activations are int8
// codes with small values.
#pragma once
#include <cstring>

#include "gemm_sources.h"
#include "qspec/params.h"

namespace qspec::cpu {
namespace {

struct CodePlanes {
  explicit CodePlanes(const PackedWeight& w)
      : hi(w.hi), lo(w.lo), scales(w.scales), num_octets(w.k / 8), num_groups(w.k / w.group_size), radix(w.radix) {}
  const uint32_t* hi;
  const uint32_t* lo;
  const uint16_t* scales;
  int64_t num_octets, num_groups;
  int radix;
};

// The hi plane alone.
template <class L>
struct HiCodes : CodePlanes {
  using CodePlanes::CodePlanes;
  static constexpr int kPlanes = 1;
  QSPEC_INLINE auto load(int64_t word, int /*plane*/) const { return L::split_nibbles(L::load_words(hi + word)); }
  int multiplier(int /*plane*/) const { return 1; }
  int32_t offset() const { return 8; }
  float divisor() const { return 1; }
};

// radix·hi + lo: one combined plane of bytes where the dot product takes codes up to 240, else two planes, the first
// times radix.
template <class L>
struct NestedCodes : CodePlanes {
  using CodePlanes::CodePlanes;
  static constexpr int kPlanes = L::kWideCodes ? 1 : 2;
  QSPEC_INLINE auto load(int64_t word, int plane) const {
    if constexpr (L::kWideCodes) {
      return L::combine(L::split_nibbles(L::load_words(hi + word)), L::split_nibbles(L::load_words(lo + word)), radix);
    } else {
      return L::split_nibbles(L::load_words((plane == 0 ? hi : lo) + word));
    }
  }
  int multiplier(int plane) const { return plane == 0 ? radix : 1; }
  int32_t offset() const { return 8 * (radix + 1); }
  float divisor() const { return static_cast<float>(radix); }
};

QSPEC_INLINE int32_t load_four(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, 4);
  return four;
}

constexpr int kChunk = 32;  // elements of K that a 16-bit partial sum survives; divides every group size

// sums += one chunk of one plane.
template <class L, class S, int R, int T>
QSPEC_INLINE void int_chunk(const S& source, const int64_t (&offsets)[T], int64_t step, int plane,
                            const int8_t* const (&rows)[R], typename L::I (&sums)[T][R]) {
  typename L::Partial partial[T][R];
  unroll<T * R>([&](auto i) QSPEC_INLINE_LAMBDA { partial[i / R][i % R] = L::start(sums[i / R][i % R]); });
#pragma GCC unroll 1
  for (int octet = 0; octet < kChunk / 8; ++octet) {
    typename L::Codes weights[T];
    unroll<T>([&](auto t)
                  QSPEC_INLINE_LAMBDA { weights[t] = source.load(offsets[t] + (step + octet) * kTileRows, plane); });
    unroll<R>([&](auto r) QSPEC_INLINE_LAMBDA {
      const int8_t* codes = rows[r] + (step + octet) * 8;
      const int32_t low = load_four(codes), high = load_four(codes + 4);
      unroll<T>([&](auto t) QSPEC_INLINE_LAMBDA {
        partial[t][r] = L::dot(L::dot(partial[t][r], weights[t].low, low), weights[t].high, high);
      });
    });
  }
  unroll<T * R>([&](auto i) QSPEC_INLINE_LAMBDA {
    sums[i / R][i % R] = L::finish(sums[i / R][i % R], partial[i / R][i % R], source.multiplier(plane));
  });
}

// acc[t][r][lane] = Σ over all groups, not yet divided by the radix; acc comes in as zeros.
template <class L, class S, int R, int T>
__attribute__((noinline)) void int_kernel(const S& shared_source, int64_t strip, const QuantizedRows& x, int64_t row,
                                          float* acc) {
  using F = typename L::F;
  using I = typename L::I;
  const S source = shared_source;  // a copy that stores to acc cannot alias
  const int64_t num_groups = source.num_groups, group_steps = source.num_octets / num_groups;
  int64_t offsets[T];
  unroll<T>([&](auto t) QSPEC_INLINE_LAMBDA { offsets[t] = strip_offset<L>(strip + t, source.num_octets); });
  const int8_t* rows[R];
  unroll<R>([&](auto r) QSPEC_INLINE_LAMBDA {
    rows[r] = x.codes + (row + r) * source.num_octets * 8;
    QSPEC_OPAQUE(rows[r]);
  });
  const float* scales = x.scales + row * num_groups;
  const int32_t* code_sums = x.sums + row * num_groups;
  for (int64_t group = 0; group < num_groups; ++group) {
    I sums[T][R];
    unroll<T * R>([&](auto i) QSPEC_INLINE_LAMBDA { sums[i / R][i % R] = L::broadcast_int(0); });
    for (int64_t step = group * group_steps; step < (group + 1) * group_steps; step += kChunk / 8) {
      for (int plane = 0; plane < S::kPlanes; ++plane) int_chunk<L, S, R, T>(source, offsets, step, plane, rows, sums);
    }
    unroll<T>([&](auto t) QSPEC_INLINE_LAMBDA {
      const F weight_scale = L::load_bf16(source.scales + strip_offset<L>(strip + t, num_groups) + group * kTileRows);
      unroll<R>([&](auto r) QSPEC_INLINE_LAMBDA {
        const I shifted = L::sub(sums[t][r], L::broadcast_int(source.offset() * code_sums[r * num_groups + group]));
        const F scale = L::mul(weight_scale, L::broadcast(scales[r * num_groups + group]));
        float* out = acc + (t * R + r) * L::kWidth;
        L::store(out, L::fma(L::to_float(shifted), scale, L::load(out)));
      });
    });
  }
}

template <class L, class Source>
struct IntGemm {
  Source source;
  const QuantizedRows& x;

  float divisor() const { return source.divisor(); }
  template <int R, int T>
  QSPEC_INLINE void run(int64_t strip, int64_t row, float* acc) const {
    std::memset(acc, 0, sizeof(float) * T * R * L::kWidth);
    int_kernel<L, Source, R, T>(source, strip, x, row, acc);
  }
};

}  // namespace
}  // namespace qspec::cpu
