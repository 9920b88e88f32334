#include <cmath>

#include "common.h"

namespace qspec::reference {

void hadamard(std::vector<double>& row, int block) {
  const std::vector<double> input = row;
  const double norm = 1 / std::sqrt(static_cast<double>(block));
  for (size_t base = 0; base < row.size(); base += block) {
    for (int j = 0; j < block; ++j) {
      double sum = 0;
      for (int i = 0; i < block; ++i) {
        int parity = i & j;
        for (int shift = 16; shift > 0; shift /= 2) parity ^= parity >> shift;
        sum += parity & 1 ? -input[base + i] : input[base + i];
      }
      row[base + j] = sum * norm;
    }
  }
}

namespace {
// Codes of `count` values under scale = max|x| / qmax. A span with NaN or infinity gets scale NaN and codes 0, so that
// its products are NaN.
void quantize_span(const double* values, int64_t count, double max_abs, int qmax, int8_t* codes) {
  const bool is_usable = std::isfinite(max_abs) && max_abs > 0;
  for (int64_t i = 0; i < count; ++i) {
    codes[i] = is_usable ? static_cast<int8_t>(std::nearbyint(values[i] / (max_abs / qmax))) : 0;
  }
}

double max_abs_of(const double* values, int64_t count) {
  double largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) return NAN;
    largest = std::fmax(largest, std::fabs(values[i]));
  }
  return largest;
}
}  // namespace

void store_row(const RowSink& sink, int64_t row, std::vector<double> values) {
  const int64_t width = static_cast<int64_t>(values.size());
  if (sink.hadamard_block > 0) hadamard(values, sink.hadamard_block);
  if (sink.quantized.codes == nullptr) {
    for (int64_t i = 0; i < width; ++i) sink.values[row * width + i] = static_cast<float>(values[i]);
    return;
  }
  const QuantizedRows& out = sink.quantized;
  const int qmax = (1 << (out.bits - 1)) - 1;
  const int64_t num_groups = width / out.group_size;
  const double row_max = max_abs_of(values.data(), width);
  for (int64_t group = 0; group < num_groups; ++group) {
    const double* span = values.data() + group * out.group_size;
    const double max_abs = out.per_token ? row_max : max_abs_of(span, out.group_size);
    int8_t* codes = out.codes + row * width + group * out.group_size;
    quantize_span(span, out.group_size, max_abs, qmax, codes);
    int32_t sum = 0;
    for (int i = 0; i < out.group_size; ++i) sum += codes[i];
    out.scales[row * num_groups + group] = static_cast<float>(max_abs / qmax);
    out.sums[row * num_groups + group] = sum;
  }
}

void transform(const TransformParams& params, Part part) {
  const auto [begin, end] = rows_of_part(params.rows, part);
  for (int64_t row = begin; row < end; ++row) {
    const float* input = params.input + row * params.width;
    store_row(params.sink, row, std::vector<double>(input, input + params.width));
  }
}

}  // namespace qspec::reference
