// The reference itself, on cases small enough to be worked out by hand or by a second, different formula.
#include <cmath>

#include "paged_cache.h"
#include "qspec/ops.h"
#include "random_weight.h"
#include "reference/sampling.h"
#include "row_buffers.h"
#include "testkit.h"

namespace qspec::test {
namespace {

constexpr Part kAll{0, 1};
constexpr Tolerance kExact{1e-6, 1e-6, 1e-9};

QSPEC_TEST(rms_norm_by_hand) {
  float input[] = {1, 5}, delta[] = {2, -1};
  const float weight[] = {1, 0.5f};
  SinkBuffer out({0, 0, 0, false}, 1, 2);
  reference_ops().rms_norm({input, delta, weight, out.sink(), 1, 2, 0}, kAll);
  const double rms = std::sqrt((9 + 16) / 2.0);
  const double expected[] = {3 / rms, 4 / rms * 0.5};
  QSPEC_EXPECT(input[0] == 3 && input[1] == 4);
  QSPEC_EXPECT_CLOSE(out.values.data(), expected, 2, kExact, "3-4");
}

QSPEC_TEST(hadamard_of_four_by_hand) {
  const float input[] = {1, 2, 3, 4};
  SinkBuffer out({4, 0, 0, false}, 1, 4);
  reference_ops().transform({input, out.sink(), 1, 4}, kAll);
  const double expected[] = {5, -1, -2, 0};  // (sums and differences) / 2
  QSPEC_EXPECT_CLOSE(out.values.data(), expected, 4, kExact, "block 4");
}

QSPEC_TEST(quantised_rows_by_hand) {
  std::vector<float> input(64, 0.0f);
  input[0] = 7, input[1] = -3.4f, input[2] = 0.6f, input[32] = -14, input[33] = 3;
  SinkBuffer groups({0, 4, 32, false}, 1, 64), token({0, 4, 32, true}, 1, 64);
  reference_ops().transform({input.data(), groups.sink(), 1, 64}, kAll);
  reference_ops().transform({input.data(), token.sink(), 1, 64}, kAll);
  QSPEC_EXPECT(groups.scales[0] == 1 && groups.scales[1] == 2);
  QSPEC_EXPECT(groups.codes[0] == 7 && groups.codes[1] == -3 && groups.codes[2] == 1 && groups.sums[0] == 5);
  QSPEC_EXPECT(groups.codes[32] == -7 && groups.codes[33] == 2 && groups.sums[1] == -5);  // 1.5 rounds to the even 2
  QSPEC_EXPECT(token.scales[0] == 2 && token.scales[1] == 2);
  QSPEC_EXPECT(token.codes[0] == 4 && token.codes[1] == -2 && token.codes[2] == 0 &&
               token.codes[32] == -7);  // 3.5 to 4
}

QSPEC_TEST(silu_mul_by_hand) {
  const float input[] = {0, 1, 3, 2};
  SinkBuffer out({0, 0, 0, false}, 1, 2);
  reference_ops().silu_mul({input, out.sink(), 1, 2}, kAll);
  const double expected[] = {0, 2 / (1 + std::exp(-1.0))};
  QSPEC_EXPECT_CLOSE(out.values.data(), expected, 2, kExact, "silu");
}

// Against what the storage layout says, so that the resident layout is read right.
QSPEC_TEST(linear_equals_products_with_the_stored_weight) {
  const WeightSpec specs[] = {dense_spec(DenseType::kF32), dense_spec(DenseType::kBf16),
                              dense_spec(DenseType::kF16), int4_spec(32),
                              nested_spec(64, 8),          nested_spec(32, 15)};
  constexpr int64_t kRows = 3, kN = 19, kK = 128, kStride = 25;
  for (const WeightSpec& spec : specs) {
    const RandomWeight weight(spec, kN, kK, 5);
    std::unique_ptr<ResidentWeight> resident;
    QSPEC_EXPECT(ResidentWeight::create({weight.source()}, &resident).is_ok());
    if (!resident) continue;
    Rng rng(6);
    const std::vector<float> input = rng.normals(kRows * kK), bias = rng.normals(kN);
    SinkBuffer codes({0, 8, 32, false}, kRows, kK);
    reference_ops().transform({input.data(), codes.sink(), kRows, kK}, kAll);
    const QuantizedRows quantized = codes.sink().quantized;
    for (const Plane plane : {Plane::kFull, Plane::kHi}) {
      for (const bool is_quantized : {false, true}) {
        const std::vector<double> meaning = codes.meaning();
        std::vector<float> actual(kRows * kStride, -5.0f);
        std::vector<double> expected(kRows * kStride, -5.0);
        for (int64_t row = 0; row < kRows; ++row) {
          for (int64_t n = 0; n < kN; ++n) {
            double sum = bias[n];
            for (int64_t k = 0; k < kK; ++k)
              sum += weight.value(plane, n, k) * (is_quantized ? meaning[row * kK + k] : input[row * kK + k]);
            expected[row * kStride + 2 + n] = sum;
          }
        }
        for (int part = 0; part < 3; ++part) {
          reference_ops().linear({&resident->view(), plane, is_quantized ? nullptr : input.data(),
                                  is_quantized ? &quantized : nullptr, bias.data(), actual.data(), kRows, kStride, 2},
                                 {part, 3});
        }
        QSPEC_EXPECT_CLOSE(actual.data(), expected.data(), expected.size(), (Tolerance{1e-5, 1e-5, 1e-9}), spec.name());
      }
    }
  }
}

// A rotated weight times a rotated input is the plain product; a rotated table gives back plain rows.
QSPEC_TEST(rotation_cancels) {
  constexpr int64_t kN = 8, kK = 64;
  Rng rng(7);
  const std::vector<float> plain = rng.normals(kN * kK), input = rng.normals(kK);
  SinkBuffer rotated({32, 0, 0, false}, kN, kK), rotated_input({32, 0, 0, false}, 1, kK);
  reference_ops().transform({plain.data(), rotated.sink(), kN, kK}, kAll);
  reference_ops().transform({input.data(), rotated_input.sink(), 1, kK}, kAll);
  WeightSource source = {};
  source.name = "w", source.kind = WeightKind::kDenseF32, source.n = kN, source.k = kK, source.radix = 1;
  source.dense = rotated.values.data(), source.hadamard_block = 32;
  std::unique_ptr<ResidentWeight> resident;
  QSPEC_EXPECT(ResidentWeight::create({source}, &resident).is_ok());
  if (!resident) return;
  std::vector<float> product(kN), row(kK);
  reference_ops().linear(
      {&resident->view(), Plane::kFull, rotated_input.values.data(), nullptr, nullptr, product.data(), 1, kN, 0}, kAll);
  std::vector<double> expected(kN, 0.0);
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) expected[n] += static_cast<double>(plain[n * kK + k]) * input[k];
  }
  QSPEC_EXPECT_CLOSE(product.data(), expected.data(), kN, (Tolerance{1e-5, 1e-5, 1e-9}), "product");
  const int32_t token = 5;
  reference_ops().embedding({&resident->view(), &token, row.data(), 1}, kAll);
  QSPEC_EXPECT_CLOSE(row.data(), plain.data() + 5 * kK, kK, kExact, "table row");
}

