// The linear op on every instruction set that this processor has: values against a double sum over the storage layout,
// the same bits for any row count, neighbours, Part count and instruction set, and the argument check.
#include <functional>
#include <memory>

#include "../cpu/linear.h"
#include "qspec/checks_linear.h"
#include "random_weight.h"
#include "testkit.h"

using namespace qspec;
using namespace qspec::test;

namespace {

// Float32 chains along K of at most a few thousand, values of order 1.
constexpr Tolerance kFloatTolerance{2e-5, 1e-4, 1e-10};
// Integer sums are exact; what differs is the combination of the groups.
constexpr Tolerance kIntTolerance{2e-5, 1e-4, 1e-10};

struct Implementation {
  const char* name;
  void (*linear)(const LinearParams&, Part);
};

std::vector<Implementation> implementations() {
  std::vector<Implementation> all{{"generic", cpu::linear_generic}};
#if defined(__x86_64__) && !defined(QSPEC_TEST_GENERIC_ONLY)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back({"avx2", cpu::linear_avx2});
  if (avx512) all.push_back({"avx512", cpu::linear_avx512});
  if (avx512 && __builtin_cpu_supports("avx512vnni")) all.push_back({"avx512vnni", cpu::linear_avx512vnni});
#endif
  return all;
}

// Activations of a test: the float values, or random codes with scales and sums.
struct Input {
  std::vector<float> values;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> sums;
  QuantizedRows quantized{};
  int64_t k = 0;

  static Input floats(int64_t rows, int64_t k, uint64_t seed) {
    Input in;
    in.k = k;
    in.values = Rng(seed).normals(rows * k);
    return in;
  }
  static Input codes_of(int64_t rows, int64_t k, int bits, int group_size, bool per_token, uint64_t seed) {
    Input in;
    in.k = k;
    Rng rng(seed);
    const int qmax = (1 << (bits - 1)) - 1;
    for (int64_t r = 0; r < rows; ++r) {
      const float row_scale = rng.uniform(0.5f, 2.0f) / static_cast<float>(qmax);
      for (int64_t g = 0; g < k / group_size; ++g) {
        // Extremes everywhere in some groups, all zero in others.
        const int style = rng.integer(0, 5), extreme = rng.integer(0, 1) ? qmax : -qmax;
        int32_t sum = 0;
        for (int i = 0; i < group_size; ++i) {
          const int code = style == 0 ? extreme : style == 1 ? 0 : rng.integer(-qmax, qmax);
          in.codes.push_back(static_cast<int8_t>(code));
          sum += code;
        }
        in.sums.push_back(sum);
        in.scales.push_back(per_token ? row_scale : style == 1 ? 0.0f : row_scale * rng.uniform(0.5f, 1.0f));
      }
    }
    in.quantized = {nullptr, nullptr, nullptr, bits, group_size, per_token};
    return in;
  }
  bool is_quantized() const { return !codes.empty(); }
  double value(int64_t row, int64_t i) const {
    const int64_t at = row * k + i;
    return is_quantized() ? static_cast<double>(scales[at / quantized.group_size]) * codes[at] : values[at];
  }
  // A view of the rows from `first` on.
  void attach(LinearParams& p, QuantizedRows& view, int64_t first) {
    if (!is_quantized()) {
      p.input = values.data() + first * k;
      return;
    }
    const int64_t groups = k / quantized.group_size;
    view = quantized;
    view.codes = codes.data() + first * k, view.scales = scales.data() + first * groups,
    view.sums = sums.data() + first * groups;
    p.quantized_input = &view;
  }
};

constexpr float kUntouched = -12345.0f;

// Rows [first, first + rows) of the input, in `num_parts` parts run backwards; the output has margins that must stay
// untouched.
std::vector<float> run(const Implementation& implementation, const PackedWeight& weight, Plane plane, Input& input,
                       int64_t first, int64_t rows, const float* bias, int num_parts) {
  const int64_t column = 3, stride = weight.n + 5;
  std::vector<float> wide(rows * stride + 1, kUntouched), out;
  LinearParams p{};
  QuantizedRows view;
  p.weight = &weight, p.plane = plane, p.bias = bias, p.output = wide.data(), p.rows = rows, p.output_stride = stride,
  p.output_column = column;
  input.attach(p, view, first);
  QSPEC_EXPECT(check_linear(p).is_ok());
  for (int i = num_parts; i-- > 0;) implementation.linear(p, {i, num_parts});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < stride; ++c) {
      if (c >= column && c < column + weight.n) {
        out.push_back(wide[r * stride + c]);
      } else {
        QSPEC_EXPECT(wide[r * stride + c] == kUntouched);
      }
    }
  }
  return out;
}

