// Row-wise ops of every instruction set against the reference: grids of shapes and sinks, odd values, row invariance
// bit for bit.
#include <cmath>

#include "op_tables.h"
#include "random_weight.h"
#include "row_buffers.h"
#include "testkit.h"

namespace qspec::test {
namespace {

constexpr Tolerance kFloatRow{2e-6, 2e-6, 1e-9};
// Products of two activations reach 200 here, and a Hadamard row adds them up before they cancel.
constexpr Tolerance kGatedRow{3e-5, 2e-6, 1e-9};
const int64_t kRowCounts[] = {1, 2, 5, 16, 33, 64};
const int64_t kWidths[] = {32, 64, 96, 384, 576, 1024};

struct NormCase {
  std::vector<float> input, delta, weight;
  NormCase(int64_t rows, int64_t width, uint64_t seed) {
    Rng rng(seed);
    input = rng.normals(rows * width, 3), delta = rng.normals(rows * width), weight = rng.normals(width);
  }
  // Input is changed in place: on a copy, which is returned.
  std::vector<float> run(const OpTable& ops, SinkBuffer& output, bool has_delta, int parts) const {
    std::vector<float> stream = input;
    run_parts(ops.rms_norm,
              RmsNormParams{stream.data(), has_delta ? delta.data() : nullptr, weight.data(), output.sink(),
                            output.rows, output.width, 1e-5f},
              parts);
    return stream;
  }
};

template <typename Body>
void for_each_shape(Body body) {
  for (const SinkSpec& spec : sink_specs()) {
    for (int64_t width : kWidths) {
      if (!spec.fits(width)) continue;
      for (int64_t rows : {int64_t{1}, int64_t{5}, int64_t{33}}) body(spec, rows, width);
    }
  }
}

std::string context(const OpTable& ops, const SinkSpec& spec, int64_t rows, int64_t width) {
  return text("%s, %lld x %lld, %s", ops.name, static_cast<long long>(rows), static_cast<long long>(width),
              spec.name().c_str());
}

QSPEC_TEST(rms_norm_equals_reference) {
  for_each_shape([](const SinkSpec& spec, int64_t rows, int64_t width) {
    const NormCase norm(rows, width, width + rows);
    for (const bool has_delta : {false, true}) {
      SinkBuffer expected(spec, rows, width);
      const std::vector<float> stream = norm.run(reference_ops(), expected, has_delta, 1);
      for (const OpTable* ops : cpu_tables()) {
        SinkBuffer actual(spec, rows, width);
        const std::vector<float> own_stream = norm.run(*ops, actual, has_delta, 3);
        QSPEC_EXPECT_SAME(sink_difference(actual, expected, kFloatRow), context(*ops, spec, rows, width));
        QSPEC_EXPECT_BITS(own_stream.data(), stream.data(), stream.size(), "residual");
      }
    }
  });
}

QSPEC_TEST(rms_norm_of_odd_widths_equals_reference) {
  for (int64_t width : {1, 3, 7, 8, 15, 17, 31, 65, 100}) {
    const NormCase norm(3, width, width);
    SinkBuffer expected({0, 0, 0, false}, 3, width);
    norm.run(reference_ops(), expected, true, 1);
    for (const OpTable* ops : cpu_tables()) {
      SinkBuffer actual({0, 0, 0, false}, 3, width);
      norm.run(*ops, actual, true, 2);
      QSPEC_EXPECT_SAME(sink_difference(actual, expected, kFloatRow), context(*ops, actual.spec, 3, width));
    }
  }
}

QSPEC_TEST(transform_equals_reference) {
  for_each_shape([](const SinkSpec& spec, int64_t rows, int64_t width) {
    Rng rng(7 * width + rows);
    const std::vector<float> input = rng.normals(rows * width);
    SinkBuffer expected(spec, rows, width);
    run_parts(reference_ops().transform, TransformParams{input.data(), expected.sink(), rows, width});
    for (const OpTable* ops : cpu_tables()) {
      for (int parts : {1, 2, 5}) {
        SinkBuffer actual(spec, rows, width);
        run_parts(ops->transform, TransformParams{input.data(), actual.sink(), rows, width}, parts);
        QSPEC_EXPECT_SAME(sink_difference(actual, expected, kFloatRow), context(*ops, spec, rows, width));
      }
    }
  });
}

QSPEC_TEST(transform_may_work_in_place) {
  for (const OpTable* ops : cpu_tables()) {
    Rng rng(3);
    const std::vector<float> input = rng.normals(2 * 128);
    SinkBuffer apart({64, 0, 0, false}, 2, 128);
    ops->transform(TransformParams{input.data(), apart.sink(), 2, 128}, {0, 1});
    SinkBuffer in_place({64, 0, 0, false}, 2, 128);
    in_place.values = input;
    ops->transform(TransformParams{in_place.values.data(), in_place.sink(), 2, 128}, {0, 1});
    QSPEC_EXPECT_BITS(in_place.values.data(), apart.values.data(), input.size(), ops->name);
  }
}

QSPEC_TEST(hadamard_twice_is_the_identity) {
  for (const OpTable* ops : cpu_tables()) {
    for (int block : {2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}) {
      Rng rng(block);
      const std::vector<float> input = rng.normals(2048);
      std::vector<float> values = input;
      RowSink sink = {};
      sink.values = values.data();
      sink.hadamard_block = block;
      for (int i = 0; i < 2; ++i) ops->transform(TransformParams{values.data(), sink, 1, 2048}, {0, 1});
      QSPEC_EXPECT_CLOSE(values.data(), input.data(), input.size(), kFloatRow, text("%s, block %d", ops->name, block));
    }
  }
}

QSPEC_TEST(silu_mul_equals_reference) {
  for_each_shape([](const SinkSpec& spec, int64_t rows, int64_t width) {
    Rng rng(11 * width + rows);
    const std::vector<float> input = rng.normals(rows * 2 * width, 4);
    SinkBuffer expected(spec, rows, width);
    run_parts(reference_ops().silu_mul, SiluMulParams{input.data(), expected.sink(), rows, width});
    for (const OpTable* ops : cpu_tables()) {
      SinkBuffer actual(spec, rows, width);
      run_parts(ops->silu_mul, SiluMulParams{input.data(), actual.sink(), rows, width}, 4);
      QSPEC_EXPECT_SAME(sink_difference(actual, expected, kGatedRow), context(*ops, spec, rows, width));
    }
  });
}

QSPEC_TEST(silu_is_right_from_minus_infinity_to_infinity) {
  std::vector<float> gates;
  for (float x = -120; x <= 120; x += 0.37f) gates.push_back(x);
  for (float x : {0.0f, -0.0f, 1e-30f, -1e-30f, 3e38f, -3e38f, INFINITY, -INFINITY, NAN}) gates.push_back(x);
  const int64_t width = static_cast<int64_t>(gates.size());
  std::vector<float> input = gates;
  input.resize(2 * width, 1.0f);
  SinkBuffer expected({0, 0, 0, false}, 1, width);
  reference_ops().silu_mul(SiluMulParams{input.data(), expected.sink(), 1, width}, {0, 1});
  for (const OpTable* ops : cpu_tables()) {
    SinkBuffer actual({0, 0, 0, false}, 1, width);
    ops->silu_mul(SiluMulParams{input.data(), actual.sink(), 1, width}, {0, 1});
    QSPEC_EXPECT_CLOSE(actual.values.data(), expected.values.data(), gates.size(), (Tolerance{1e-35, 3e-7, 1e-9}),
                       ops->name);
  }
}

// A group with NaN or infinity has scale NaN, its neighbours are untouched; zero and tiny groups have scale 0.
QSPEC_TEST(quantised_groups_keep_odd_values_to_themselves) {
  Rng rng(5);
  std::vector<float> input = rng.normals(6 * 32);
  input[3] = NAN, input[32 + 31] = INFINITY, input[64] = -INFINITY;
  for (int i = 0; i < 32; ++i) input[96 + i] = 0, input[128 + i] *= 1e-37f;
  std::vector<const OpTable*> tables = cpu_tables();
  tables.push_back(&reference_ops());
  for (const OpTable* ops : tables) {
    SinkBuffer out({0, 8, 32, false}, 1, 6 * 32);
    ops->transform(TransformParams{input.data(), out.sink(), 1, 6 * 32}, {0, 1});
    for (int group = 0; group < 3; ++group) {
      QSPEC_EXPECT(std::isnan(out.scales[group]) && out.sums[group] == 0 && out.codes[group * 32 + 5] == 0);
    }
    QSPEC_EXPECT(out.scales[3] == 0 && out.sums[3] == 0 && out.codes[100] == 0);
    QSPEC_EXPECT(out.scales[4] < 1e-36f);
    int largest = 0;
    for (int i = 0; i < 32; ++i) largest = std::max<int>(largest, std::abs(out.codes[160 + i]));
    QSPEC_EXPECT(largest == 127);
  }
}

QSPEC_TEST(rows_do_not_depend_on_their_neighbours_or_on_the_cut) {
  for (const SinkSpec& spec : sink_specs()) {
    const int64_t width = 1024;
    for (const OpTable* ops : cpu_tables()) {
      const NormCase norm(64, width, 17);
      Rng rng(23);
      const std::vector<float> gates = rng.normals(64 * 2 * width, 2);
      SinkBuffer norm_all(spec, 64, width), silu_all(spec, 64, width);
      norm.run(*ops, norm_all, true, 1);
      ops->silu_mul(SiluMulParams{gates.data(), silu_all.sink(), 64, width}, {0, 1});
      for (int parts = 1; parts <= 5; ++parts) {
        for (int64_t rows : kRowCounts) {
          const int64_t first = (64 - rows) / 3;
          NormCase some = norm;
          some.input.assign(norm.input.begin() + first * width, norm.input.begin() + (first + rows) * width);
          some.delta.assign(norm.delta.begin() + first * width, norm.delta.begin() + (first + rows) * width);
          SinkBuffer norm_some(spec, rows, width), silu_some(spec, rows, width);
          some.run(*ops, norm_some, true, parts);
          run_parts(ops->silu_mul, SiluMulParams{gates.data() + first * 2 * width, silu_some.sink(), rows, width},
                    parts);
          QSPEC_EXPECT_SAME(sink_bit_difference(norm_all, first, norm_some), context(*ops, spec, rows, width));
          QSPEC_EXPECT_SAME(sink_bit_difference(silu_all, first, silu_some), context(*ops, spec, rows, width));
        }
      }
    }
  }
}

QSPEC_TEST(embedding_equals_reference_and_undoes_rotation) {
  const WeightSpec specs[] = {dense_spec(DenseType::kF32), dense_spec(DenseType::kBf16), dense_spec(DenseType::kF16),
                              int4_spec(32), nested_spec(64, 12)};
  for (const WeightSpec& spec : specs) {
    for (int block : {0, 64}) {
      const RandomWeight weight(spec, 37, 192, 9);
      WeightSource source = weight.source();
      source.hadamard_block = block;
      std::unique_ptr<ResidentWeight> resident;
      QSPEC_EXPECT(ResidentWeight::create({source}, &resident).is_ok());
      if (!resident) continue;
      const int32_t tokens[] = {0, 36, 15, 16, 17, 3};
      std::vector<float> expected(6 * 192), actual(6 * 192);
      reference_ops().embedding(EmbeddingParams{&resident->view(), tokens, expected.data(), 6}, {0, 1});
      if (block == 0) QSPEC_EXPECT(std::fabs(expected[192 + 5] - weight.value(Plane::kFull, 36, 5)) < 1e-6);
      for (const OpTable* ops : cpu_tables()) {
        run_parts(ops->embedding, EmbeddingParams{&resident->view(), tokens, actual.data(), 6}, 4);
        QSPEC_EXPECT_CLOSE(actual.data(), expected.data(), actual.size(), kFloatRow,
                           std::string(ops->name) + ", " + spec.name());
      }
    }
  }
}

QSPEC_TEST(gather_rows_copies_rows) {
  Rng rng(2);
  const std::vector<float> input = rng.normals(9 * 40);
  const int32_t index[] = {8, 0, 0, 5};
  std::vector<const OpTable*> tables = cpu_tables();
  tables.push_back(&reference_ops());
  for (const OpTable* ops : tables) {
    std::vector<float> output(4 * 40);
    run_parts(ops->gather_rows, GatherRowsParams{input.data(), index, output.data(), 4, 40}, 3);
    for (int row = 0; row < 4; ++row)
      QSPEC_EXPECT_BITS(output.data() + row * 40, input.data() + index[row] * 40, 40, ops->name);
  }
}

QSPEC_TEST(no_rows_are_no_work) {
  for (const OpTable* ops : cpu_tables()) {
    float value = 1;
    RowSink sink = {};
    sink.values = &value;
    ops->transform(TransformParams{&value, sink, 0, 64}, {0, 2});
    ops->silu_mul(SiluMulParams{&value, sink, 0, 64}, {1, 2});
    ops->rms_norm(RmsNormParams{&value, nullptr, &value, sink, 0, 64, 1e-5f}, {1, 2});
    QSPEC_EXPECT(value == 1);
  }
}

}  // namespace
}  // namespace qspec::test

QSPEC_TEST_MAIN()
