#include "pack_layout.h"

#include <cstring>

#include "qspec/dtype.h"

namespace qspec::cpu {

namespace {

// 0xdcba -> 0x0d0c0b0a
uint32_t spread_nibbles(uint32_t half) {
  half = (half | half << 8) & 0x00ff00ffu;
  return (half | half << 4) & 0x0f0f0f0fu;
}

// 0x0d0c0b0a -> 0xdcba
uint32_t gather_nibbles(uint32_t bytes) {
  bytes = (bytes | bytes >> 4) & 0x00ff00ffu;
  return (bytes | bytes >> 8) & 0x0000ffffu;
}

// First element of `row` in a tiled array whose lines hold `line` elements and whose tiles hold `lines_per_tile` lines;
// a lane has `lane` consecutive elements.
int64_t tiled_offset(int64_t row, int64_t lines_per_tile, int lane) {
  return (row / kTileRows * lines_per_tile * kTileRows + row % kTileRows) * lane;
}

}  // namespace

uint32_t interleave_nibbles(uint32_t storage) {
  return spread_nibbles(storage & 0xffffu) | spread_nibbles(storage >> 16) << 4;
}

uint32_t deinterleave_nibbles(uint32_t resident) {
  return gather_nibbles(resident & 0x0f0f0f0fu) | gather_nibbles(resident >> 4 & 0x0f0f0f0fu) << 16;
}

void pack_codes_row(const int32_t* storage, int64_t k, int64_t row, uint32_t* plane) {
  const int64_t octets = k / 8;
  uint32_t* out = plane + tiled_offset(row, octets, 1);
  for (int64_t o = 0; o < octets; ++o) out[o * kTileRows] = interleave_nibbles(static_cast<uint32_t>(storage[o]));
}

void pack_scales_row(const uint16_t* storage, int64_t num_groups, int64_t row, uint16_t* scales) {
  uint16_t* out = scales + tiled_offset(row, num_groups, 1);
  for (int64_t g = 0; g < num_groups; ++g) out[g * kTileRows] = storage[g];
}

void pack_dense_row(const WeightSource& source, int64_t source_row, int64_t row, WeightKind kind, void* dense) {
  const int64_t k = source.k;
  if (kind == WeightKind::kDenseBf16) {
    const uint16_t* in = static_cast<const uint16_t*>(source.dense) + source_row * k;
    uint16_t* out = static_cast<uint16_t*>(dense) + tiled_offset(row, (k + 1) / 2, 2);
    for (int64_t i = 0; i < k; ++i) out[i / 2 * 2 * kTileRows + i % 2] = in[i];
    if (k % 2 != 0) out[k / 2 * 2 * kTileRows + 1] = 0;
    return;
  }
  float* out = static_cast<float*>(dense) + tiled_offset(row, k, 1);
  if (source.dense_type == DenseType::kF32) {
    const float* in = static_cast<const float*>(source.dense) + source_row * k;
    for (int64_t i = 0; i < k; ++i) out[i * kTileRows] = in[i];
  } else {
    const uint16_t* in = static_cast<const uint16_t*>(source.dense) + source_row * k;
    for (int64_t i = 0; i < k; ++i) out[i * kTileRows] = f16_to_float(in[i]);
  }
}

}  // namespace qspec::cpu
