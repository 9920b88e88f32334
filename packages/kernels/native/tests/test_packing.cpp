// Packing: pack then unpack is the source's value for every kind, odd sizes and stacked parts; bad sources are refused
// with a reason.
#include <limits>
#include <memory>

#include "../cpu/pack_layout.h"
#include "random_weight.h"
#include "testkit.h"

using namespace qspec;
using namespace qspec::test;

namespace {

std::vector<WeightSpec> all_specs() {
  return {dense_spec(DenseType::kF32),
          dense_spec(DenseType::kF16),
          dense_spec(DenseType::kBf16),
          int4_spec(32),
          int4_spec(64),
          int4_spec(128),
          nested_spec(32, 8),
          nested_spec(64, 12),
          nested_spec(128, 15)};
}

void expect_round_trip(const std::vector<const RandomWeight*>& parts, Plane plane) {
  std::vector<WeightSource> sources;
  for (const RandomWeight* part : parts) sources.push_back(part->source());
  const auto weight = pack(sources);
  if (!weight) return;
  const int64_t k = parts[0]->k();
  std::vector<float> row(k), expected(k);
  int64_t n = 0;
  for (const RandomWeight* part : parts) {
    for (int64_t i = 0; i < part->n(); ++i, ++n) {
      for (int64_t j = 0; j < k; ++j) expected[j] = static_cast<float>(part->value(plane, i, j));
      unpack_row(weight->view(), plane, n, row.data());
      QSPEC_EXPECT_BITS(row.data(), expected.data(), row.size(),
                        part->spec().name() + text(" [%d, %d] row %d", (int)part->n(), (int)k, (int)n));
    }
  }
  QSPEC_EXPECT(weight->view().n == n);
}

StatusCode code_of(const WeightSource& source) {
  std::unique_ptr<ResidentWeight> weight;
  const Status status = ResidentWeight::create({source}, &weight);
  QSPEC_EXPECT(status.is_ok() == (weight != nullptr));
  QSPEC_EXPECT(status.is_ok() || status.message().find("`bad`") != std::string::npos);
  return status.code();
}

}  // namespace

QSPEC_TEST(interleave_is_a_bijection_that_follows_nibble_shift) {
  Rng rng(1);
  for (int i = 0; i < 1000; ++i) {
    const uint32_t storage = static_cast<uint32_t>(rng.next()), resident = cpu::interleave_nibbles(storage);
    QSPEC_EXPECT(cpu::deinterleave_nibbles(resident) == storage);
    for (int k = 0; k < 8; ++k) QSPEC_EXPECT((resident >> nibble_shift(k) & 15) == (storage >> (4 * k) & 15));
  }
}

QSPEC_TEST(unpack_of_pack_is_the_source) {
  for (const WeightSpec& spec : all_specs()) {
    for (int64_t n : {1, 2, 15, 16, 17, 31, 33, 100}) {
      for (int64_t k : {128, 384}) {
        const RandomWeight weight(spec, n, k, n * 1000 + k);
        expect_round_trip({&weight}, Plane::kFull);
        expect_round_trip({&weight}, Plane::kHi);
      }
    }
  }
}

QSPEC_TEST(dense_weights_of_odd_width) {
  for (DenseType type : {DenseType::kF32, DenseType::kF16, DenseType::kBf16}) {
    for (int64_t k : {1, 2, 3, 17, 63}) {
      const RandomWeight weight(dense_spec(type), 19, k, k);
      expect_round_trip({&weight}, Plane::kFull);
    }
  }
}

QSPEC_TEST(stacked_parts_need_not_be_whole_tiles) {
  Rng rng(7);
  for (const WeightSpec& spec : all_specs()) {
    for (int trial = 0; trial < 6; ++trial) {
      std::vector<RandomWeight> weights;
      const int num_parts = rng.integer(2, 4);
      for (int i = 0; i < num_parts; ++i) weights.emplace_back(spec, rng.integer(1, 40), 128, rng.next());
      std::vector<const RandomWeight*> parts;
      for (const RandomWeight& weight : weights) parts.push_back(&weight);
      expect_round_trip(parts, trial % 2 ? Plane::kHi : Plane::kFull);
    }
  }
}

