#include "common.h"

namespace qspec::reference {

// Every format is one sum: Σ_k x[r, k] · W[n, k], with x the float input or scale · code.
void linear(const LinearParams& params, Part part) {
  const PackedWeight& weight = *params.weight;
  const int64_t k = weight.k;
  const int64_t begin = weight.n * part.index / part.count, end = weight.n * (part.index + 1) / part.count;
  std::vector<double> inputs(params.rows * k), column(k);
  for (int64_t i = 0; i < params.rows * k; ++i) {
    if (params.input != nullptr) {
      inputs[i] = params.input[i];
    } else {
      const QuantizedRows& rows = *params.quantized_input;
      inputs[i] = static_cast<double>(rows.scales[i / rows.group_size]) * rows.codes[i];  // group_size divides k
    }
  }
  for (int64_t n = begin; n < end; ++n) {
    for (int64_t i = 0; i < k; ++i) column[i] = weight_at(weight, params.plane, n, i);
    for (int64_t row = 0; row < params.rows; ++row) {
      double sum = params.bias ? params.bias[n] : 0;
      for (int64_t i = 0; i < k; ++i) sum += inputs[row * k + i] * column[i];
      params.output[row * params.output_stride + params.output_column + n] = static_cast<float>(sum);
    }
  }
}

}  // namespace qspec::reference
