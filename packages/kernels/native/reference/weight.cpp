#include "common.h"
#include "qspec/dtype.h"

namespace qspec::reference {

namespace {
// Code in [-8, 7] of element (n, k) of a 4-bit plane; see the drawing in formats.h.
int code_at(const uint32_t* plane, const PackedWeight& weight, int64_t n, int64_t k) {
  const int64_t tile = n / kTileRows, lane = n % kTileRows, octet = k / 8;
  const uint32_t word = plane[(tile * (weight.k / 8) + octet) * kTileRows + lane];
  return static_cast<int>((word >> nibble_shift(static_cast<int>(k % 8))) & 15) - 8;
}
}  // namespace

double weight_at(const PackedWeight& weight, Plane plane, int64_t n, int64_t k) {
  const int64_t tile = n / kTileRows, lane = n % kTileRows;
  if (weight.kind == WeightKind::kDenseF32) {
    return static_cast<const float*>(weight.dense)[(tile * weight.k + k) * kTileRows + lane];
  }
  if (weight.kind == WeightKind::kDenseBf16) {
    const int64_t pairs = (weight.k + 1) / 2;
    return bf16_to_float(
        static_cast<const uint16_t*>(weight.dense)[((tile * pairs + k / 2) * kTileRows + lane) * 2 + k % 2]);
  }
  const int64_t num_groups = weight.k / weight.group_size;
  const double scale = bf16_to_float(weight.scales[(tile * num_groups + k / weight.group_size) * kTileRows + lane]);
  const int hi = code_at(weight.hi, weight, n, k);
  if (weight.kind == WeightKind::kInt4 || plane == Plane::kHi) return scale * hi;
  return scale / weight.radix * (weight.radix * hi + code_at(weight.lo, weight, n, k));
}

}  // namespace qspec::reference
