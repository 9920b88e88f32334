// The linear op over one instruction set `L`: picks the kernel for (weight kind, plane, input) and walks this part's
// tiles and rows.
//
// | input   | dense f32, bf16 | int4, nested8 hi | nested8 full        |
// |---------|-----------------|------------------|---------------------|
// | float   | F32/Bf16Source  | Int4Decoder      | NestedDecoder       |
// | codes   | (rejected)      | HiCodes          | NestedCodes         |
//
// Included by one source file an instruction set. Everything is in anonymous namespaces on purpose: the same templates
// compiled with other flags must never be merged by the linker.
#pragma once
#include "gemm_float.h"
#include "gemm_int.h"
#include "gemm_schedule.h"
#include "gemm_slab.h"
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

// R rows against strips [begin, end), T at a time. The last T step back over strips that are already done (and make the
// same bits again): no kernels for remainders, which would be latency-bound and as slow.
template <class L, class Gemm, int R, int T>
void run_strips(const LinearParams& p, const Gemm& gemm, int64_t begin, int64_t end, int64_t row) {
  if constexpr (T > 1) {
    if (end - begin < T) return run_strips<L, Gemm, R, 1>(p, gemm, begin, end, row);
  }
  alignas(64) float acc[T * R * L::kWidth];
  for (int64_t strip = begin; strip < end; strip += T) {
    const int64_t first = strip + T <= end ? strip : end - T;
    gemm.template run<R, T>(first, row, acc);
    for (int t = 0; t < T; ++t) {
      for (int r = 0; r < R; ++r) store_strip<L>(p, gemm.divisor(), acc + (t * R + r) * L::kWidth, first + t, row + r);
    }
  }
}

// Compile-time row count for a block of `rows`.
template <class L, class Gemm, int R = 1>
QSPEC_INLINE void run_rows(const LinearParams& p, const Gemm& gemm, int rows, int64_t begin, int64_t end, int64_t row) {
  if (rows == R) return run_strips<L, Gemm, R, L::strips(R)>(p, gemm, begin, end, row);
  if constexpr (R < L::kLargestRowBlock) run_rows<L, Gemm, R + 1>(p, gemm, rows, begin, end, row);
}

// Strips outside, row blocks inside: the second row block finds the weights of a few tiles in the cache. `block` strips
// pass together, and so that the last ones need not be done alone, the last block takes up to twice as many.
template <class L, class Gemm>
void run_direct(const LinearParams& p, const Gemm& gemm, int64_t strip, int64_t strip_end, int64_t row_begin,
                int64_t row_end) {
  constexpr int64_t kBlock = L::strips(1);
  while (strip < strip_end) {
    const int64_t end = strip_end - strip < 2 * kBlock ? strip_end : strip + kBlock;
    for (int64_t row = row_begin; row < row_end;) {
      const int rows = next_row_block(row_end - row, L::kLargestRowBlock);
      run_rows<L>(p, gemm, rows, strip, end, row);
      row += rows;
    }
    strip = end;
  }
}

template <class L, class Gemm>
void run_gemm(const LinearParams& p, Part part, const Gemm& gemm) {
  constexpr int64_t kPerTile = kTileRows / L::kWidth;
  const Cut cut = cut_work(p.weight->num_tiles(), p.rows, part);
  const int64_t fit = kPanelBytes / (p.weight->k * 4) / kRowUnit * kRowUnit, panel = fit > kRowUnit ? fit : kRowUnit;
  for (int64_t row = cut.row_begin; row < cut.row_end; row += panel) {
    run_direct<L>(p, gemm, cut.tile_begin * kPerTile, cut.tile_end * kPerTile, row,
                  row + panel < cut.row_end ? row + panel : cut.row_end);
  }
}

// `rows`, a multiple of kSlabRows, against strips that share decoded weights, T at a time.
template <class L, int T, class Gemm>
void run_slab_strips(const LinearParams& p, const Gemm& gemm, int64_t strip, int64_t end, int64_t row, int64_t rows) {
  constexpr int R = L::kSlabRows;
  alignas(64) float acc[kSlabPanel * T * L::kWidth];
  for (; strip + T <= end; strip += T) {
    run_slab<L, T>(gemm, strip, row, rows, acc);
    for (int64_t i = 0; i < rows * T; ++i)
      store_strip<L>(p, gemm.divisor(), acc + i * L::kWidth, strip + i % (R * T) / R, row + i / (R * T) * R + i % R);
  }
  if constexpr (T > 1) run_slab_strips<L, 1>(p, gemm, strip, end, row, rows);
}

// As run_gemm, for formats that have to be decoded. Few rows, and those that fill no block of the slab's kernel, go the
// direct way.
template <class L, class Gemm>
void run_decoded_gemm(const LinearParams& p, Part part, const Gemm& gemm) {
  constexpr int64_t kPerTile = kTileRows / L::kWidth, kPanel = kSlabPanel / L::kSlabRows * L::kSlabRows;
  if (p.rows < kSlabMinRows) return run_gemm<L>(p, part, gemm);
  const Cut cut = cut_work(p.weight->num_tiles(), p.rows, part);
  const int64_t begin = cut.tile_begin * kPerTile, end = cut.tile_end * kPerTile;
  int64_t row = cut.row_begin;
  while (cut.row_end - row >= L::kSlabRows) {
    const int64_t left = (cut.row_end - row) / L::kSlabRows * L::kSlabRows, rows = left < kPanel ? left : kPanel;
    run_slab_strips<L, L::kSlabStrips>(p, gemm, begin, end, row, rows);
    row += rows;
  }
  if (row < cut.row_end) run_direct<L>(p, gemm, begin, end, row, cut.row_end);
}

inline bool reads_both_planes(const LinearParams& p) {
  return p.weight->kind == WeightKind::kNested8 && p.plane == Plane::kFull;
}

template <class L>
void run_float_linear(const LinearParams& p, Part part) {
  const PackedWeight& w = *p.weight;
  using Int4 = CodeSource<L, typename L::Int4Decoder>;
  using Nested = CodeSource<L, typename L::NestedDecoder>;
  if (w.kind == WeightKind::kDenseF32)
    return run_gemm<L>(p, part, FloatGemm<L, F32Source<L>>{F32Source<L>(w), p.input, w.k});
  if (w.kind == WeightKind::kDenseBf16)
    return run_gemm<L>(p, part, FloatGemm<L, Bf16Source<L>>{Bf16Source<L>(w), p.input, w.k});
  if (reads_both_planes(p)) return run_decoded_gemm<L>(p, part, FloatGemm<L, Nested>{Nested(w, w.radix), p.input, w.k});
  run_decoded_gemm<L>(p, part, FloatGemm<L, Int4>{Int4(w, 1), p.input, w.k});
}

template <class L>
void run_int_linear(const LinearParams& p, Part part) {
  const PackedWeight& w = *p.weight;
  if (reads_both_planes(p))
    return run_gemm<L>(p, part, IntGemm<L, NestedCodes<L>>{NestedCodes<L>(w), *p.quantized_input});
  run_gemm<L>(p, part, IntGemm<L, HiCodes<L>>{HiCodes<L>(w), *p.quantized_input});
}

template <class L>
void run_linear(const LinearParams& p, Part part) {
  p.quantized_input == nullptr ? run_float_linear<L>(p, part) : run_int_linear<L>(p, part);
}

}  // namespace
}  // namespace qspec::cpu
