// Prefill: many rows against 4-bit weights. Decoding a code costs as much as a few fma's, so a slab of T strips x 128
// elements of K is decoded to float once and used by every row of a panel; the same kernel then reads the slab, hence
// the same bits as without it.
//
//   for T strips:                     T · 128 · 64 bytes of slab (first-level cache), kSlabPanel · T sums on the stack
//     for 128 elements of K:          (a multiple of every group size)
//       decode;  for each row block:  sums += slab · x
#pragma once
#include "gemm_float.h"

namespace qspec::cpu {
namespace {

constexpr int kSlabK = 128;
constexpr int kSlabPanel = 64;    // rows that share a decoded slab
constexpr int kSlabMinRows = 16;  // below, decoding for every row block is as fast

template <class L>
struct SlabSource {
  static constexpr int kStep = 8;
  static constexpr bool kGrouped = true, kHasTail = false;
  using Cursor = const float*;
  using Words = const float*;

  QSPEC_INLINE Cursor cursor(int64_t strip) const { return slab + (strip - first_strip) * kSlabK * L::kWidth; }
  QSPEC_INLINE Words load(Cursor c, int64_t step) const { return c + step * kStep * L::kWidth; }
  template <int J>
  QSPEC_INLINE auto at(Words words) const {
    return L::load(words + J * L::kWidth);
  }
  QSPEC_INLINE auto scale(int64_t strip, int64_t group) const {
    return L::load_bf16(scales + strip_offset<L>(strip, num_groups) + group * kTileRows);
  }

  const float* slab;
  const uint16_t* scales;
  int64_t first_strip, num_groups, group_steps;
};

// Steps [begin, end) of one strip.
template <class L, class Source>
void decode_slab(const Source& source, int64_t strip, int64_t begin, int64_t end, float* slab) {
  const auto cursor = source.cursor(strip);
  for (int64_t step = begin; step < end; ++step, slab += Source::kStep * L::kWidth) {
    const auto words = source.load(cursor, step);
    unroll<Source::kStep>(
        [&](auto j) QSPEC_INLINE_LAMBDA { L::store(slab + j.value * L::kWidth, source.template at<j.value>(words)); });
  }
}

// Rows [row, row + rows), at most kSlabPanel and whole blocks of R, against strips [strip, strip + T). acc: [row
// blocks][T][R][lanes].
template <class L, int T, class Source>
void run_slab(const FloatGemm<L, Source>& gemm, int64_t strip, int64_t row, int64_t rows, float* acc) {
  constexpr int R = L::kSlabRows;
  const Source& source = gemm.source;
  alignas(64) float values[T * kSlabK * L::kWidth];
  const SlabSource<L> slab{values, source.scales, strip, source.num_groups, source.group_steps};
  std::memset(acc, 0, sizeof(float) * static_cast<size_t>(rows) * T * L::kWidth);
  const int64_t groups = kSlabK / Source::kStep / source.group_steps;
  for (int64_t group = 0; group < source.num_groups; group += groups) {
    const int64_t end = group + groups < source.num_groups ? group + groups : source.num_groups;
    for (int t = 0; t < T; ++t)
      decode_slab<L>(source, strip + t, group * source.group_steps, end * source.group_steps,
                     values + t * kSlabK * L::kWidth);
    const float* x = gemm.x + row * gemm.ldx + group * source.group_steps * Source::kStep;
    for (int64_t r = 0; r < rows; r += R)
      float_kernel<L, SlabSource<L>, R, T>(slab, strip, x + r * gemm.ldx, gemm.ldx, group, end,
                                           acc + r * T * L::kWidth);
  }
}

}  // namespace
}  // namespace qspec::cpu
