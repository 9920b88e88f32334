// Resident tiles -> one row of floats: what a weight *means*, for the reference op and for embeddings.
#include "pack_layout.h"
#include "qspec/dtype.h"

namespace qspec {

namespace {

int code_at(const uint32_t* plane, int64_t num_octets, int64_t row, int64_t k) {
  const uint32_t word = plane[(row / kTileRows * num_octets + k / 8) * kTileRows + row % kTileRows];
  return static_cast<int>(word >> nibble_shift(static_cast<int>(k % 8)) & 15) - 8;
}

void unpack_dense_row(const PackedWeight& w, int64_t row, float* out) {
  const int64_t tile = row / kTileRows, lane = row % kTileRows;
  if (w.kind == WeightKind::kDenseF32) {
    const float* in = static_cast<const float*>(w.dense) + tile * w.k * kTileRows + lane;
    for (int64_t k = 0; k < w.k; ++k) out[k] = in[k * kTileRows];
  } else {
    const uint16_t* in = static_cast<const uint16_t*>(w.dense) + (tile * ((w.k + 1) / 2) * kTileRows + lane) * 2;
    for (int64_t k = 0; k < w.k; ++k) out[k] = bf16_to_float(in[k / 2 * 2 * kTileRows + k % 2]);
  }
}

}  // namespace

void unpack_row(const PackedWeight& w, Plane plane, int64_t row, float* out) {
  if (w.kind == WeightKind::kDenseF32 || w.kind == WeightKind::kDenseBf16) return unpack_dense_row(w, row, out);
  const bool nested = w.kind == WeightKind::kNested8 && plane == Plane::kFull;
  const int64_t octets = w.k / 8, groups = w.k / w.group_size;
  for (int64_t k = 0; k < w.k; ++k) {
    const int64_t group = row / kTileRows * groups + k / w.group_size;
    const float scale = bf16_to_float(w.scales[group * kTileRows + row % kTileRows]);
    const int hi = code_at(w.hi, octets, row, k);
    // scale · code has at most 16 significant bits, so the division's is the only rounding.
    out[k] =
        nested ? scale * static_cast<float>(w.radix * hi + code_at(w.lo, octets, row, k)) / static_cast<float>(w.radix)
               : scale * static_cast<float>(hi);
  }
}

}  // namespace qspec
