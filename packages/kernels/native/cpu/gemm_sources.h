// Where a kernel's weights come from: one small struct a format that turns resident lines into vectors of exact float
// codes.
//
// A *strip* is one vector of output features: a tile, or half a tile on 8-lane vectors. A *step* is what one load of a
// strip covers along K: an octet of 4-bit codes, a pair of bf16, one f32. Value of a weight = code · scale(group) /
// divisor.
#pragma once
#include <cstdint>
#include <utility>

#include "qspec/formats.h"

namespace qspec::cpu {
namespace {

#define QSPEC_INLINE inline __attribute__((always_inline))
#define QSPEC_INLINE_LAMBDA __attribute__((always_inline))

// Hides from the optimiser how a pointer was made. GCC 12 else re-derives every row's address from the first row's and
// spills dozens of them: 8 rows ran at 48 % of the fma peak instead of 67 %.
#define QSPEC_OPAQUE(pointer) __asm__("" : "+r"(pointer))

// Loops over arrays of vectors are unrolled by these, not by a pragma: GCC 12 then keeps every element in a register
// from the start (with `#pragma GCC unroll` the 4-row kernels ran 20-40 % slower). f(integral_constant<int, 0>{}), …,
// f(integral_constant<int, Count - 1>{})
template <class Function, int... J>
QSPEC_INLINE void unroll_indices(Function&& f, std::integer_sequence<int, J...>) {
  (f(std::integral_constant<int, J>{}), ...);
}
template <int Count, class Function>
QSPEC_INLINE void unroll(Function&& f) {
  unroll_indices(f, std::make_integer_sequence<int, Count>{});
}

// Element offset of a strip in an array of 16-element lines.
template <class L>
QSPEC_INLINE int64_t strip_offset(int64_t strip, int64_t lines_per_tile) {
  constexpr int kPerTile = kTileRows / L::kWidth;
  return strip / kPerTile * lines_per_tile * kTileRows + strip % kPerTile * L::kWidth;
}

// int4, nested8's hi plane (Decoder = Int4Decoder) and nested8 (NestedDecoder).
template <class L, class Decoder>
struct CodeSource {
  static constexpr int kStep = 8;
  static constexpr bool kGrouped = true, kHasTail = false;
  struct Cursor {
    const uint32_t* hi;
    const uint32_t* lo;
  };

  CodeSource(const PackedWeight& w, int radix)
      : decoder(radix),
        divisor(static_cast<float>(radix)),
        hi(w.hi),
        lo(w.lo != nullptr ? w.lo : w.hi),
        scales(w.scales),
        num_octets(w.k / kStep),
        num_groups(w.k / w.group_size),
        group_steps(w.group_size / kStep) {}
  QSPEC_INLINE Cursor cursor(int64_t strip) const {
    return {hi + strip_offset<L>(strip, num_octets), lo + strip_offset<L>(strip, num_octets)};
  }
  QSPEC_INLINE auto load(const Cursor& c, int64_t step) const {
    return decoder.load(c.hi + step * kTileRows, c.lo + step * kTileRows);
  }
  template <int J>
  QSPEC_INLINE auto at(const typename Decoder::Words& words) const {
    return decoder.template at<J>(words);
  }
  QSPEC_INLINE auto scale(int64_t strip, int64_t group) const {
    return L::load_bf16(scales + strip_offset<L>(strip, num_groups) + group * kTileRows);
  }

  Decoder decoder;
  float divisor;
  const uint32_t* hi;
  const uint32_t* lo;
  const uint16_t* scales;
  int64_t num_octets, num_groups, group_steps;
};

template <class L>
struct F32Source {
  static constexpr int kStep = 1;
  static constexpr bool kGrouped = false, kHasTail = false;
  using Cursor = const float*;
  using Words = typename L::F;

  explicit F32Source(const PackedWeight& w) : lines(static_cast<const float*>(w.dense)), group_steps(w.k) {}
  QSPEC_INLINE Cursor cursor(int64_t strip) const { return lines + strip_offset<L>(strip, group_steps); }
  QSPEC_INLINE Words load(Cursor c, int64_t step) const { return L::load(c + step * kTileRows); }
  template <int J>
  QSPEC_INLINE auto at(const Words& words) const {
    return words;
  }

  const float* lines;
  static constexpr float divisor = 1;
  static constexpr int64_t num_groups = 1;
  int64_t group_steps;
};

template <class L>
struct Bf16Source {
  static constexpr int kStep = 2;
  static constexpr bool kGrouped = false, kHasTail = true;
  using Cursor = const uint32_t*;
  using Words = typename L::I;

  explicit Bf16Source(const PackedWeight& w)
      : lines(static_cast<const uint32_t*>(w.dense)), group_steps(w.k / 2), has_tail(w.k % 2 != 0) {}
  QSPEC_INLINE Cursor cursor(int64_t strip) const { return lines + strip_offset<L>(strip, group_steps + has_tail); }
  QSPEC_INLINE Words load(Cursor c, int64_t step) const { return L::load_words(c + step * kTileRows); }
  template <int J>
  QSPEC_INLINE auto at(const Words& words) const {
    return L::template bf16_of_pair<J>(words);
  }

  const uint32_t* lines;
  static constexpr float divisor = 1;
  static constexpr int64_t num_groups = 1;
  int64_t group_steps;  // whole pairs
  bool has_tail;        // K is odd
};

}  // namespace
}  // namespace qspec::cpu
