// Destinations of row-wise ops that own their memory, and comparisons between them.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "qspec/params.h"
#include "testkit.h"

namespace qspec::test {

// How rows are stored: bits 0 = float.
struct SinkSpec {
  int hadamard_block, bits, group_size;
  bool per_token;
  std::string name() const {
    return text("hadamard %d, %s", hadamard_block,
                bits == 0 ? "float" : text("int%d g%d%s", bits, group_size, per_token ? " per token" : "").c_str());
  }
  bool fits(int64_t width) const {
    return (hadamard_block == 0 || width % hadamard_block == 0) && (bits == 0 || width % group_size == 0);
  }
};

inline std::vector<SinkSpec> sink_specs() {
  return {{0, 0, 0, false},  {4, 0, 0, false},   {8, 0, 0, false},   {16, 0, 0, false},   {32, 0, 0, false},
          {64, 0, 0, false}, {128, 0, 0, false}, {256, 0, 0, false}, {1024, 0, 0, false}, {0, 8, 32, false},
          {0, 4, 64, false}, {0, 8, 128, true},  {64, 8, 32, false}, {32, 4, 32, true},   {64, 4, 64, false}};
}

struct SinkBuffer {
  SinkSpec spec;
  int64_t rows, width;
  std::vector<float> values, scales;
  std::vector<int8_t> codes;
  std::vector<int32_t> sums;

  SinkBuffer(const SinkSpec& sink_spec, int64_t num_rows, int64_t num_columns)
      : spec(sink_spec), rows(num_rows), width(num_columns) {
    if (spec.bits == 0) {
      values.assign(rows * width, -777.0f);
      return;
    }
    codes.assign(rows * width, 99);
    scales.assign(rows * width / spec.group_size, -777.0f);
    sums.assign(rows * width / spec.group_size, -777);
  }
  RowSink sink() {
    RowSink result = {};
    result.hadamard_block = spec.hadamard_block;
    if (spec.bits == 0) {
      result.values = values.data();
    } else {
      result.quantized = {codes.data(), scales.data(), sums.data(), spec.bits, spec.group_size, spec.per_token};
    }
    return result;
  }
  // What the rows stand for: floats, or scale · code.
  std::vector<double> meaning() const {
    std::vector<double> result(rows * width);
    for (size_t i = 0; i < result.size(); ++i) {
      result[i] = spec.bits == 0 ? values[i] : static_cast<double>(scales[i / spec.group_size]) * codes[i];
    }
    return result;
  }
};

// Float: within `tolerance`. Quantised: scales within `tolerance`, sums right, codes off by one at most where a value
// lies between two.
inline std::string sink_difference(const SinkBuffer& actual, const SinkBuffer& expected, const Tolerance& tolerance) {
  if (actual.spec.bits == 0)
    return difference(actual.values.data(), expected.values.data(), actual.values.size(), tolerance);
  std::string problem = difference(actual.scales.data(), expected.scales.data(), actual.scales.size(), tolerance);
  if (!problem.empty()) return "scales: " + problem;
  size_t num_off = 0;
  for (size_t i = 0; i < actual.codes.size(); ++i) {
    const int off = std::abs(actual.codes[i] - expected.codes[i]);
    if (off > 1) return text("code [%zu]: expected %d but received %d", i, expected.codes[i], actual.codes[i]);
    num_off += off;
  }
  if (num_off > 1 + actual.codes.size() / 1000)
    return text("%zu of %zu codes are off by one", num_off, actual.codes.size());
  for (size_t group = 0; group < actual.sums.size(); ++group) {
    int sum = 0;
    for (int i = 0; i < actual.spec.group_size; ++i) sum += actual.codes[group * actual.spec.group_size + i];
    if (sum != actual.sums[group])
      return text("sum [%zu]: codes add up to %d but received %d", group, sum, actual.sums[group]);
  }
  return {};
}

// Rows [row, row + expected.rows) of `actual` against all of `expected`, bit for bit.
inline std::string sink_bit_difference(const SinkBuffer& actual, int64_t row, const SinkBuffer& expected) {
  const int64_t width = actual.width;
  if (actual.spec.bits == 0)
    return bit_difference(actual.values.data() + row * width, expected.values.data(), expected.values.size());
  const int64_t groups = width / actual.spec.group_size;
  std::string problem = bit_difference(actual.codes.data() + row * width, expected.codes.data(), expected.codes.size());
  if (problem.empty())
    problem = bit_difference(actual.scales.data() + row * groups, expected.scales.data(), expected.scales.size());
  if (problem.empty())
    problem = bit_difference(actual.sums.data() + row * groups, expected.sums.data(), expected.sums.size());
  return problem;
}

}  // namespace qspec::test

#define QSPEC_EXPECT_SAME(problem_expression, context)                                                   \
  do {                                                                                                   \
    const std::string problem_ = (problem_expression);                                                   \
    if (!problem_.empty()) {                                                                             \
      ::qspec::test::fail(__FILE__, __LINE__, "%s: %s", std::string(context).c_str(), problem_.c_str()); \
    }                                                                                                    \
  } while (0)
