// Every bad argument of an op is refused with a sentence that names it; good ones pass.
#include <cmath>

#include "paged_cache.h"
#include "qspec/checks.h"
#include "row_buffers.h"
#include "testkit.h"

namespace qspec::test {
namespace {

// The status must be of `code` and its message must contain `words`.
void expect_refused(const Status& status, StatusCode code, const char* words, int line) {
  if (status.is_ok()) return fail(__FILE__, line, "expected a refusal about `%s`", words);
  if (status.code() != code)
    fail(__FILE__, line, "wrong code %d: %s", static_cast<int>(status.code()), status.message().c_str());
  if (status.message().find(words) == std::string::npos)
    fail(__FILE__, line, "expected `%s` in: %s", words, status.message().c_str());
  if (status.message().find("eceived") == std::string::npos)
    fail(__FILE__, line, "says not what came: %s", status.message().c_str());
}
#define QSPEC_REFUSED(status, code, words) expect_refused((status), StatusCode::code, (words), __LINE__)

QSPEC_TEST(parts) {
  QSPEC_EXPECT(check_part({0, 1}).is_ok() && check_part({4, 5}).is_ok());
  QSPEC_REFUSED(check_part({0, 0}), kInvalidArgument, "part.count");
  QSPEC_REFUSED(check_part({3, 3}), kInvalidArgument, "part.index");
  QSPEC_REFUSED(check_part({-1, 3}), kInvalidArgument, "part.index");
}

QSPEC_TEST(row_sinks) {
  for (const SinkSpec& spec : sink_specs()) {
    SinkBuffer good(spec, 2, 1024);
    QSPEC_EXPECT(check_row_sink(good.sink(), 2, 1024).is_ok());
  }
  SinkBuffer floats({0, 0, 0, false}, 2, 96), codes({0, 8, 32, false}, 2, 96);
  RowSink sink = floats.sink();
  sink.hadamard_block = 64;
  QSPEC_REFUSED(check_row_sink(sink, 2, 96), kShapeMismatch, "hadamard_block");
  sink.hadamard_block = 48;
  QSPEC_REFUSED(check_row_sink(sink, 2, 96), kShapeMismatch, "hadamard_block");
  sink.hadamard_block = -32;
  QSPEC_REFUSED(check_row_sink(sink, 2, 96), kShapeMismatch, "hadamard_block");
  QSPEC_REFUSED(check_row_sink(RowSink{}, 2, 96), kInvalidArgument, "neither");
  sink = codes.sink();
  sink.values = floats.values.data();
  QSPEC_REFUSED(check_row_sink(sink, 2, 96), kInvalidArgument, "both");
  sink = codes.sink();
  sink.quantized.bits = 5;
  QSPEC_REFUSED(check_row_sink(sink, 2, 96), kInvalidArgument, "bits");
  sink = codes.sink();
  sink.quantized.group_size = 64;
  QSPEC_REFUSED(check_row_sink(sink, 2, 96), kShapeMismatch, "group_size");
  sink.quantized.group_size = 48;
  QSPEC_REFUSED(check_row_sink(sink, 2, 96), kShapeMismatch, "group_size");
  sink = codes.sink();
  sink.quantized.sums = nullptr;
  QSPEC_REFUSED(check_row_sink(sink, 2, 96), kInvalidArgument, "sums");
  QSPEC_REFUSED(check_row_sink(floats.sink(), -1, 96), kShapeMismatch, "rows");
  QSPEC_REFUSED(check_row_sink(floats.sink(), 1, 0), kShapeMismatch, "width");
}

QSPEC_TEST(weights) {
  uint32_t word = 0;
  uint16_t scale = 0;
  const PackedWeight good = {WeightKind::kNested8, 16, 64, 32, 12, 64, &word, &word, &scale, nullptr};
  QSPEC_EXPECT(check_packed_weight(good).is_ok());
  PackedWeight bad = good;
  bad.group_size = 48;
  QSPEC_REFUSED(check_packed_weight(bad), kShapeMismatch, "group_size");
  bad = good, bad.radix = 16;
  QSPEC_REFUSED(check_packed_weight(bad), kInvalidArgument, "radix");
  bad = good, bad.lo = nullptr;
  QSPEC_REFUSED(check_packed_weight(bad), kInvalidArgument, "weight.lo");
  bad = good, bad.hadamard_block = 128;
  QSPEC_REFUSED(check_packed_weight(bad), kShapeMismatch, "hadamard_block");
  bad = good, bad.n = 0;
  QSPEC_REFUSED(check_packed_weight(bad), kShapeMismatch, "1 x 1");
  bad = good, bad.kind = static_cast<WeightKind>(9);
  QSPEC_REFUSED(check_packed_weight(bad), kUnsupported, "kind");
}

QSPEC_TEST(row_ops) {
  float values[128] = {};
  SinkBuffer out({0, 0, 0, false}, 1, 64);
  const RmsNormParams norm = {values, nullptr, values, out.sink(), 1, 64, 1e-5f};
  QSPEC_EXPECT(check_rms_norm(norm).is_ok());
  RmsNormParams bad_norm = norm;
  bad_norm.eps = NAN;
  QSPEC_REFUSED(check_rms_norm(bad_norm), kInvalidArgument, "eps");
  bad_norm = norm, bad_norm.weight = nullptr;
  QSPEC_REFUSED(check_rms_norm(bad_norm), kInvalidArgument, "weight");
  QSPEC_EXPECT(check_transform({values, out.sink(), 1, 64}).is_ok());
  QSPEC_REFUSED(check_transform({nullptr, out.sink(), 1, 64}), kInvalidArgument, "input");
  QSPEC_EXPECT(check_silu_mul({values, out.sink(), 1, 64}).is_ok());
  QSPEC_REFUSED(check_silu_mul({nullptr, out.sink(), 1, 64}), kInvalidArgument, "input");

  const int32_t index[] = {0, 2};
  QSPEC_EXPECT(check_gather_rows({values, index, out.values.data(), 2, 8}, 3).is_ok());
  QSPEC_REFUSED(check_gather_rows({values, index, out.values.data(), 2, 8}, 2), kInvalidArgument, "row_index[1]");

  const PackedWeight table = {WeightKind::kDenseF32, 2, 64, 0, 1, 0, nullptr, nullptr, nullptr, values};
  const int32_t tokens[] = {1, -1};
  QSPEC_EXPECT(check_embedding({&table, tokens, out.values.data(), 1}).is_ok());
  QSPEC_REFUSED(check_embedding({&table, tokens, out.values.data(), 2}), kInvalidArgument, "tokens[1]");
  QSPEC_REFUSED(check_embedding({&table, index, out.values.data(), 2}), kInvalidArgument, "from 0 to 1");
  QSPEC_REFUSED(check_embedding({nullptr, tokens, out.values.data(), 1}), kInvalidArgument, "table");
}

QSPEC_TEST(kv_layers) {
  Rng rng(1);
  PagedCache cache(KvFormat::kInt8, 2, 32, 16, 4, rng);
  QSPEC_EXPECT(check_kv_layer(cache.layer).is_ok());
  KvLayer bad = cache.layer;
  bad.format = KvFormat::kInt8Nested;
  QSPEC_REFUSED(check_kv_layer(bad), kUnsupported, "int8-nested");
  bad = cache.layer, bad.page_size = 24;
  QSPEC_REFUSED(check_kv_layer(bad), kInvalidArgument, "page_size");
  bad = cache.layer, bad.num_slots = 63;
  QSPEC_REFUSED(check_kv_layer(bad), kShapeMismatch, "num_slots");
  bad = cache.layer, bad.v_scales = nullptr;
  QSPEC_REFUSED(check_kv_layer(bad), kInvalidArgument, "v_scales");
  bad = cache.layer, bad.head_dim = 30;
  QSPEC_REFUSED(check_kv_layer(bad), kShapeMismatch, "head_dim");
  bad = cache.layer, bad.k = nullptr;
  QSPEC_REFUSED(check_kv_layer(bad), kInvalidArgument, "cache.k");
}

struct AttentionCase {
  Rng rng{1};
  PagedCache cache{KvFormat::kF32, 2, 32, 16, 4, rng};
  BatchBuilder batch;
  std::vector<float> qkv = std::vector<float>(4 * (4 + 4) * 32), frequencies = std::vector<float>(16);
  SinkBuffer output{{0, 0, 0, false}, 2, 4 * 32};
  AttentionCase() {
    batch.add_sequence(cache, 20, [](int64_t p) { return p; });
    batch.add_row(cache, 0, 18);
    batch.add_row(cache, 0, 19);
  }
  AttentionParams attention() { return {qkv.data(), 8 * 32, batch.view(), cache.layer, 4, 0.1f, 0, output.sink()}; }
  RopeKvWriteParams rope() {
    return {qkv.data(), batch.view(), cache.layer, 4, frequencies.data(), 1, nullptr, nullptr, 1e-6f};
  }
};

QSPEC_TEST(attention_and_rope) {
  AttentionCase good;
  QSPEC_EXPECT(check_attention(good.attention()).is_ok());
  QSPEC_EXPECT(check_rope_kv_write(good.rope()).is_ok());
  AttentionParams bad = good.attention();
  bad.num_heads = 3;
  QSPEC_REFUSED(check_attention(bad), kShapeMismatch, "num_heads");
  bad = good.attention(), bad.qkv_stride = 127;
  QSPEC_REFUSED(check_attention(bad), kShapeMismatch, "qkv_stride");
  bad = good.attention(), bad.sliding_window = -1;
  QSPEC_REFUSED(check_attention(bad), kInvalidArgument, "sliding_window");
  bad = good.attention(), bad.scale = INFINITY;
  QSPEC_REFUSED(check_attention(bad), kInvalidArgument, "scale");
  RopeKvWriteParams bad_rope = good.rope();
  bad_rope.attention_factor = NAN;
  QSPEC_REFUSED(check_rope_kv_write(bad_rope), kInvalidArgument, "attention_factor");
  bad_rope = good.rope(), bad_rope.inverse_frequencies = nullptr;
  QSPEC_REFUSED(check_rope_kv_write(bad_rope), kInvalidArgument, "inverse_frequencies");
}

QSPEC_TEST(batches) {
  AttentionCase c;
  c.batch.positions[1] = 32;  // two pages hold 0 … 31
  QSPEC_REFUSED(check_attention(c.attention()), kInvalidArgument, "3 pages");
  c.batch.positions[1] = -1;
  QSPEC_REFUSED(check_attention(c.attention()), kInvalidArgument, "positions[1]");
  c.batch.positions[1] = 19, c.batch.slots[1] = 64;
  QSPEC_REFUSED(check_attention(c.attention()), kInvalidArgument, "slots[1]");
  c.batch.slots[1] = 3, c.batch.page_ids[0] = 4;
  QSPEC_REFUSED(check_attention(c.attention()), kInvalidArgument, "page_ids[0]");
  c.batch.page_ids[0] = -1;
  QSPEC_REFUSED(check_attention(c.attention()), kInvalidArgument, "page_ids[0]");
  c.batch.page_ids[0] = 0, c.batch.sequences[0] = -2;
  QSPEC_REFUSED(check_attention(c.attention()), kInvalidArgument, "sequences[0]");
}

QSPEC_TEST(ancestors) {
  AttentionCase c;
  c.batch.max_ancestors = 3;
  c.batch.ancestor_starts = {18, 18};
  c.batch.ancestor_slots = {5, -1, -1, 5, 6, -1};
  QSPEC_EXPECT(check_attention(c.attention()).is_ok());
  c.batch.ancestor_starts[1] = 15;  // five ancestors do not fit three
  QSPEC_REFUSED(check_attention(c.attention()), kInvalidArgument, "ancestor slots");
  c.batch.ancestor_starts[1] = 20;  // not even itself
  QSPEC_REFUSED(check_attention(c.attention()), kInvalidArgument, "ancestor slots");
  c.batch.ancestor_starts[1] = 18, c.batch.ancestor_slots[4] = 64;
  QSPEC_REFUSED(check_attention(c.attention()), kInvalidArgument, "ancestor_slots[1][1]");
}

QSPEC_TEST(samplers) {
  SamplerParams good = {};
  good.temperature = 1, good.top_p = 1, good.repetition_penalty = 1;
  QSPEC_EXPECT(check_sampler(good, 100).is_ok());
  SamplerParams bad = good;
  bad.temperature = NAN;
  QSPEC_REFUSED(check_sampler(bad, 100), kInvalidArgument, "temperature");
  bad = good, bad.top_k = -1;
  QSPEC_REFUSED(check_sampler(bad, 100), kInvalidArgument, "top_k");
  bad = good, bad.top_p = 0;
  QSPEC_REFUSED(check_sampler(bad, 100), kInvalidArgument, "top_p");
  bad = good, bad.min_p = 1.5f;
  QSPEC_REFUSED(check_sampler(bad, 100), kInvalidArgument, "min_p");
  bad = good, bad.repetition_penalty = 0;
  QSPEC_REFUSED(check_sampler(bad, 100), kInvalidArgument, "repetition_penalty");
  bad = good, bad.num_bias = 1;
  QSPEC_REFUSED(check_sampler(bad, 100), kInvalidArgument, "bias_ids");
  const int32_t history[] = {1};
  bad = good, bad.history = history, bad.num_history = 1, bad.num_prompt = 2;
  QSPEC_REFUSED(check_sampler(bad, 100), kInvalidArgument, "num_prompt");
  QSPEC_REFUSED(check_sampler(good, 0), kShapeMismatch, "vocab");
}

}  // namespace
}  // namespace qspec::test

QSPEC_TEST_MAIN()
