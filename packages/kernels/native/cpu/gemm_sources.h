// Where a kernel's weights come from: one small struct a format that turns resident lines into vectors of exact float codes.
//
// A *strip* is one vector of output features: a tile, or half a tile on 8-lane vectors. A *step* is what one load of a strip covers
// along K: an octet of 4-bit codes, a pair of bf16, one f32. Value of a weight = code · scale(group) / divisor.
#pragma once
#include <cstdint>
#include <utility>

#include "qspec/formats.h"

namespace qspec::cpu {
namespace {

#define QSPEC_INLINE inline __attribute__((always_inline))

// f(integral_constant<int, 0>{}), …, f(integral_constant<int, Count - 1>{})
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
  static constexpr bool kGrouped = true;
  struct Cursor {
    const uint32_t* hi;
    const uint32_t* lo;
  };

  CodeSource(const PackedWeight& w, int radix)
      : weight(w), decoder(radix), divisor(static_cast<float>(radix)), num_groups(w.k / w.group_size), group_steps(w.group_size / kStep) {}
  QSPEC_INLINE Cursor cursor(int64_t strip) const {
    const int64_t offset = strip_offset<L>(strip, weight.k / kStep);
    return {weight.hi + offset, weight.lo + (weight.lo != nullptr ? offset : 0)};
  }
  QSPEC_INLINE auto load(const Cursor& c, int64_t step) const { return decoder.load(c.hi + step * kTileRows, c.lo + step * kTileRows); }
  template <int J>
  QSPEC_INLINE auto at(const typename Decoder::Words& words) const {
    return decoder.template at<J>(words);
  }
  QSPEC_INLINE auto scale(int64_t strip, int64_t group) const {
    return L::load_bf16(weight.scales + strip_offset<L>(strip, num_groups) + group * kTileRows);
  }

  const PackedWeight& weight;
  const Decoder decoder;
  const float divisor;
  const int64_t num_groups, group_steps;
};

template <class L>
struct F32Source {
  static constexpr int kStep = 1;
  static constexpr bool kGrouped = false;
  using Cursor = const float*;
  using Words = typename L::F;

  explicit F32Source(const PackedWeight& w) : weight(w), group_steps(w.k) {}
  QSPEC_INLINE Cursor cursor(int64_t strip) const { return static_cast<const float*>(weight.dense) + strip_offset<L>(strip, weight.k); }
  QSPEC_INLINE Words load(Cursor c, int64_t step) const { return L::load(c + step * kTileRows); }
  template <int J>
  QSPEC_INLINE auto at(const Words& words) const {
    return words;
  }

  const PackedWeight& weight;
  static constexpr float divisor = 1;
  static constexpr int64_t num_groups = 1;
  const int64_t group_steps;
};

template <class L>
struct Bf16Source {
  static constexpr int kStep = 2;
  static constexpr bool kGrouped = false;
  using Cursor = const uint32_t*;
  using Words = typename L::I;

  explicit Bf16Source(const PackedWeight& w) : weight(w), group_steps(w.k / 2) {}
  QSPEC_INLINE Cursor cursor(int64_t strip) const {
    return static_cast<const uint32_t*>(weight.dense) + strip_offset<L>(strip, (weight.k + 1) / 2);
  }
  QSPEC_INLINE Words load(Cursor c, int64_t step) const { return L::load_words(c + step * kTileRows); }
  template <int J>
  QSPEC_INLINE auto at(const Words& words) const {
    return L::template bf16_of_pair<J>(words);
  }

  const PackedWeight& weight;
  static constexpr float divisor = 1;
  static constexpr int64_t num_groups = 1;
  const int64_t group_steps;  // whole pairs; an odd last k is the kernel's tail
};

}  // namespace
}  // namespace qspec::cpu