std::vector<float> truth(const RandomWeight& weight, Plane plane, const Input& input, int64_t rows, const float* bias) {
  std::vector<float> out;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < weight.n(); ++n) {
      double sum = bias ? bias[n] : 0;
      for (int64_t k = 0; k < weight.k(); ++k) sum += input.value(r, k) * weight.value(plane, n, k);
      out.push_back(static_cast<float>(sum));
    }
  }
  return out;
}

std::vector<WeightSpec> all_specs() {
  return {dense_spec(DenseType::kF32), dense_spec(DenseType::kBf16), int4_spec(32),       int4_spec(64), int4_spec(128),
          nested_spec(32, 8),          nested_spec(64, 12),          nested_spec(128, 15)};
}

bool is_dense(const WeightSpec& spec) { return spec.kind == WeightKind::kDenseF32; }

// Every (weight, plane, input kind) that check_linear accepts.
void for_each_arithmetic(const std::function<void(const WeightSpec&, Plane, int bits)>& body) {
  for (const WeightSpec& spec : all_specs()) {
    body(spec, Plane::kFull, 0);
    if (is_dense(spec)) continue;
    body(spec, Plane::kHi, 0);
    for (int bits : {4, 8}) body(spec, Plane::kFull, bits), body(spec, Plane::kHi, bits);
  }
}

Input input_for(const WeightSpec& spec, int bits, int64_t rows, int64_t k, uint64_t seed) {
  return bits == 0 ? Input::floats(rows, k, seed)
                   : Input::codes_of(rows, k, bits, spec.group_size, seed % 2 == 0, seed);
}

std::string context(const Implementation& implementation, const WeightSpec& spec, Plane plane, int bits, int64_t rows,
                    int64_t n, int64_t k) {
  return text("%s %s plane %d A%d rows %d n %d k %d", implementation.name, spec.name().c_str(), static_cast<int>(plane),
              bits ? bits : 16, (int)rows, (int)n, (int)k);
}

}  // namespace

QSPEC_TEST(values_agree_with_a_double_sum) {
  for_each_arithmetic([](const WeightSpec& spec, Plane plane, int bits) {
    for (int64_t n : {1, 15, 16, 17, 48, 83}) {
      for (int64_t k : {128, 384}) {
        const RandomWeight weight(spec, n, k, n + k);
        const auto packed = pack({weight.source()});
        for (int64_t rows : {1, 2, 3, 5, 8, 13, 17}) {
          Input input = input_for(spec, bits, rows, k, rows + n);
          const std::vector<float> bias = Rng(n).normals(n),
                                   expected = truth(weight, plane, input, rows, n % 2 ? bias.data() : nullptr);
          for (const Implementation& implementation : implementations()) {
            const auto actual =
                run(implementation, packed->view(), plane, input, 0, rows, n % 2 ? bias.data() : nullptr, 1);
            QSPEC_EXPECT_CLOSE(actual.data(), expected.data(), expected.size(), bits ? kIntTolerance : kFloatTolerance,
                               context(implementation, spec, plane, bits, rows, n, k));
          }
        }
      }
    }
  });
}

QSPEC_TEST(dense_weights_of_odd_width) {
  for (DenseType type : {DenseType::kF32, DenseType::kBf16}) {
    for (int64_t k : {1, 2, 3, 7, 33, 129}) {
      const RandomWeight weight(dense_spec(type), 37, k, k);
      const auto packed = pack({weight.source()});
      Input input = Input::floats(18, k, k);
      const auto expected = truth(weight, Plane::kFull, input, 18, nullptr);
      for (const Implementation& implementation : implementations()) {
        for (int64_t rows : {1, 2, 18}) {
          const auto actual = run(implementation, packed->view(), Plane::kFull, input, 0, rows, nullptr, 1);
          QSPEC_EXPECT_CLOSE(actual.data(), expected.data(), actual.size(), kFloatTolerance,
                             context(implementation, weight.spec(), Plane::kFull, 0, rows, 37, k));
        }
      }
    }
  }
}

