#include <cmath>

#include "common.h"

namespace qspec::reference {

namespace {
void rms_norm_head(float* head, const float* weight, int head_dim, float eps) {
  double sum = 0;
  for (int i = 0; i < head_dim; ++i) sum += static_cast<double>(head[i]) * head[i];
  const double factor = 1 / std::sqrt(sum / head_dim + eps);
  for (int i = 0; i < head_dim; ++i) head[i] = static_cast<float>(head[i] * factor * weight[i]);
}

// Pairs are (i, i + head_dim / 2), angle = position · inverse_frequencies[i].
void rotate_head(float* head, const RopeKvWriteParams& params, int64_t row) {
  const int half = params.cache.head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const double angle = static_cast<double>(params.batch.positions[row]) * params.inverse_frequencies[i];
    const double cosine = std::cos(angle) * params.attention_factor, sine = std::sin(angle) * params.attention_factor;
    const double a = head[i], b = head[half + i];
    head[i] = static_cast<float>(a * cosine - b * sine);
    head[half + i] = static_cast<float>(b * cosine + a * sine);
  }
}
}  // namespace

void rope_kv_write(const RopeKvWriteParams& params, Part part) {
  const KvLayer& cache = params.cache;
  const int head_dim = cache.head_dim, num_q = params.num_heads, num_kv = cache.num_kv_heads;
  const auto [begin, end] = rows_of_part(params.batch.rows, part);
  for (int64_t row = begin; row < end; ++row) {
    float* q = params.qkv + row * (num_q + 2 * num_kv) * head_dim;
    float* k = q + num_q * head_dim;
    float* v = k + num_kv * head_dim;
    for (int head = 0; head < num_q + num_kv; ++head) {  // q heads, then k heads
      const float* weight = head < num_q ? params.q_norm : params.k_norm;
      if (weight) rms_norm_head(q + head * head_dim, weight, head_dim, params.eps);
      rotate_head(q + head * head_dim, params, row);
    }
    for (int head = 0; head < num_kv; ++head) {
      kv_store(cache, cache.k, cache.k_scales, params.batch.slots[row], head, k + head * head_dim);
      kv_store(cache, cache.v, cache.v_scales, params.batch.slots[row], head, v + head * head_dim);
    }
  }
}

}  // namespace qspec::reference
