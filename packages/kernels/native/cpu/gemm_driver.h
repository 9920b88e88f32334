// The linear op over one instruction set `L`: picks the kernel for (weight kind, plane, input) and walks this part's tiles and rows.
//
// | input   | dense f32, bf16 | int4, nested8 hi | nested8 full        |
// |---------|-----------------|------------------|---------------------|
// | float   | F32/Bf16Source  | Int4Decoder      | NestedDecoder       |
// | codes   | (rejected)      | HiCodes          | NestedCodes         |
//
// Included by one source file an instruction set. Everything is in anonymous namespaces on purpose: the same templates compiled
// with other flags must never be merged by the linker.
#pragma once
#include "gemm_float.h"
#include "gemm_int.h"
#include "gemm_schedule.h"
#include "linear.h"

namespace qspec::cpu {
namespace {

// Rows whose activations stay in the second-level cache while all of a part's tiles pass by.
constexpr int64_t kPanelBytes = 512 << 10;

// acc / divisor (+ bias) -> output, without the padding of the last tile.
template <class L>
QSPEC_INLINE void store_strip(const LinearParams& p, float divisor, const float* acc, int64_t strip, int64_t row) {
  const int64_t column = strip * L::kWidth;
  const int64_t width = p.weight->n - column < L::kWidth ? p.weight->n - column : L::kWidth;
  float* out = p.output + row * p.output_stride + p.output_column + column;
  typename L::F value = L::load(acc);
  if (divisor != 1) value = L::div(value, L::broadcast(divisor));
  if (width == L::kWidth) {
    if (p.bias != nullptr) value = L::add(value, L::load(p.bias + column));
    return L::store(out, value);
  }
  float lanes[L::kWidth];
  L::store(lanes, value);
  for (int64_t i = 0; i < width; ++i) out[i] = p.bias != nullptr ? lanes[i] + p.bias[column + i] : lanes[i];
}

// R rows against strips [begin, end): T at a time, the rest by halves.
template <class L, class Gemm, int R, int T>
void run_strips(const LinearParams& p, const Gemm& gemm, int64_t begin, int64_t end, int64_t row) {
  alignas(64) float acc[T * R * L::kWidth];
  for (; begin + T <= end; begin += T) {
    gemm.template run<R, T>(begin, row, acc);
    for (int t = 0; t < T; ++t) {
      for (int r = 0; r < R; ++r) store_strip<L>(p, gemm.divisor(), acc + (t * R + r) * L::kWidth, begin + t, row + r);
    }
  }
  if constexpr (T > 1) {
    if (begin < end) run_strips<L, Gemm, R, T / 2>(p, gemm, begin, end, row);
  }
}

// Compile-time row count for a block of `rows`.
template <class L, class Gemm, int R = 1>
QSPEC_INLINE void run_rows(const LinearParams& p, const Gemm& gemm, int rows, int64_t begin, int64_t end, int64_t row) {
  if (rows == R) return run_strips<L, Gemm, R, L::strips(R)>(p, gemm, begin, end, row);
  if constexpr (R < L::kLargestOddBlock) {
    run_rows<L, Gemm, R + 1>(p, gemm, rows, begin, end, row);
  } else if constexpr (R < L::kLargestRowBlock) {
    run_rows<L, Gemm, L::kLargestRowBlock>(p, gemm, rows, begin, end, row);
  }
}

// Strips outside, row blocks inside: the second row block finds the weights of a few tiles in the cache.
template <class L, class Gemm>
void run_gemm(const LinearParams& p, Part part, const Gemm& gemm) {
  if (p.rows <= 0) return;
  constexpr int64_t kPerTile = kTileRows / L::kWidth, kBlock = L::strips(1) > kPerTile ? L::strips(1) : kPerTile;
  const Cut cut = cut_work(p.weight->num_tiles(), p.rows, part);
  const int64_t fit = kPanelBytes / (p.weight->k * 4) / kRowUnit * kRowUnit, panel = fit > kRowUnit ? fit : kRowUnit;
  const int64_t strip_end = cut.tile_end * kPerTile;
  for (int64_t panel_row = cut.row_begin; panel_row < cut.row_end; panel_row += panel) {
    const int64_t row_end = panel_row + panel < cut.row_end ? panel_row + panel : cut.row_end;
    for (int64_t strip = cut.tile_begin * kPerTile; strip < strip_end; strip += kBlock) {
      const int64_t end = strip + kBlock < strip_end ? strip + kBlock : strip_end;
      for (int64_t row = panel_row; row < row_end;) {
        const int block = next_row_block(row_end - row, L::kLargestOddBlock, L::kLargestRowBlock);
        run_rows<L>(p, gemm, block, strip, end, row);
        row += block;
      }
    }
  }
}

inline bool reads_both_planes(const LinearParams& p) { return p.weight->kind == WeightKind::kNested8 && p.plane == Plane::kFull; }

template <class L>
void run_float_linear(const LinearParams& p, Part part) {
  const PackedWeight& w = *p.weight;
  using Int4 = CodeSource<L, typename L::Int4Decoder>;
  using Nested = CodeSource<L, typename L::NestedDecoder>;
  if (w.kind == WeightKind::kDenseF32) return run_gemm<L>(p, part, FloatGemm<L, F32Source<L>>{F32Source<L>(w), p.input, w.k});
  if (w.kind == WeightKind::kDenseBf16) return run_gemm<L>(p, part, FloatGemm<L, Bf16Source<L>>{Bf16Source<L>(w), p.input, w.k});
  if (reads_both_planes(p)) return run_gemm<L>(p, part, FloatGemm<L, Nested>{Nested(w, w.radix), p.input, w.k});
  run_gemm<L>(p, part, FloatGemm<L, Int4>{Int4(w, 1), p.input, w.k});
}

template <class L>
void run_int_linear(const LinearParams& p, Part part) {
  const PackedWeight& w = *p.weight;
  if (reads_both_planes(p)) return run_gemm<L>(p, part, IntGemm<L, NestedCodes<L>>{NestedCodes<L>(w), *p.quantized_input});
  run_gemm<L>(p, part, IntGemm<L, HiCodes<L>>{HiCodes<L>(w), *p.quantized_input});
}

template <class L>
void run_linear(const LinearParams& p, Part part) {
  p.quantized_input == nullptr ? run_float_linear<L>(p, part) : run_int_linear<L>(p, part);
}

}  // namespace
}  // namespace qspec::cpu