QSPEC_TEST(rope_turns_pairs_by_the_angle) {
  float qkv[] = {1, 0, 0, 2, 1, 1, 0, 0, 5, 6, 7, 8};  // q | k | v, head_dim 4, pairs (0, 2) and (1, 3)
  const float frequencies[] = {1, 0.5f};
  Rng rng(1);
  PagedCache cache(KvFormat::kF32, 1, 4, 16, 2, rng);
  BatchBuilder batch;
  batch.positions = {3}, batch.sequences = {0}, batch.slots = {20};
  reference_ops().rope_kv_write({qkv, batch.view(), cache.layer, 1, frequencies, 2, nullptr, nullptr, 0}, kAll);
  const double expected[] = {2 * std::cos(3),
                             -4 * std::sin(1.5),
                             2 * std::sin(3),
                             4 * std::cos(1.5),
                             2 * std::cos(3),
                             2 * std::cos(1.5),
                             2 * std::sin(3),
                             2 * std::sin(1.5),
                             5,
                             6,
                             7,
                             8};
  QSPEC_EXPECT_CLOSE(qkv, expected, 12, kExact, "qkv");
  QSPEC_EXPECT_CLOSE(cache.f32[0].data() + 20 * 4, expected + 4, 4, kExact, "k in the cache");
  QSPEC_EXPECT_CLOSE(cache.f32[1].data() + 20 * 4, expected + 8, 4, kExact, "v in the cache");
}

