#include <cmath>

#include "common.h"

namespace qspec::reference {

// silu(gate) · up, silu(x) = x / (1 + e^-x).
void silu_mul(const SiluMulParams& params, Part part) {
  const int64_t width = params.width;
  const auto [begin, end] = rows_of_part(params.rows, part);
  for (int64_t row = begin; row < end; ++row) {
    const float* gate = params.input + row * 2 * width;
    std::vector<double> values(width);
    for (int64_t i = 0; i < width; ++i)
      values[i] = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * gate[width + i];
    store_row(params.sink, row, std::move(values));
  }
}

}  // namespace qspec::reference
