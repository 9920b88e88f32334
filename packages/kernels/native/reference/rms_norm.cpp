#include <cmath>

#include "common.h"

namespace qspec::reference {

// input += delta (in place, rounded to float as every backend keeps it), then input / sqrt(mean(input²) + eps) ·
// weight.
void rms_norm(const RmsNormParams& params, Part part) {
  const int64_t width = params.width;
  const auto [begin, end] = rows_of_part(params.rows, part);
  for (int64_t row = begin; row < end; ++row) {
    float* input = params.input + row * width;
    double sum = 0;
    for (int64_t i = 0; i < width; ++i) {
      if (params.delta) input[i] += params.delta[row * width + i];
      sum += static_cast<double>(input[i]) * input[i];
    }
    const double factor = 1 / std::sqrt(sum / width + params.eps);
    std::vector<double> values(width);
    for (int64_t i = 0; i < width; ++i) values[i] = input[i] * factor * params.weight[i];
    store_row(params.sink, row, std::move(values));
  }
}

}  // namespace qspec::reference