QSPEC_TEST(memory_is_aligned_and_padding_is_zero_weights) {
  for (const WeightSpec& spec : all_specs()) {
    const RandomWeight weight(spec, 17, 128, 3);
    const auto packed = pack({weight.source()});
    PackedWeight padded = packed->view();
    for (const void* p : {static_cast<const void*>(padded.hi), static_cast<const void*>(padded.lo), padded.dense}) {
      QSPEC_EXPECT(reinterpret_cast<uintptr_t>(p) % 64 == 0);
    }
    padded.n = 32;  // look at the lanes behind n
    std::vector<float> row(128);
    for (int64_t n = 17; n < 32; ++n) {
      unpack_row(padded, Plane::kFull, n, row.data());
      for (float value : row) QSPEC_EXPECT(value == 0);
    }
  }
}

QSPEC_TEST(bytes_are_codes_scales_and_nothing_else) {
  const RandomWeight int4(int4_spec(128), 64, 256, 1), nested(nested_spec(32, 12), 64, 256, 1),
      bf16(dense_spec(DenseType::kBf16), 64, 256, 1);
  QSPEC_EXPECT(pack({int4.source()})->bytes() == 64 * 256 / 2 + 64 * 2 * 2);
  QSPEC_EXPECT(pack({nested.source()})->bytes() == 64 * 256 + 64 * 8 * 2);
  QSPEC_EXPECT(pack({bf16.source()})->bytes() == 64 * 256 * 2);
}

QSPEC_TEST(bad_sources_are_refused) {
  const RandomWeight good(nested_spec(32, 12), 16, 128, 1);
  const auto code_with = [&](auto change) {
    WeightSource source = good.source("bad");
    change(source);
    return code_of(source);
  };
  QSPEC_EXPECT(code_with([](WeightSource&) {}) == StatusCode::kOk);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.n = 0; }) == StatusCode::kShapeMismatch);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.k = -128; }) == StatusCode::kShapeMismatch);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.k = 80; }) == StatusCode::kShapeMismatch);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.group_size = 48; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.group_size = 0; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.radix = 16; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.radix = 7; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.hi = nullptr; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.lo = nullptr; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.scales = nullptr; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.hadamard_block = 48; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.hadamard_block = 256; }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.hadamard_block = 64; }) == StatusCode::kOk);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.kind = static_cast<WeightKind>(9); }) == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(code_with([](WeightSource& s) { s.kind = WeightKind::kDenseF32, s.dense = nullptr; }) ==
               StatusCode::kInvalidArgument);
}

QSPEC_TEST(sizes_that_do_not_fit_are_out_of_memory_and_say_so) {
  const RandomWeight good(int4_spec(32), 16, 128, 1);
  for (int64_t n : {int64_t{1} << 50, std::numeric_limits<int64_t>::max() / 2}) {
    WeightSource source = good.source("bad");
    source.n = n;
    std::unique_ptr<ResidentWeight> weight;
    const Status status = ResidentWeight::create({source}, &weight);
    QSPEC_EXPECT(status.code() == StatusCode::kOutOfMemory);
    QSPEC_EXPECT(status.message().find("bytes") != std::string::npos);
    QSPEC_EXPECT(weight == nullptr);
  }
  WeightSource huge = good.source("bad");
  huge.n = std::numeric_limits<int64_t>::max() - 3;
  std::unique_ptr<ResidentWeight> weight;
  QSPEC_EXPECT(ResidentWeight::create({huge, huge}, &weight).code() == StatusCode::kShapeMismatch);
}

QSPEC_TEST(parts_of_different_formats_do_not_stack) {
  const RandomWeight a(nested_spec(32, 12), 16, 128, 1), b(nested_spec(32, 11), 16, 128, 1),
      c(nested_spec(64, 12), 16, 128, 1), d(int4_spec(32), 16, 128, 1), e(nested_spec(32, 12), 16, 256, 1);
  for (const RandomWeight* other : {&b, &c, &d, &e}) {
    std::unique_ptr<ResidentWeight> weight;
    QSPEC_EXPECT(ResidentWeight::create({a.source("first"), other->source("second")}, &weight).code() ==
                 StatusCode::kShapeMismatch);
    QSPEC_EXPECT(weight == nullptr);
  }
  std::unique_ptr<ResidentWeight> weight;
  QSPEC_EXPECT(ResidentWeight::create({}, &weight).code() == StatusCode::kInvalidArgument);
}

QSPEC_TEST_MAIN()
