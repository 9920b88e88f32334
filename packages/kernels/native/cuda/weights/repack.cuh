// Repacking kernels: one thread writes one word of the resident layout. Rows and columns beyond the matrix become zero weights.
#pragma once
#include "common/layout.h"
#include "common/primitives.cuh"

namespace qspec::cuda {

// A horizontal strip of one source: its rows are rows [row_begin, row_begin + num_rows) of the stacked weight, which begins a row-tile
// at or before row_begin. `is_last`: the rows after it up to the end of the row-tile are padding.
struct RepackParams {
  DeviceWeight weight;
  int row_begin, num_rows;
  int is_last;
  const uint32_t* codes;    // [num_rows, k / 8]
  const uint16_t* scales;   // [num_rows, k / group]
  const void* dense;        // [num_rows, k]
  int dense_type;           // 0 float32, 1 float16, 2 bfloat16
  uint8_t* hi;              // where codes go: hi with scales, or
  uint8_t* lo;
};

constexpr int kRepackThreads = 256;

QSPEC_DEVICE int64_t repack_thread() { return static_cast<int64_t>(block_index()) * kRepackThreads + thread_index(); }
QSPEC_DEVICE int64_t repack_stride() { return static_cast<int64_t>(grid_blocks()) * kRepackThreads; }

// Four nibbles (k .. k+3 of one source row), or zero codes.
QSPEC_DEVICE uint32_t four_codes(const RepackParams& p, int row, int k) {
  const int local = row - p.row_begin;
  if (local < 0 || local >= p.num_rows || k >= p.weight.k) return 0x8888u;
  return p.codes[static_cast<int64_t>(local) * (p.weight.k / 8) + k / 8] >> (k % 8 * 4) & 0xffffu;
}
// Does this strip decide the row? Its own rows, and the padding behind the last.
QSPEC_DEVICE bool owns_row(const RepackParams& p, int row) { return row >= p.row_begin && (row < p.row_begin + p.num_rows || p.is_last); }

// A word holds nibbles of two rows, which may come from different strips: halves are written apart.
QSPEC_KERNEL(kRepackThreads, 1) repack_codes_kernel(const QSPEC_GRID_CONSTANT RepackParams p) {
  const DeviceWeight& w = p.weight;
  const int first = p.row_begin / kTileN, last = (p.row_begin + p.num_rows - 1) / kTileN;
  const int64_t words = static_cast<int64_t>(last - first + 1) * w.k_tiles * 128;
  for (int64_t i = repack_thread(); i < words; i += repack_stride()) {
    const int64_t tile = i / 128;
    const int row_tile = first + static_cast<int>(tile / w.k_tiles), k_tile = static_cast<int>(tile % w.k_tiles);
    const int lane = static_cast<int>(i % 128) / 4, step = static_cast<int>(i % 4), g = lane / 4, t = lane % 4;
    uint8_t* base = p.lo ? p.lo + tile * kTileBytes + static_cast<int64_t>(first) * w.k_tiles * kTileBytes
                         : p.hi + row_tile * hi_row_tile_bytes(w.k, w.k_tiles, w.group_size) + codes_offset(w.group_size, k_tile);
    auto* word = reinterpret_cast<uint32_t*>(base) + lane * 4 + step;
    uint32_t value = *word;
    for (int h = 0; h < 2; ++h) {
      const int row = row_tile * kTileN + g + 8 * h;
      if (!owns_row(p, row)) continue;
      const uint32_t codes = four_codes(p, row, k_tile * kTileK + tile_k(step, t, 0));
      for (int j = 0; j < 4; ++j) {
        const int bit = nibble_bit(h, j);
        value = (value & ~(15u << bit)) | (codes >> (4 * j) & 15u) << bit;
      }
    }
    *word = value;
  }
}

QSPEC_KERNEL(kRepackThreads, 1) repack_scales_kernel(const QSPEC_GRID_CONSTANT RepackParams p) {
  const DeviceWeight& w = p.weight;
  const int groups = w.k / w.group_size;
  const int end = p.is_last ? w.n_tiles * kTileN : p.row_begin + p.num_rows;
  const int64_t count = static_cast<int64_t>(end - p.row_begin) * groups;
  for (int64_t i = repack_thread(); i < count; i += repack_stride()) {
    const int local = static_cast<int>(i / groups), q = static_cast<int>(i % groups), row = p.row_begin + local;
    uint8_t* scales = p.hi + row / kTileN * hi_row_tile_bytes(w.k, w.k_tiles, w.group_size) + scales_offset(w.k_tiles, w.group_size, q);
    reinterpret_cast<uint16_t*>(scales)[row % 8 * 2 + row % 16 / 8] = local < p.num_rows ? p.scales[static_cast<int64_t>(local) * groups + q] : 0;
  }
}

QSPEC_DEVICE float half_value(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
  if (exponent == 0) return float_of_bits(bits_of_float(static_cast<float>(fraction) * 0x1p-24f) | sign);
  if (exponent == 31) return float_of_bits(sign | 0x7f800000u | fraction << 13);
  return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}
QSPEC_DEVICE uint16_t dense_bits(const RepackParams& p, int64_t index) {
  if (p.dense_type == 2) return static_cast<const uint16_t*>(p.dense)[index];
  const float value = p.dense_type == 0 ? static_cast<const float*>(p.dense)[index] : half_value(static_cast<const uint16_t*>(p.dense)[index]);
  return static_cast<uint16_t>(pack_bf16(value, 0.0f));
}

QSPEC_KERNEL(kRepackThreads, 1) repack_dense_kernel(const QSPEC_GRID_CONSTANT RepackParams p) {
  const DeviceWeight& w = p.weight;
  const int end = p.is_last ? w.n_tiles * kTileN : p.row_begin + p.num_rows, padded = w.k_tiles * kTileK;
  const int64_t count = static_cast<int64_t>(end - p.row_begin) * padded;
  for (int64_t i = repack_thread(); i < count; i += repack_stride()) {
    const int local = static_cast<int>(i / padded), k = static_cast<int>(i % padded), row = p.row_begin + local;
    const int k64 = k % kTileK, lane = 4 * (row % 8) + k64 % 32 / 8, step = 2 * (k64 / 32) + k64 % 8 / 4, j = k64 % 4;
    uint8_t* tile = p.hi + (static_cast<int64_t>(row / kTileN) * w.k_tiles + k / kTileK) * kDenseTileBytes;
    auto* lane_values = reinterpret_cast<uint16_t*>(tile + step * 512 + lane * 16);
    lane_values[(2 * (j / 2) + row % 16 / 8) * 2 + j % 2] = local < p.num_rows && k < w.k ? dense_bits(p, static_cast<int64_t>(local) * w.k + k) : 0;
  }
}

}  // namespace qspec::cuda