QSPEC_TEST(attention_of_two_positions_by_hand) {
  Rng rng(1);
  PagedCache cache(KvFormat::kF32, 1, 4, 16, 2, rng);
  BatchBuilder batch;
  batch.page_ids = {1}, batch.page_offsets = {0, 1};
  batch.positions = {0, 1}, batch.sequences = {0, 0}, batch.slots = {16, 17};
  const float keys[] = {1, 0, 0, 0, 0, 1, 0, 0}, values[] = {1, 2, 3, 4, -1, 0, 5, 9};
  std::copy(keys, keys + 8, cache.f32[0].begin() + 64);
  std::copy(values, values + 8, cache.f32[1].begin() + 64);
  const float q[] = {1, 3, 0, 0, 1, 3, 0, 0};
  SinkBuffer out({0, 0, 0, false}, 2, 4);
  reference_ops().attention({q, 4, batch.view(), cache.layer, 1, 0.5f, 0, out.sink()}, kAll);
  const double second = 1 / (1 + std::exp(-1.0)), first = 1 - second;  // scores 0.5 and 1.5
  double expected[8];
  for (int d = 0; d < 4; ++d) expected[d] = values[d], expected[4 + d] = first * values[d] + second * values[4 + d];
  QSPEC_EXPECT_CLOSE(out.values.data(), expected, 8, kExact, "two positions");
  reference_ops().attention({q, 4, batch.view(), cache.layer, 1, 0.5f, 1, out.sink()}, kAll);  // window 1: itself alone
  QSPEC_EXPECT_CLOSE(out.values.data() + 4, values + 4, 4, kExact, "window 1");
}

QSPEC_TEST(sampling_distribution_by_hand) {
  const float logits[] = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  SamplerParams params = {};
  params.temperature = 1, params.top_p = 1, params.repetition_penalty = 1;
  const auto shares = [&] { return reference::sampling_distribution(logits, 4, params, nullptr, 0); };
  const double all[] = {0.5, 0.3, 0.15, 0.05}, two[] = {0.625, 0.375, 0, 0},
               three[] = {0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0};
  QSPEC_EXPECT_CLOSE(shares().data(), all, 4, kExact, "plain");
  params.top_k = 2;
  QSPEC_EXPECT_CLOSE(shares().data(), two, 4, kExact, "top-k 2");
  params.top_k = 0, params.top_p = 0.75f;
  QSPEC_EXPECT_CLOSE(shares().data(), two, 4, kExact, "top-p 0.75");
  params.top_p = 0.85f;
  QSPEC_EXPECT_CLOSE(shares().data(), three, 4, kExact, "top-p 0.85");
  params.top_p = 1, params.min_p = 0.25f;
  QSPEC_EXPECT_CLOSE(shares().data(), three, 4, kExact, "min-p 0.25");
}

}  // namespace
}  // namespace qspec::test

QSPEC_TEST_MAIN()
