#include <algorithm>
#include <cmath>

#include "common.h"

namespace qspec::reference {

namespace {
// softmax(scale · q · Kᵀ) · V of one query head over positions [first, own]; `output` is [head_dim].
void attend(const AttentionParams& params, int64_t row, int head, double* output) {
  const KvLayer& cache = params.cache;
  const int head_dim = cache.head_dim, kv_head = head / (params.num_heads / cache.num_kv_heads);
  const int64_t own = params.batch.positions[row];
  const int64_t first = params.sliding_window > 0 ? std::max<int64_t>(0, own + 1 - params.sliding_window) : 0;
  const float* q = params.qkv + row * params.qkv_stride + head * head_dim;

  std::vector<double> scores(own + 1 - first);
  double largest = -INFINITY;
  for (int64_t position = first; position <= own; ++position) {
    const int64_t slot = slot_of(params.batch, cache.page_size, row, position);
    double dot = 0;
    for (int i = 0; i < head_dim; ++i) dot += q[i] * kv_at(cache, cache.k, cache.k_scales, slot, kv_head, i);
    scores[position - first] = dot * params.scale;
    largest = std::max(largest, scores[position - first]);
  }
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  std::fill(output, output + head_dim, 0.0);
  for (int64_t position = first; position <= own; ++position) {
    const int64_t slot = slot_of(params.batch, cache.page_size, row, position);
    const double share = scores[position - first] / sum;
    for (int i = 0; i < head_dim; ++i) output[i] += share * kv_at(cache, cache.v, cache.v_scales, slot, kv_head, i);
  }
}
}  // namespace

void attention(const AttentionParams& params, Part part) {
  const int head_dim = params.cache.head_dim;
  const auto [begin, end] = rows_of_part(params.batch.rows, part);
  for (int64_t row = begin; row < end; ++row) {
    std::vector<double> values(int64_t{params.num_heads} * head_dim);
    for (int head = 0; head < params.num_heads; ++head) attend(params, row, head, values.data() + head * head_dim);
    store_row(params.sink, row, std::move(values));
  }
}

}  // namespace qspec::reference