QSPEC_TEST(a_row_is_the_same_bits_for_any_number_of_rows) {
  constexpr int64_t kMostRows = 128, n = 83, k = 256;
  for_each_arithmetic([](const WeightSpec& spec, Plane plane, int bits) {
    const RandomWeight weight(spec, n, k, 5);
    const auto packed = pack({weight.source()});
    Input input = input_for(spec, bits, kMostRows, k, 9);
    const std::vector<float> bias = Rng(3).normals(n);
    for (const Implementation& implementation : implementations()) {
      std::vector<float> alone;
      for (int64_t r = 0; r < kMostRows; ++r) {
        const auto row = run(implementation, packed->view(), plane, input, r, 1, bias.data(), 1);
        alone.insert(alone.end(), row.begin(), row.end());
      }
      std::vector<int64_t> counts{65, 127, 128};
      for (int64_t rows = 1; rows <= 64; ++rows) counts.push_back(rows);
      for (int64_t rows : counts) {
        const int64_t first = (rows * 7) % (kMostRows - rows + 1);  // other neighbours each time
        const auto together = run(implementation, packed->view(), plane, input, first, rows, bias.data(), 1);
        QSPEC_EXPECT_BITS(together.data(), alone.data() + first * n, together.size(),
                          context(implementation, spec, plane, bits, rows, n, k));
      }
    }
  });
}

QSPEC_TEST(any_cut_into_parts_is_the_same_bits) {
  for_each_arithmetic([](const WeightSpec& spec, Plane plane, int bits) {
    for (int64_t n : {5, 83, 176}) {
      const RandomWeight weight(spec, n, 128, 5);
      const auto packed = pack({weight.source()});
      for (int64_t rows : {1, 4, 40, 130}) {
        Input input = input_for(spec, bits, rows, 128, 9);
        for (const Implementation& implementation : implementations()) {
          const auto whole = run(implementation, packed->view(), plane, input, 0, rows, nullptr, 1);
          for (int num_parts : {2, 3, 4, 6, 7, 16, 33}) {
            const auto cut = run(implementation, packed->view(), plane, input, 0, rows, nullptr, num_parts);
            QSPEC_EXPECT_BITS(
                cut.data(), whole.data(), whole.size(),
                context(implementation, spec, plane, bits, rows, n, 128) + text(" in %d parts", num_parts));
          }
        }
      }
    }
  });
}

QSPEC_TEST(every_instruction_set_gives_the_same_bits) {
  for_each_arithmetic([](const WeightSpec& spec, Plane plane, int bits) {
    const RandomWeight weight(spec, 100, 384, 11);
    const auto packed = pack({weight.source()});
    for (int64_t rows : {1, 6, 33}) {
      Input input = input_for(spec, bits, rows, 384, 12);
      const auto expected = run(implementations()[0], packed->view(), plane, input, 0, rows, nullptr, 1);
      for (const Implementation& implementation : implementations()) {
        const auto actual = run(implementation, packed->view(), plane, input, 0, rows, nullptr, 2);
        QSPEC_EXPECT_BITS(actual.data(), expected.data(), expected.size(),
                          context(implementation, spec, plane, bits, rows, 100, 384));
      }
    }
  });
}

QSPEC_TEST(infinities_and_nans_stay_in_their_rows) {
  const RandomWeight weight(nested_spec(32, 12), 40, 128, 1);
  const auto packed = pack({weight.source()});
  Input input = Input::floats(5, 128, 2);
  const auto clean = truth(weight, Plane::kFull, input, 5, nullptr);
  input.values[1 * 128 + 7] = NAN;
  input.values[3 * 128 + 100] = INFINITY;
  for (const Implementation& implementation : implementations()) {
    const auto out = run(implementation, packed->view(), Plane::kFull, input, 0, 5, nullptr, 1);
    for (int64_t r : {0, 2, 4})
      QSPEC_EXPECT_CLOSE(out.data() + r * 40, clean.data() + r * 40, 40, kFloatTolerance, implementation.name);
    for (int64_t c = 0; c < 40; ++c) QSPEC_EXPECT(std::isnan(out[40 + c]) && !std::isfinite(out[3 * 40 + c]));
  }
}

