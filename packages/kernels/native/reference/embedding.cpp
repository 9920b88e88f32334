#include "common.h"

namespace qspec::reference {

// A table stored for rotated inputs holds W · H; H is symmetric and orthonormal, so multiplying by it once more gives
// W.
void embedding(const EmbeddingParams& params, Part part) {
  const PackedWeight& table = *params.table;
  const auto [begin, end] = rows_of_part(params.rows, part);
  for (int64_t row = begin; row < end; ++row) {
    std::vector<double> values(table.k);
    for (int64_t k = 0; k < table.k; ++k) values[k] = weight_at(table, Plane::kFull, params.tokens[row], k);
    if (table.hadamard_block > 0) hadamard(values, table.hadamard_block);
    for (int64_t k = 0; k < table.k; ++k) params.output[row * table.k + k] = static_cast<float>(values[k]);
  }
}

}  // namespace qspec::reference
