#include <cmath>

#include "common.h"
#include "qspec/dtype.h"

namespace qspec::reference {

int64_t slot_of(const BatchRows& batch, int page_size, int64_t row, int64_t position) {
  if (batch.ancestor_starts != nullptr && position >= batch.ancestor_starts[row]) {
    return batch.ancestor_slots[row * batch.max_ancestors + position - batch.ancestor_starts[row]];
  }
  const int32_t first_page = batch.page_offsets[batch.sequences[row]];
  return int64_t{batch.page_ids[first_page + position / page_size]} * page_size + position % page_size;
}

double kv_at(const KvLayer& cache, const void* data, const float* scales, int64_t slot, int head, int element) {
  const int64_t vector = slot * cache.num_kv_heads + head, index = vector * cache.head_dim + element;
  switch (cache.format) {
    case KvFormat::kF32:
      return static_cast<const float*>(data)[index];
    case KvFormat::kBf16:
      return bf16_to_float(static_cast<const uint16_t*>(data)[index]);
    default:
      return static_cast<double>(scales[vector]) * static_cast<const int8_t*>(data)[index];
  }
}

void kv_store(const KvLayer& cache, void* data, float* scales, int64_t slot, int head, const float* values) {
  const int64_t vector = slot * cache.num_kv_heads + head, base = vector * cache.head_dim;
  double max_abs = 0;
  for (int i = 0; i < cache.head_dim; ++i) {
    if (cache.format == KvFormat::kF32) static_cast<float*>(data)[base + i] = values[i];
    if (cache.format == KvFormat::kBf16) static_cast<uint16_t*>(data)[base + i] = float_to_bf16(values[i]);
    if (!std::isfinite(values[i])) max_abs = NAN;
    if (!(std::fabs(values[i]) <= max_abs) && !std::isnan(max_abs)) max_abs = std::fabs(values[i]);
  }
  if (cache.format == KvFormat::kF32 || cache.format == KvFormat::kBf16) return;
  scales[vector] = static_cast<float>(max_abs / 127);
  for (int i = 0; i < cache.head_dim; ++i) {
    static_cast<int8_t*>(data)[base + i] =
        max_abs > 0 ? static_cast<int8_t>(std::nearbyint(values[i] / (max_abs / 127))) : 0;
  }
}

}  // namespace qspec::reference