QSPEC_TEST(no_rows_touch_nothing) {
  const RandomWeight weight(int4_spec(32), 20, 64, 1);
  const auto packed = pack({weight.source()});
  Input input = Input::floats(1, 64, 2);
  for (const Implementation& implementation : implementations())
    QSPEC_EXPECT(run(implementation, packed->view(), Plane::kFull, input, 0, 0, nullptr, 3).empty());
}

QSPEC_TEST(check_linear_names_what_is_wrong) {
  const RandomWeight nested(nested_spec(64, 12), 20, 128, 1), dense(dense_spec(DenseType::kBf16), 20, 128, 1),
      int4(int4_spec(64), 20, 128, 1);
  const auto nested_packed = pack({nested.source()}), dense_packed = pack({dense.source()}),
             int4_packed = pack({int4.source()});
  Input input = Input::codes_of(2, 128, 8, 64, false, 1);
  std::vector<float> out(2 * 20), x(2 * 128);
  const auto code_with = [&](auto change) {
    LinearParams p{};
    QuantizedRows view;
    input.attach(p, view, 0);
    p.weight = &nested_packed->view(), p.output = out.data(), p.rows = 2, p.output_stride = 20;
    PackedWeight weight = nested_packed->view();
    change(p, view, weight);
    const Status status = check_linear(p);
    QSPEC_EXPECT(status.is_ok() || status.message().find("xpected") != std::string::npos);
    return status.code();
  };
  using P = LinearParams;
  using Q = QuantizedRows;
  using W = PackedWeight;
  QSPEC_EXPECT(code_with([](P&, Q&, W&) {}) == StatusCode::kOk);
  QSPEC_EXPECT(code_with([](P& p, Q&, W&) { p.plane = Plane::kHi; }) == StatusCode::kOk);
  QSPEC_EXPECT(code_with([&](P& p, Q&, W&) { p.weight = &int4_packed->view(), p.plane = Plane::kHi; }) ==
               StatusCode::kOk);
  QSPEC_EXPECT(code_with([](P& p, Q&, W&) { p.weight = nullptr; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](P& p, Q&, W&) { p.rows = -1; }) == StatusCode::kShapeMismatch);
  QSPEC_EXPECT(code_with([](P& p, Q&, W&) { p.quantized_input = nullptr; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([&](P& p, Q&, W&) { p.input = x.data(); }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](P& p, Q&, W&) { p.plane = static_cast<Plane>(3); }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](P&, Q& q, W&) { q.group_size = 32; }) == StatusCode::kShapeMismatch);
  QSPEC_EXPECT(code_with([](P&, Q& q, W&) { q.bits = 6; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](P&, Q& q, W&) { q.sums = nullptr; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](P& p, Q&, W&) { p.output = nullptr; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](P& p, Q&, W&) { p.output_stride = 19; }) == StatusCode::kShapeMismatch);
  QSPEC_EXPECT(code_with([](P& p, Q&, W&) { p.output_column = 1; }) == StatusCode::kShapeMismatch);
  QSPEC_EXPECT(code_with([](P& p, Q&, W&) { p.output_column = -1; }) == StatusCode::kShapeMismatch);
  QSPEC_EXPECT(code_with([&](P& p, Q&, W&) { p.weight = &dense_packed->view(); }) == StatusCode::kUnsupported);
  QSPEC_EXPECT(code_with([&](P& p, Q&, W&) {
                 p.weight = &dense_packed->view(), p.quantized_input = nullptr, p.input = x.data(),
                 p.plane = Plane::kHi;
               }) == StatusCode::kUnsupported);
  QSPEC_EXPECT(code_with([](P& p, Q&, W& w) { w.radix = 16, p.weight = &w; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](P& p, Q&, W& w) { w.k = 100, p.weight = &w; }) == StatusCode::kShapeMismatch);
  QSPEC_EXPECT(code_with([](P& p, Q&, W& w) { w.lo = nullptr, p.weight = &w; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(check_linear_width(nested_packed->view(), 128, "layer 0 qkv").is_ok());
  QSPEC_EXPECT(check_linear_width(nested_packed->view(), 64, "layer 0 qkv").code() == StatusCode::kShapeMismatch);
}

QSPEC_TEST_MAIN()
