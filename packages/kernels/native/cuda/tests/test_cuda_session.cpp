// The CUDA backend against the scalar reference, and against itself: a row's bits don't depend on its batch, a round's text not on its drafts.
// Runs on a GPU, and over the emulator where there is none.
#include <cstdio>
#include <functional>
#include <set>
#include <thread>
#include <utility>

#include "cuda_fixture.h"
#include "gemm/cluster_gemm.h"
#include "qspec/sampling.h"
#include "session/attention_plan.h"
#include "session/cuda_session.h"
#include "session/launch_list.h"

using namespace qspec;
using namespace qspec::test;

namespace {

// bfloat16 activations through a few layers; the reference keeps double.
constexpr Tolerance kModelTolerance{0.06, 0.03, 3e-4};
// One product of exactly representable inputs: float32 sums alone.
constexpr Tolerance kProductTolerance{2e-4, 2e-5, 1e-9};

// ---- Products ----------------------------------------------------------------------------------------------------------------------

// logits = W · embedding[token]: the embedding's values are bfloat16, so a product's inputs are exact.
Program product_program(const Backend& backend, const RandomWeight& weight, Plane plane, int bits, bool per_token, VectorRef bias) {
  const int64_t k = weight.k(), n = weight.n();
  const RandomWeight table(dense_spec(DenseType::kBf16), 16, k, 99);
  Program program;
  program.name = "product";
  BufferSpec floats, input, logits;
  floats.width = input.width = k, logits.width = n;
  if (bits < 16) input.is_quantized = true, input.bits = bits, input.group_size = weight.spec().group_size, input.per_token = per_token;
  program.buffers = {floats, floats, input, logits};
  ProgramOp embedding, gather, transform, linear;
  embedding.kind = OpKind::kEmbedding, embedding.output = 0;
  gather.kind = OpKind::kGatherRows, gather.input = 0, gather.output = 1;
  transform.kind = OpKind::kTransform, transform.input = 1, transform.output = 2, transform.hadamard_block = 32;  // no ties when rounding
  linear.kind = OpKind::kLinear, linear.input = bits < 16 ? 2 : 1, linear.output = 3, linear.plane = plane, linear.vector = bias;
  // The table is as wide as the vocabulary must be; only its first 16 rows are ever asked for.
  std::vector<WeightSource> parts = {table.source("table")};
  const RandomWeight rest(dense_spec(DenseType::kBf16), std::max<int64_t>(n - 16, 1), k, 98);
  parts.push_back(rest.source("rest"));
  expect_ok(backend.create_weight(parts, &embedding.weight), "table");
  // Two parts, to be stacked.
  WeightSource whole = weight.source("w");
  expect_ok(backend.create_weight({whole}, &linear.weight), "w");
  program.ops = {embedding, gather};
  if (bits < 16) program.ops.push_back(transform);
  program.ops.push_back(linear);
  program.logits = 3;
  return program;
}

// logits = down · silu(gate) · up, of a product's first and second half.
void add_silu(const Backend& backend, const RandomWeight& down, Program* program) {
  BufferSpec activated, logits;
  activated.width = down.k(), logits.width = down.n();
  program->buffers.push_back(activated), program->buffers.push_back(logits);
  ProgramOp silu, linear;
  silu.kind = OpKind::kSiluMul, silu.input = 3, silu.output = 4, silu.width = down.k();
  linear.kind = OpKind::kLinear, linear.input = 4, linear.output = 5;
  expect_ok(backend.create_weight({down.source("down")}, &linear.weight), "down");
  program->ops.push_back(silu), program->ops.push_back(linear);
  program->logits = 5;
}

SessionConfig product_config(const std::shared_ptr<Backend>& backend, const RandomWeight& weight, Plane plane, int bits, bool per_token, VectorRef bias) {
  SessionConfig config;
  config.target = product_program(*backend, weight, plane, bits, per_token, bias);
  const bool is_reference = backend == reference_backend();
  config.kv = {is_reference ? KvFormat::kF32 : KvFormat::kBf16, 1, 16, 1, 32, 4};
  config.vocab_size = weight.n(), config.max_rows = config.max_logit_rows = 64;
  return config;
}
std::unique_ptr<Session> product_session(const std::shared_ptr<Backend>& backend, const RandomWeight& weight, Plane plane, int bits, bool per_token, VectorRef bias) {
  std::unique_ptr<Session> session;
  expect_ok(backend->create_session(product_config(backend, weight, plane, bits, per_token, bias), &session), "create_session");
  return session;
}
// On a chip with so few multiprocessors that every block has whole tiles of the product and parts of others; or on one (blocks 0: with all of them) whose launches are never long.
std::unique_ptr<Session> session_on_blocks(int blocks, SessionConfig config, bool has_long = true) {
  cuda::DeviceInfo device;
  expect_ok(cuda::query_device(0, &device), "query_device");
  if (!has_long) device.major = 8;
  if (blocks > 0) device.num_multiprocessors = blocks;
  std::unique_ptr<Session> session;
  expect_ok(cuda::CudaSession::create(device, std::move(config), &session), "create");
  return session;
}

struct ProductCase {
  WeightSpec spec;
  Plane plane;
  int64_t n, k;
  int bits = 16;
  bool per_token = false, has_bias = false;
};

void check_product(const ProductCase& c) {
  const RandomWeight weight(c.spec, c.n, c.k, 7 + static_cast<uint64_t>(c.n * 31 + c.k));
  VectorRef bias = c.has_bias ? std::make_shared<const std::vector<float>>(Rng(3).normals(static_cast<size_t>(c.n))) : nullptr;
  auto reference = product_session(reference_backend(), weight, c.plane, c.bits, c.per_token, bias);
  auto session = product_session(cuda_backend(), weight, c.plane, c.bits, c.per_token, bias);
  if (!reference || !session) return;
  const std::vector<int32_t> tokens = random_tokens(40, static_cast<int>(std::min<int64_t>(c.n, 16)), 5);
  const std::vector<int32_t> pages = {0, 1, 2};
  const std::vector<float> expected = forward_all(*reference, tokens, 40, pages), single = forward_all(*session, tokens, 1, pages);
  const std::string name = text("%s n=%d k=%d bits=%d", c.spec.name().c_str(), static_cast<int>(c.n), static_cast<int>(c.k), c.bits);
  const Tolerance tolerance = c.bits == 16 ? kProductTolerance : Tolerance{2e-3, 1e-4, 1e-7};
  QSPEC_EXPECT_CLOSE(single.data(), expected.data(), expected.size(), tolerance, name);
  auto without_long = session_on_blocks(0, product_config(cuda_backend(), weight, c.plane, c.bits, c.per_token, bias), false);
  for (const int chunk : {2, 3, 5, 8, 9, 16, 17, 24, 25, 32, 33, 40}) {
    for (Session* on : {session.get(), without_long.get()}) {
      if (on == without_long.get() && chunk < cuda::kLeastLongRows) continue;  // the same kernels
      const std::vector<float> rows = forward_all(*on, tokens, chunk, pages);
      QSPEC_EXPECT_BITS(rows.data(), single.data(), single.size(), text("%s, %d rows at a time", name.c_str(), chunk));
    }
  }
}

QSPEC_TEST(products_of_dense_weights) {
  for (const auto& [n, k] : std::vector<std::pair<int, int>>{{16, 64}, {33, 96}, {48, 520}, {160, 200}, {24, 2112}}) check_product({dense_spec(DenseType::kBf16), Plane::kFull, n, k, 16, false, n == 33});
}
QSPEC_TEST(products_of_int4_weights) {
  for (const auto& [group, n, k] : std::vector<std::array<int, 3>>{{32, 16, 64}, {32, 40, 96}, {64, 72, 576}, {128, 24, 1152}, {128, 16, 4224}, {32, 56, 2080}})
    check_product({int4_spec(group), Plane::kFull, n, k, 16, false, n == 40});
}
QSPEC_TEST(products_of_nested_weights) {
  for (const auto& [group, n, k] : std::vector<std::array<int, 3>>{{32, 40, 96}, {64, 72, 576}, {128, 24, 1152}, {64, 16, 2112}}) {
    check_product({nested_spec(group, 12), Plane::kFull, n, k, 16, false, n == 40});
    check_product({nested_spec(group, 12), Plane::kHi, n, k});
  }
}
QSPEC_TEST(products_of_integer_activations) {
  for (const auto& [group, n, k] : std::vector<std::array<int, 3>>{{32, 40, 96}, {64, 72, 576}, {128, 24, 1152}, {64, 16, 2112}})
    for (const int bits : {8, 4})
      for (const bool per_token : {false, true}) check_product({int4_spec(group), Plane::kFull, n, k, bits, per_token});
}

// Where launches aren't long, 33 rows and more are multiplied otherwise (step/linear_wide.cuh): over several slices of k, groups of every size, row-tiles that fill no warpgroup. Of 12
// row-tiles a block has one or two tiles of the product to itself; the last of n = 600 is added by a phase behind it, two of n = 800 by whichever block comes last
// (by runs with k = 4136, by slices with 5504) unless k is short.
QSPEC_TEST(wide_products_equal_narrow_ones) {
  const std::vector<ProductCase> cases = {{dense_spec(DenseType::kBf16), Plane::kFull, 800, 4136}, {int4_spec(128), Plane::kFull, 1000, 2176},
                                          {int4_spec(128), Plane::kFull, 800, 2176},               {int4_spec(32), Plane::kFull, 600, 2080},
                                          {nested_spec(128, 12), Plane::kFull, 800, 5504},         {nested_spec(64, 12), Plane::kFull, 600, 2112},
                                          {nested_spec(128, 12), Plane::kHi, 600, 4736}};
  for (const ProductCase& c : cases) {
    const RandomWeight weight(c.spec, c.n, c.k, 8);
    auto session = session_on_blocks(3, product_config(cuda_backend(), weight, c.plane, 16, false, nullptr), false);
    if (!session) return;
    const std::vector<int32_t> tokens = random_tokens(64, 16, 6), pages = {0, 1, 2, 3};
    const std::vector<float> expected = forward_all(*session, tokens, 16, pages);
    for (const int chunk : {24, 32, 33, 64}) {
      const std::vector<float> rows = forward_all(*session, tokens, chunk, pages);
      QSPEC_EXPECT_BITS(rows.data(), expected.data(), expected.size(), text("%s n=%d k=%d, %d rows", c.spec.name().c_str(), static_cast<int>(c.n), static_cast<int>(c.k), chunk));
    }
  }
}

// The same of gates and their ups, which lie in different row-tiles: with 64 rows and n = 960 the last block adds two tiles, with 768 the phase behind it adds one; with 32 and
// n = 928 a warpgroup's last row-tiles aren't there.
QSPEC_TEST(wide_pairs_equal_narrow_ones) {
  const std::vector<ProductCase> cases = {{int4_spec(128), Plane::kFull, 960, 4224},
                                          {dense_spec(DenseType::kBf16), Plane::kFull, 768, 4136},
                                          {nested_spec(128, 12), Plane::kFull, 928, 1664},
                                          {int4_spec(64), Plane::kFull, 928, 2176}};
  for (const ProductCase& c : cases) {
    const RandomWeight weight(c.spec, c.n, c.k, 8), down(dense_spec(DenseType::kBf16), c.n, c.n / 2, 9);
    SessionConfig config = product_config(cuda_backend(), weight, c.plane, 16, false, nullptr);
    add_silu(*cuda_backend(), down, &config.target);
    auto session = session_on_blocks(3, std::move(config), false);
    if (!session) return;
    const std::vector<int32_t> tokens = random_tokens(64, 16, 6), pages = {0, 1, 2, 3};
    const std::vector<float> expected = forward_all(*session, tokens, 16, pages);
    for (const int chunk : {24, 32, 64}) {
      const std::vector<float> rows = forward_all(*session, tokens, chunk, pages);
      QSPEC_EXPECT_BITS(rows.data(), expected.data(), expected.size(), text("%s n=%d k=%d, %d rows", c.spec.name().c_str(), static_cast<int>(c.n), static_cast<int>(c.k), chunk));
    }
  }
}

// ---- Models ---------------------------------------------------------------------------------------------------------------------------

WeightSpec any_spec(const std::string& format) {
  if (format == "bf16") return dense_spec(DenseType::kBf16);
  if (format == "int4") return int4_spec(32);
  return nested_spec(32, 12);
}
Model::Format all(const std::string& format) {
  return [format](const std::string& name) { return name == "embedding" || name == "head" ? dense_spec(DenseType::kBf16) : any_spec(format); };
}

struct ModelCase {
  const char* name;
  LlamaShape shape;
  std::string format = "bf16";
  int hadamard_block = 0;
  KvFormat kv = KvFormat::kBf16;
  int num_tokens = 40;
};

std::vector<int32_t> some_pages(int count) {
  std::vector<int32_t> pages;
  for (int i = 0; i < count; ++i) pages.push_back((i * 7 + 3) % 61);
  return pages;
}

void check_model(const ModelCase& c) {
  Model model(c.shape, all(c.format), c.hadamard_block);
  SessionSpec spec;
  spec.target.hadamard_block = c.hadamard_block;
  spec.kv = c.kv;
  auto session = make_session(cuda_backend(), model, spec), without_long = session_on_blocks(0, session_config(*cuda_backend(), model, spec), false);
  spec.kv = c.kv == KvFormat::kBf16 ? KvFormat::kBf16 : KvFormat::kInt8;
  auto reference = make_session(reference_backend(), model, spec);
  if (!session || !reference) return;
  const std::vector<int32_t> tokens = random_tokens(c.num_tokens, c.shape.vocab, 11), pages = some_pages((c.num_tokens + 15) / 16);
  const std::vector<float> expected = forward_all(*reference, tokens, 32, pages), single = forward_all(*session, tokens, 1, pages);
  QSPEC_EXPECT_CLOSE(single.data(), expected.data(), expected.size(), kModelTolerance, c.name);
  for (const int chunk : {2, 4, 7, 13, 20, 32, 40}) {
    for (Session* on : {session.get(), without_long.get()}) {
      if (on == without_long.get() && chunk < cuda::kLeastLongRows) continue;  // the same kernels
      const std::vector<float> rows = forward_all(*on, tokens, chunk, pages);
      QSPEC_EXPECT_BITS(rows.data(), single.data(), single.size(), text("%s, %d rows at a time", c.name, chunk));
    }
  }
}

QSPEC_TEST(model_with_bf16_weights) { check_model({"bf16", {}}); }
QSPEC_TEST(model_with_int4_weights_and_rotation) { check_model({"int4 rotated", {}, "int4", 32}); }
QSPEC_TEST(model_with_nested_weights) { check_model({"nested", {}, "nested", 64}); }
QSPEC_TEST(model_with_three_heads_a_group_and_head_dim_64) {
  LlamaShape shape;
  shape.hidden = 192, shape.heads = 3, shape.kv_heads = 1, shape.head_dim = 64, shape.intermediate = 320;
  check_model({"heads 3:1", shape, "int4", 64});
}
QSPEC_TEST(model_with_head_dim_128_and_qk_norm) {
  LlamaShape shape;
  shape.heads = 2, shape.kv_heads = 2, shape.head_dim = 128, shape.has_qk_norm = true, shape.has_bias = true;
  check_model({"head_dim 128", shape});
}
QSPEC_TEST(model_with_24_heads_a_group) {
  LlamaShape shape;
  shape.heads = 24, shape.kv_heads = 1, shape.head_dim = 32;
  check_model({"heads 24:1", shape});
}
QSPEC_TEST(model_with_sliding_window) {
  LlamaShape shape;
  shape.sliding_window = 9;
  check_model({"window", shape});
}
QSPEC_TEST(model_with_int8_cache) { check_model({"int8 cache", {}, "bf16", 0, KvFormat::kInt8}); }
QSPEC_TEST(model_with_nested_cache) { check_model({"int8-nested cache", {}, "bf16", 0, KvFormat::kInt8Nested}); }
QSPEC_TEST(model_with_odd_intermediate_width) {
  LlamaShape shape;
  shape.intermediate = 96;  // half a tile: no x-form from the product
  check_model({"intermediate 96", shape, "int4", 32});
}

SessionSpec speculative_spec(int draft_bits) {
  SessionSpec spec;
  spec.has_draft = true;
  spec.draft.name = "draft", spec.draft.plane = Plane::kHi, spec.draft.activation_bits = draft_bits;
  return spec;
}

// ---- Long contexts, many sequences, trees -----------------------------------------------------------------------------------------------

// Several splits and segments of attention; plans by split, chunk and segment must agree, and an item with an odd number of splits.
void check_long_context(const char* what, LlamaShape shape, KvFormat kv, int layers, int count, const std::vector<int>& alone) {
  shape.layers = layers;
  Model model(shape, all("bf16"), 0);
  SessionSpec spec;
  spec.num_pages = 160, spec.kv = kv;
  auto session = make_session(cuda_backend(), model, spec), without_long = session_on_blocks(0, session_config(*cuda_backend(), model, spec), false);
  if (kv == KvFormat::kInt8Nested) spec.kv = KvFormat::kInt8;  // the same codes
  auto reference = make_session(reference_backend(), model, spec);
  const std::vector<int32_t> tokens = random_tokens(count, shape.vocab, 3), pages = [] {
    std::vector<int32_t> list;
    for (int i = 0; i < 82; ++i) list.push_back((i * 37 + 5) % 160);
    return list;
  }();
  const std::vector<float> by32 = forward_all(*session, tokens, 32, pages), by19 = forward_all(*without_long, tokens, 19, pages);
  QSPEC_EXPECT_BITS(by19.data(), by32.data(), by32.size(), text("%s, 19 rows at a time", what));
  const std::vector<float> expected = forward_all(*reference, tokens, 64, pages);
  QSPEC_EXPECT_CLOSE(by32.data(), expected.data(), expected.size(), kModelTolerance, text("%s, against the reference", what));
  // Single rows at the end, where several segments exist; and each with those before it.
  for (const int position : alone) {
    for (const int rows : {1, 2, 4, 5}) {
      ForwardResult result;
      const int first = position - rows + 1;
      expect_ok(session->forward(chain({tokens.begin() + first, tokens.begin() + position + 1}, first, pages), &result), "forward");
      QSPEC_EXPECT_BITS(result.logits.data(), by32.data() + static_cast<int64_t>(first) * shape.vocab, static_cast<size_t>(rows * shape.vocab), text("%s, %d rows that end with %d", what, rows, position));
    }
  }
}
QSPEC_TEST(long_context_gives_the_same_bits_in_any_chunks) { check_long_context("bf16 cache", {}, KvFormat::kBf16, 1, 1300, {1023, 1024, 1279, 1280, 1299}); }
QSPEC_TEST(long_context_of_codes_gives_the_same_bits_in_any_chunks) {
  check_long_context("int8 cache", {}, KvFormat::kInt8, 2, 690, {63, 64, 639, 640, 689});
  check_long_context("int8-nested cache", {}, KvFormat::kInt8Nested, 1, 690, {63, 64, 639, 640, 689});
}

// With few rows a team may take a split's tiles instead of a chunk's splits.
QSPEC_TEST(long_context_of_head_dim_128_gives_the_same_bits_in_any_chunks) {
  LlamaShape shape;
  shape.heads = 4, shape.kv_heads = 1, shape.head_dim = 128;
  check_long_context("bf16 cache, head_dim 128", shape, KvFormat::kBf16, 2, 1090, {63, 64, 150, 1023, 1024, 1089});
  check_long_context("int8 cache, head_dim 128", shape, KvFormat::kInt8, 1, 330, {63, 64, 150, 329});
}

// What rows at the end of `positions` of one sequence, or of several, are planned as on 132 multiprocessors.
cuda::AttentionPlan plan_of_8b_model(int sequences, int positions, KvFormat format, int rows_each = 1, bool is_long = false) {
  const cuda::AttentionGeometry geometry{32, 8, 128, format, 132, 210 << 10, 8192, 4096, 1024};
  std::vector<cuda::SequenceRows> rows;
  std::vector<int32_t> all;
  for (int i = 0; i < sequences; ++i) {
    rows.push_back({i * rows_each, (i + 1) * rows_each, INT32_MAX, 0});
    for (int r = 0; r < rows_each; ++r) all.push_back(positions - rows_each + r);
  }
  cuda::AttentionPlan plan;
  QSPEC_EXPECT(cuda::plan_attention(rows, all, geometry, false, is_long, &plan));
  return plan;
}
QSPEC_TEST(a_short_sequence_has_a_split_for_each_team) {
  const cuda::AttentionPlan plan = plan_of_8b_model(1, 1024, KvFormat::kBf16);
  QSPEC_EXPECT(plan.share.way == cuda::TeamWay::kTiles && plan.items.size() == 16);
  QSPEC_EXPECT(plan_of_8b_model(1, 512, KvFormat::kBf16, 5).share.way == cuda::TeamWay::kTiles);
  QSPEC_EXPECT(plan_of_8b_model(1, 1024, KvFormat::kInt8Nested).share.way == cuda::TeamWay::kSplits);
  QSPEC_EXPECT(plan_of_8b_model(8, 1024, KvFormat::kBf16).share.way == cuda::TeamWay::kSplits);  // more rows than kernels with such teams have
  QSPEC_EXPECT(plan_of_8b_model(4, 1024, KvFormat::kInt8).share.way == cuda::TeamWay::kSplits);  // more splits than teams
  QSPEC_EXPECT(plan_of_8b_model(4, 8192, KvFormat::kBf16).share.way == cuda::TeamWay::kSplits);  // there is enough to do for all without
}
// Four rows are sixteen columns, and read the cache once; where little is read, twice is sooner done.
QSPEC_TEST(rows_of_long_sequences_share_what_is_read) {
  for (const KvFormat format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kInt8Nested}) {
    const cuda::AttentionPlan plan = plan_of_8b_model(8, 32768, format, 4);
    QSPEC_EXPECT(plan.share.way == cuda::TeamWay::kWideSplits && plan.items[0].num_rows == 4);
  }
  QSPEC_EXPECT(plan_of_8b_model(8, 32768, KvFormat::kBf16, 2).share.way == cuda::TeamWay::kSplits);  // eight columns
  QSPEC_EXPECT(plan_of_8b_model(8, 256, KvFormat::kBf16, 4).share.way == cuda::TeamWay::kSplits);
}
// Of a prefill sixteen rows, with their four heads, are a block's.
QSPEC_TEST(rows_of_a_prefill_are_taken_by_whole_blocks) {
  for (const KvFormat format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kInt8Nested}) {
    const cuda::AttentionPlan plan = plan_of_8b_model(1, 2048, format, 256);
    QSPEC_EXPECT(plan.share.way == cuda::TeamWay::kGroups && plan.items[0].num_rows == 16 && plan.items.size() % 16 == 0);
  }
  QSPEC_EXPECT(plan_of_8b_model(64, 1024, KvFormat::kBf16).share.way == cuda::TeamWay::kSplits);
}
// Of a long launch they are a warpgroup's, however many segments they see, and what sees most comes first.
QSPEC_TEST(rows_of_a_long_launch_are_taken_by_warpgroups) {
  for (const KvFormat format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kInt8Nested}) {
    for (const int positions : {1024, 32768}) {
      const cuda::AttentionPlan plan = plan_of_8b_model(1, positions, format, 1024, true);
      QSPEC_EXPECT(plan.share.way == cuda::TeamWay::kWarpgroups && plan.share.num_teams > 0 && plan.items.size() == 64);
      for (size_t i = 0; i < plan.items.size(); ++i)
        QSPEC_EXPECT(plan.items[i].num_rows == 16 && plan.items[i].split_begin == 0 && (i == 0 || plan.items[i].split_end <= plan.items[i - 1].split_end));
    }
  }
}
// Of a short prompt each has half as many rows, or half of the multiprocessors would have none.
QSPEC_TEST(rows_of_a_short_prompt_are_shared_out_finer) {
  for (const int rows : {64, 96, 128}) {
    const cuda::AttentionPlan plan = plan_of_8b_model(1, rows, KvFormat::kBf16, rows, true);
    QSPEC_EXPECT(plan.share.way == cuda::TeamWay::kWarpgroups && plan.items[0].num_rows == 8);
  }
  for (const int rows : {384, 512}) QSPEC_EXPECT(plan_of_8b_model(1, rows, KvFormat::kBf16, rows, true).items[0].num_rows == 16);
}
// Of up to 256 rows they are taken in the way that suits the sequences: a block takes what has many rows, or is shared out by columns or splits.
QSPEC_TEST(rows_of_long_launches_of_many_sequences_are_taken_by_teams) {
  for (const int rows : {128, 256}) QSPEC_EXPECT(plan_of_8b_model(1, 32768, KvFormat::kBf16, rows, true).share.way == cuda::TeamWay::kGroups);
  const cuda::AttentionPlan plan = plan_of_8b_model(1, 32768, KvFormat::kBf16, 128, true);
  QSPEC_EXPECT(plan.items[0].num_rows == 16 && plan.items[0].by_segments && plan.items.size() > 8);  // what is read counts, and teams share it
  QSPEC_EXPECT(plan_of_8b_model(32, 8192, KvFormat::kBf16, 5, true).share.way == cuda::TeamWay::kGroups);
  QSPEC_EXPECT(plan_of_8b_model(32, 8192, KvFormat::kInt8, 5, true).share.way == cuda::TeamWay::kSplits);
  QSPEC_EXPECT(plan_of_8b_model(16, 8192, KvFormat::kBf16, 4, true).share.way == cuda::TeamWay::kWideSplits);
  QSPEC_EXPECT(plan_of_8b_model(128, 4096, KvFormat::kBf16, 1, true).share.way == cuda::TeamWay::kSplits);
  QSPEC_EXPECT(plan_of_8b_model(32, 1024, KvFormat::kBf16, 5, true).share.way == cuda::TeamWay::kWarpgroups);
  QSPEC_EXPECT(plan_of_8b_model(1, 512, KvFormat::kBf16, 512, true).share.way == cuda::TeamWay::kWarpgroups);
}
// So many rows of each of so many sequences, the last at `end` - 1, with `logits` of them each: launches' rows, negative where one isn't long, 0 where it only makes logits.
std::vector<int> launches_of(int sequences, int rows_each, int end, int long_rows, int logits = 1, int least_long = cuda::kLeastLongRows) {
  const cuda::AttentionGeometry geometry{32, 8, 128, KvFormat::kBf16, 132, 210 << 10, 8192, 4096, 1024};
  constexpr int kMostLaunches = 16;
  cuda::UploadArena arena;
  expect_ok(arena.create(kMostLaunches * cuda::kLaunchStructBytes, 1 << 20), "create");
  const cuda::LaunchRows rows{cuda::kMaxStepRows, long_rows, least_long};
  cuda::LaunchList list(arena, geometry, 4, {rows, rows}, kMostLaunches);
  cuda::PassRows pass;
  for (int s = 0; s < sequences; ++s) {
    for (int r = 0; r < rows_each; ++r) {
      if (r >= rows_each - logits) pass.logit_rows.push_back(static_cast<int32_t>(pass.rows()));
      pass.token_index.push_back(0), pass.slots.push_back(0);
      pass.sequences.push_back(s), pass.positions.push_back(end - rows_each + r);
    }
  }
  arena.begin();
  const std::vector<int32_t> page_offsets(sequences + 1);
  list.begin({}, page_offsets);
  expect_ok(list.add(false, pass), "add");
  std::vector<int> result;
  int next_logit = 0;
  for (const cuda::Launch& launch : list.launches()) {
    const bool is_long = cuda::kRowClasses[launch.row_class].is_long;
    QSPEC_EXPECT(launch.slot == static_cast<int>(result.size()) && launch.first_logit_row == next_logit && launch.num_logit_rows <= cuda::kMaxLogitRows);
    QSPEC_EXPECT(!launch.only_logits || (is_long && launch.rows == std::abs(*std::find_if(result.rbegin(), result.rend(), [](int count) { return count != 0; }))));
    next_logit += launch.num_logit_rows;
    result.push_back(launch.only_logits ? 0 : is_long ? launch.rows : -launch.rows);
  }
  QSPEC_EXPECT(next_logit == static_cast<int>(pass.logit_rows.size()));
  return result;
}
// Linears of nine rows and more are kernels of their own, in small models of 17. Where sequences have few rows, up to 256 are a launch.
QSPEC_TEST(launches_of_many_rows_are_long) {
  using Rows = std::vector<int>;
  QSPEC_EXPECT(launches_of(1, 8, 32768, 2048) == Rows{-8});
  QSPEC_EXPECT(launches_of(1, 9, 32768, 2048) == Rows{9});
  QSPEC_EXPECT(launches_of(1, 16, 32768, 2048, 1, cuda::kLeastLongRowsOfSmall) == Rows{-16});
  QSPEC_EXPECT(launches_of(1, 17, 32768, 2048, 1, cuda::kLeastLongRowsOfSmall) == Rows{17});
  QSPEC_EXPECT(launches_of(1, 9, 9, 32) == Rows{9});
  QSPEC_EXPECT(launches_of(1, 9, 9, 0) == Rows{-9});
  QSPEC_EXPECT(launches_of(12, 8, 1000, 2048) == Rows{96});
  QSPEC_EXPECT(launches_of(14, 7, 1000, 2048) == Rows{98});
  QSPEC_EXPECT(launches_of(64, 4, 1000, 2048) == Rows{256});
  QSPEC_EXPECT((launches_of(65, 4, 1000, 2048) == Rows{130, 130}));
  QSPEC_EXPECT(launches_of(65, 8, 1000, 2048) == (Rows{520, 0}));  // 65 logits
  QSPEC_EXPECT(launches_of(1, 256, 32768, 2048) == Rows{256});
  QSPEC_EXPECT(launches_of(1, 300, 32768, 2048) == Rows{300});
  QSPEC_EXPECT((launches_of(1, 2100, 2100, 2048) == Rows{1152, 948}));  // of whole tiles
  QSPEC_EXPECT((launches_of(1, 300, 300, 0) == Rows{-150, -150}));      // a chip or a format that has none
}
// Logits come 64 at a time: behind a long launch others make more of them, one that isn't long has fewer rows.
QSPEC_TEST(many_logits_are_several_launches) {
  using Rows = std::vector<int>;
  QSPEC_EXPECT(launches_of(32, 5, 1000, 2048, 5) == (Rows{160, 0, 0}));
  QSPEC_EXPECT(launches_of(64, 5, 1000, 2048, 5) == (Rows{160, 0, 0, 160, 0, 0}));
  QSPEC_EXPECT(launches_of(32, 5, 1000, 0, 5) == (Rows{-64, -64, -32}));
  QSPEC_EXPECT(launches_of(16, 4, 1000, 2048, 4) == Rows{64});
  QSPEC_EXPECT(launches_of(16, 4, 1000, 0, 4) == Rows{-64});
}
// Two teams of each multiprocessor have an item each, of several segments; each hands in so many results, and each fold knows how many items come in.
QSPEC_TEST(long_sequences_have_items_of_several_segments) {
  const cuda::AttentionPlan plan = plan_of_8b_model(8, 32768, KvFormat::kBf16);
  QSPEC_EXPECT(plan.share.num_teams == 2 && plan.items.size() == 32 && plan.folds.size() == 32);
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const cuda::AttentionItem& item = plan.items[i];
    QSPEC_EXPECT(item.by_segments && item.split_begin == static_cast<int>(i) % 4 * 128 && item.split_end == item.split_begin + 128);
    QSPEC_EXPECT(plan.folds[i].num_segments == 32 && plan.folds[i].num_folds == 4 && plan.folds[i].num_items == 1);
  }
}

// On one multiprocessor a team's item is several of the five segments, on two or three it is one: each is handed in, and what they are folded to is the same. Eight
// rows are shared out by sixteen columns on some of them, by eight on others.
QSPEC_TEST(long_sequences_give_the_same_bits_however_they_are_shared_out) {
  constexpr int kPositions = 4 * 1024 + 70, kPages = 262;  // of 16
  std::vector<int32_t> pages;
  for (int i = 0; i < kPages; ++i) pages.push_back((i * 37 + 5) % kPages);
  for (const int head_dim : {128, 64, 32}) {
    for (const KvFormat kv : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kInt8Nested}) {
      LlamaShape shape;
      shape.layers = 1, shape.heads = 4, shape.kv_heads = 1, shape.head_dim = head_dim;
      Model model(shape, all("bf16"), 0);
      SessionSpec spec;
      spec.num_pages = kPages, spec.kv = kv;
      for (const int rows : {1, 5, 8}) {
        std::vector<float> expected;
        for (const int blocks : {3, 2, 1}) {
          auto session = session_on_blocks(blocks, session_config(*cuda_backend(), model, spec));
          if (!session) return;
          expect_ok(static_cast<cuda::CudaSession&>(*session).fill_cache_randomly(4), "fill");
          ForwardResult result;
          expect_ok(session->forward(chain(random_tokens(rows, shape.vocab, 5), kPositions - rows, pages), &result), "forward");
          if (expected.empty()) expected = result.logits;
          QSPEC_EXPECT_BITS(result.logits.data(), expected.data(), expected.size(), text("head_dim %d, cache %d, %d rows, %d blocks", head_dim, static_cast<int>(kv), rows, blocks));
        }
      }
    }
  }
}

// With more than 32 rows at once a block takes sixteen rows of four heads; in small launches the same rows are taken by other teams. A draft reads the high plane.
QSPEC_TEST(many_rows_over_long_contexts_give_the_same_bits) {
  constexpr int kPositions = 1024 + 256 + 70, kRows = 50, kPages = 90;  // of 16
  std::vector<int32_t> pages;
  for (int i = 0; i < kPages; ++i) pages.push_back((i * 37 + 5) % kPages);
  for (const int head_dim : {128, 64}) {
    for (const KvFormat kv : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kInt8Nested}) {
      for (const int heads : {4, 3}) {
        LlamaShape shape;
        shape.layers = 1, shape.heads = heads, shape.kv_heads = 1, shape.head_dim = head_dim, shape.sliding_window = heads == 3 ? 150 : 0;
        const bool has_draft = kv == KvFormat::kInt8Nested;
        Model model(shape, all(has_draft ? "nested" : "bf16"), 0);
        SessionSpec spec = has_draft ? speculative_spec(16) : SessionSpec{};
        spec.num_pages = kPages, spec.kv = kv;
        auto session = session_on_blocks(3, session_config(*cuda_backend(), model, spec), false), with_long = session_on_blocks(3, session_config(*cuda_backend(), model, spec));
        if (!session || !with_long) return;
        for (Session* on : {session.get(), with_long.get()}) expect_ok(static_cast<cuda::CudaSession&>(*on).fill_cache_randomly(4), "fill");
        for (const int end : {60, 64 + kRows, 1024 + 10, kPositions}) {
          for (const bool is_draft : {false, true}) {
            if (is_draft && !has_draft) continue;
            const std::vector<int32_t> tokens = random_tokens(kRows, shape.vocab, 5);
            const auto forward = [&](Session& on, int first, int count) {
              ForwardBatch batch = chain({tokens.begin() + first, tokens.begin() + first + count}, end - kRows + first, pages);
              batch.is_draft = is_draft;
              ForwardResult result;
              expect_ok(on.forward(batch, &result), "forward");
              return result.logits;
            };
            const std::vector<float> many = forward(*session, 0, kRows), in_long = forward(*with_long, 0, kRows);
            QSPEC_EXPECT_BITS(in_long.data(), many.data(), many.size(), text("head_dim %d, cache %d, %d heads, a long launch before %d", head_dim, static_cast<int>(kv), heads, end));
            for (int first = 0, count = 1; first < kRows; first += count, count = std::min(count * 2, kRows - first)) {
              const std::vector<float> few = forward(*session, first, count);
              QSPEC_EXPECT_BITS(few.data(), many.data() + static_cast<int64_t>(first) * shape.vocab, few.size(),
                                text("head_dim %d, cache %d, draft %d, %d heads, %d rows before %d", head_dim, static_cast<int>(kv), is_draft, heads, count, end - kRows + first + count));
            }
          }
        }
      }
    }
  }
}

// More than 32 rows are one launch, a long one or one in passes of 64.
QSPEC_TEST(many_rows_at_once_give_the_same_bits) {
  for (const char* format : {"bf16", "int4", "nested"}) {
    Model model({}, all(format), 0);
    auto session = make_session(cuda_backend(), model, {});
    const std::vector<int32_t> tokens = random_tokens(90, model.shape().vocab, 31), pages = some_pages(6);
    const std::vector<float> few = forward_all(*session, tokens, 15, pages);
    auto three_blocks = session_on_blocks(3, session_config(*cuda_backend(), model, {}), false);
    for (const int chunk : {33, 64, 90}) {
      const std::vector<float> rows = forward_all(*session, tokens, chunk, pages), same = forward_all(*three_blocks, tokens, chunk, pages);
      QSPEC_EXPECT_BITS(rows.data(), few.data(), few.size(), text("%s, %d rows at a time", format, chunk));
      QSPEC_EXPECT_BITS(same.data(), few.data(), few.size(), text("%s, %d rows at a time, three blocks", format, chunk));
    }
    ForwardBatch batch = chain(tokens, 0, pages);
    batch.logit_rows = {89};
    ForwardResult result;
    expect_ok(session->forward(batch, &result), "forward");
    QSPEC_EXPECT_BITS(result.logits.data(), few.data() + few.size() - result.logits.size(), result.logits.size(), text("%s, the last of 90 rows", format));
  }
}

// How all linears of long launches of so many rows are cut: row blocks and warpgroups of a tile, and parts.
std::set<std::array<int, 3>> cuts_of(const Session& session, int num_blocks, int rows) {
  std::set<std::array<int, 3>> all;
  for (const cuda::Phase& phase : static_cast<const cuda::CudaSession&>(session).phases(false, rows, true)) {
    if (phase.kind != cuda::PhaseKind::kLinear || phase.rows != cuda::Rows::kTokens) continue;
    const cuda::GemmShape shape = cuda::gemm_shape(num_blocks, rows, phase.linear);
    all.insert({shape.row_blocks, shape.groups, shape.parts});
  }
  return all;
}
// Many rows are one launch whose linears are kernels of their own (gemm/cluster_gemm.cuh): passes of 128 rows, the last of which isn't full, over several slices of
// k and runs that end early, on so few blocks that each has several tiles. Two sequences in one launch, and drafts. On more blocks fewer rows come in passes of 64 and of 32, too, and
// three blocks share each tile of what has three slices. Up to 32 rows are one pass, whose linears make the norm behind them; codes may have tiles of 256 outputs.
QSPEC_TEST(rows_of_a_long_launch_equal_those_of_short_ones) {
  struct Case {
    const char* format;
    int head_dim, hadamard_block;
    KvFormat kv;
  };
  struct Fewer {
    int rows, blocks, row_blocks, groups, parts;
  };
  constexpr Fewer kFewer[] = {{140, 8, 8, 2, 1}, {100, 8, 4, 2, 1}, {100, 7, 16, 2, 3}, {40, 8, 8, 2, 3}, {100, 24, 4, 2, 3}, {29, 8, 4, 2, 3}, {32, 7, 4, 4, 1}, {9, 3, 4, 2, 1}};
  for (const Case& c : {Case{"bf16", 64, 0, KvFormat::kBf16}, {"int4", 128, 0, KvFormat::kInt8}, {"nested", 128, 128, KvFormat::kInt8Nested}}) {
    LlamaShape shape;
    shape.hidden = 256, shape.intermediate = 4352, shape.layers = 1, shape.kv_heads = 1, shape.head_dim = c.head_dim, shape.has_bias = c.head_dim == 64;
    const std::string format = c.format;
    const auto spec_of = [&](const std::string& name) {
      if (name == "embedding" || name == "head" || format == "bf16") return dense_spec(DenseType::kBf16);
      return format == "int4" ? int4_spec(128) : nested_spec(128, 12);
    };
    Model model(shape, spec_of, c.hadamard_block);
    SessionSpec spec = speculative_spec(16);
    spec.has_draft = format == "nested", spec.kv = c.kv, spec.max_rows = 320;
    spec.target.hadamard_block = spec.draft.hadamard_block = c.hadamard_block;
    auto session = session_on_blocks(3, session_config(*cuda_backend(), model, spec));
    auto without_long = session_on_blocks(3, session_config(*cuda_backend(), model, spec), false);
    if (!session || !without_long) return;
    QSPEC_EXPECT(cuts_of(*session, 3, 300).count({cuda::kGemmRowBlocks, cuda::kGemmGroups, 1}) == 1);
    std::map<int, std::unique_ptr<Session>> on_more;
    for (const Fewer& fewer : kFewer) {
      if (on_more[fewer.blocks] == nullptr) on_more[fewer.blocks] = session_on_blocks(fewer.blocks, session_config(*cuda_backend(), model, spec));
      if (format == "bf16" && fewer.groups > cuda::kGemmGroups) continue;  // dense weights have no such tiles
      QSPEC_EXPECT(cuts_of(*on_more[fewer.blocks], fewer.blocks, fewer.rows).count({fewer.row_blocks, fewer.groups, fewer.parts}) == 1);
    }
    const std::vector<int32_t> tokens = random_tokens(280, shape.vocab, 31);
    const std::vector<int32_t> pages = some_pages(18), others = {62, 63};
    for (const bool is_draft : {false, true}) {
      if (is_draft && !spec.has_draft) continue;
      const auto forward_on = [&](Session& on, ForwardBatch batch) {
        batch.is_draft = is_draft;
        ForwardResult result;
        expect_ok(on.forward(batch, &result), "forward");
        return result.logits;
      };
      const auto some_of = [&](int rows) {
        ForwardBatch batch = chain({tokens.begin(), tokens.begin() + rows}, 0, pages);
        batch.logit_rows.clear();
        for (int i = 4; i < rows; i += 5) batch.logit_rows.push_back(i);
        return batch;
      };
      ForwardBatch batch = some_of(280);
      const ForwardBatch alone = chain({tokens.begin(), tokens.begin() + 20}, 0, others);
      for (int i = 0; i < 20; ++i) batch.tokens.push_back(tokens[i]), batch.positions.push_back(i), batch.sequences.push_back(1);
      batch.pages.page_ids.insert(batch.pages.page_ids.end(), others.begin(), others.end()), batch.pages.page_offsets.push_back(20);
      batch.logit_rows.push_back(299);
      const std::vector<float> many = forward_on(*session, batch), last = forward_on(*without_long, alone);
      for (const Fewer& fewer : kFewer) {
        const std::vector<float> logits = forward_on(*on_more[fewer.blocks], some_of(fewer.rows));
        QSPEC_EXPECT(is_draft || cuda::kRowClasses[static_cast<cuda::CudaSession&>(*on_more[fewer.blocks]).launches()[0].row_class].is_long);
        QSPEC_EXPECT_BITS(logits.data(), many.data(), logits.size(), text("%s, draft %d, %d rows on %d blocks", c.format, is_draft, fewer.rows, fewer.blocks));
      }
      QSPEC_EXPECT_BITS(many.data() + many.size() - shape.vocab, last.data() + 19 * shape.vocab, static_cast<size_t>(shape.vocab), text("%s, draft %d, the other sequence", c.format, is_draft));
      for (int first = 0; first < 280; first += 28) {
        const std::vector<float> few = forward_on(*without_long, chain({tokens.begin() + first, tokens.begin() + first + 28}, first, pages));
        for (int row = first; row < first + 28; ++row)
          if (row % 5 == 4) QSPEC_EXPECT_BITS(many.data() + row / 5 * shape.vocab, few.data() + (row - first) * shape.vocab, static_cast<size_t>(shape.vocab), text("%s, draft %d, row %d", c.format, is_draft, row));
      }
    }
  }
}

// Logits that are the factor of a norm times a product, in float32: another order of the norm's sum shows in them. (As a model's activation is rounded to bfloat16, it hardly would.)
// A linear adds to the residual before, which makes the norm of few rows.
SessionConfig norm_config(int64_t width, const WeightSpec& spec, int64_t vocab) {
  constexpr int64_t kNarrow = 32;
  SessionConfig config;
  Program& program = config.target;
  program.name = "norm";
  BufferSpec residual, narrow, product;
  residual.width = width, narrow.width = kNarrow, product.width = vocab;
  program.buffers = {residual, narrow, residual, residual, product, product};
  ProgramOp embedding, down, up, norm, head, gather;
  embedding.kind = OpKind::kEmbedding, embedding.output = 0;
  down.kind = OpKind::kLinear, down.input = 0, down.output = 1;
  up.kind = OpKind::kLinear, up.input = 1, up.output = 2;
  norm.kind = OpKind::kRmsNorm, norm.input = 0, norm.delta = 2, norm.output = 3, norm.eps = 1e-5f;
  norm.vector = std::make_shared<const std::vector<float>>(Rng(4).normals(static_cast<size_t>(width)));
  head.kind = OpKind::kLinear, head.input = 3, head.output = 4;
  gather.kind = OpKind::kGatherRows, gather.input = 4, gather.output = 5;
  const auto make = [&](WeightSpec of, int64_t n, int64_t k, WeightRef* out) { expect_ok(cuda_backend()->create_weight({RandomWeight(of, n, k, 8).source("w")}, out), "create_weight"); };
  make(dense_spec(DenseType::kBf16), vocab, width, &embedding.weight);
  make(dense_spec(DenseType::kBf16), kNarrow, width, &down.weight);
  make(spec, width, kNarrow, &up.weight);
  make(spec, vocab, width, &head.weight);
  program.ops = {embedding, down, up, norm, head, gather};
  program.logits = 5;
  config.kv = {KvFormat::kBf16, 1, 16, 1, 32, 64};
  config.vocab_size = vocab, config.max_rows = config.max_logit_rows = 128;
  return config;
}
QSPEC_TEST(norms_have_the_same_bits_in_any_launch) {
  constexpr int kVocab = 32, kTokens = 40;
  const std::vector<int32_t> tokens = random_tokens(kTokens, kVocab, 33), pages = some_pages(3);
  for (const WeightSpec& spec : {dense_spec(DenseType::kBf16), int4_spec(32)}) {
    for (const int width : {192, 1088, 4416, 16960}) {  // few tiles, whose sums weigh much; squares that do not fill a run; of more than 8 runs; of more than 32
      auto session = session_on_blocks(3, norm_config(width, spec, kVocab)), without_long = session_on_blocks(3, norm_config(width, spec, kVocab), false);
      if (!session || !without_long) return;
      const std::vector<float> single = forward_all(*session, tokens, 1, pages);
      for (const int chunk : {4, 5, 9, 17, 32, 40}) {
        const std::vector<float> rows = forward_all(*session, tokens, chunk, pages);
        QSPEC_EXPECT_BITS(rows.data(), single.data(), single.size(), text("%s, width %d, %d rows at a time", spec.name().c_str(), width, chunk));
        if (chunk < cuda::kLeastLongRows) continue;  // the same kernels
        const std::vector<float> same = forward_all(*without_long, tokens, chunk, pages);
        QSPEC_EXPECT_BITS(same.data(), single.data(), single.size(), text("%s, width %d, %d rows at a time, never long", spec.name().c_str(), width, chunk));
      }
    }
  }
}

// Many sequences of few rows: teams of warps attend, by splits and by columns, or blocks or warpgroups do, what they hand in is folded or there is nothing to fold, and logits
// come 64 at a time. Each equals the sequence alone.
QSPEC_TEST(a_long_launch_of_many_sequences_equals_each_alone) {
  struct Case {
    int sequences, rows_each, blocks, longest;
  };
  std::set<cuda::TeamWay> ways;
  std::set<bool> folds;
  for (const Case& c : {Case{70, 1, 3, 300}, {20, 1, 3, 60}, {18, 4, 8, 1100}, {18, 2, 4, 1100}, {2, 16, 20, 1100}, {3, 10, 8, 1100}}) {
    const int pages_each = c.longest / 16 + 1, rows = c.sequences * c.rows_each;
    for (const KvFormat kv : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kInt8Nested}) {
      LlamaShape shape;
      shape.layers = 1, shape.heads = 4, shape.kv_heads = 1, shape.head_dim = 128;
      Model model(shape, all("bf16"), 0);
      SessionSpec spec;
      spec.num_pages = pages_each * c.sequences, spec.kv = kv, spec.max_rows = rows;
      auto session = session_on_blocks(c.blocks, session_config(*cuda_backend(), model, spec));
      if (!session) return;
      auto& on_cuda = static_cast<cuda::CudaSession&>(*session);
      expect_ok(on_cuda.fill_cache_randomly(4), "fill");
      ForwardBatch together;
      together.pages.page_offsets = {0};
      std::vector<ForwardBatch> alone;
      for (int s = 0; s < c.sequences; ++s) {
        std::vector<int32_t> pages;
        for (int p = 0; p < pages_each; ++p) pages.push_back(p * c.sequences + s);
        const int end = s % 3 == 0 ? c.longest : c.rows_each + (s * 37) % (c.longest - c.rows_each);
        alone.push_back(chain(random_tokens(c.rows_each, shape.vocab, 60 + s), end - c.rows_each, pages));
        together.pages.page_ids.insert(together.pages.page_ids.end(), pages.begin(), pages.end());
        together.pages.page_offsets.push_back(static_cast<int32_t>(together.pages.page_ids.size()));
        for (int r = 0; r < c.rows_each; ++r) {
          together.logit_rows.push_back(static_cast<int32_t>(together.tokens.size()));
          together.tokens.push_back(alone[s].tokens[r]), together.positions.push_back(alone[s].positions[r]), together.sequences.push_back(s);
        }
      }
      ForwardResult result;
      expect_ok(session->forward(together, &result), "forward");
      const std::vector<cuda::Launch> launches = on_cuda.launches();
      QSPEC_EXPECT(static_cast<int>(launches.size()) == (rows + cuda::kMaxLogitRows - 1) / cuda::kMaxLogitRows && launches[0].rows == rows && launches.back().only_logits == (rows > cuda::kMaxLogitRows));
      ways.insert(launches[0].attention.way), folds.insert(launches[0].folds.groups > 0);
      for (int s = 0; s < c.sequences; ++s) {
        ForwardResult one;
        expect_ok(session->forward(alone[s], &one), "alone");
        QSPEC_EXPECT_BITS(result.logits.data() + static_cast<int64_t>(s) * c.rows_each * shape.vocab, one.logits.data(), one.logits.size(),
                          text("cache %d, %d x %d rows on %d blocks, sequence %d", static_cast<int>(kv), c.sequences, c.rows_each, c.blocks, s));
      }
    }
  }
  for (const cuda::TeamWay way : {cuda::TeamWay::kColumns, cuda::TeamWay::kSplits, cuda::TeamWay::kWideSplits, cuda::TeamWay::kWarpgroups, cuda::TeamWay::kGroups})
    QSPEC_EXPECT(ways.count(way) == 1);
  QSPEC_EXPECT(folds.size() == 2);
}

// Over several segments warpgroups share an item's, and hand each in; or one takes them all.
QSPEC_TEST(rows_of_a_long_launch_over_long_contexts_equal_those_of_short_ones) {
  constexpr int kPositions = 2 * 1024 + 70, kRows = 72, kPages = 133;  // of 16
  std::vector<int32_t> pages;
  for (int i = 0; i < kPages; ++i) pages.push_back((i * 37 + 5) % kPages);
  for (const KvFormat kv : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kInt8Nested}) {
    LlamaShape shape;
    shape.layers = 1, shape.heads = 4, shape.kv_heads = 1, shape.head_dim = 128;
    Model model(shape, all("bf16"), 0);
    SessionSpec spec;
    spec.num_pages = kPages, spec.kv = kv;
    const std::vector<int32_t> tokens = random_tokens(kRows, shape.vocab, 5);
    for (const int blocks : {1, 8}) {
      auto session = session_on_blocks(blocks, session_config(*cuda_backend(), model, spec));
      auto without_long = session_on_blocks(blocks, session_config(*cuda_backend(), model, spec), false);
      if (!session || !without_long) return;
      QSPEC_EXPECT(!static_cast<cuda::CudaSession&>(*session).phases(false, kRows, true).empty());
      const auto forward = [&](Session& on, int first, int count) {
        ForwardBatch batch = chain({tokens.begin() + first, tokens.begin() + first + count}, kPositions - kRows + first, pages);
        batch.logit_rows.clear();
        for (int i = 3; i < count; i += 4) batch.logit_rows.push_back(i);
        ForwardResult result;
        expect_ok(on.forward(batch, &result), "forward");
        return result.logits;
      };
      for (Session* on : {session.get(), without_long.get()}) expect_ok(static_cast<cuda::CudaSession&>(*on).fill_cache_randomly(4), "fill");
      const std::vector<float> many = forward(*session, 0, kRows);
      for (int first = 0; first < kRows; first += 24) {
        const std::vector<float> few = forward(*without_long, first, 24);
        QSPEC_EXPECT_BITS(few.data(), many.data() + static_cast<int64_t>(first / 4) * shape.vocab, few.size(), text("cache %d, %d blocks, rows from %d on", static_cast<int>(kv), blocks, first));
      }
    }
  }
}

// A chip whose multiprocessors have less shared memory takes fewer rows at a time, and gives the same bits.
QSPEC_TEST(little_shared_memory_means_fewer_rows_a_launch) {
  LlamaShape shape;
  shape.head_dim = 128;
  Model model(shape, all("int4"), 0);
  auto session = make_session(cuda_backend(), model, {});
  cuda::DeviceInfo device;
  expect_ok(cuda::query_device(0, &device), "query_device");
  device.shared_bytes = 101376;  // sm_86, sm_89
  std::unique_ptr<Session> small;
  expect_ok(cuda::CudaSession::create(device, session_config(*cuda_backend(), model, {}), &small), "create");
  if (!session || !small) return;
  const std::vector<int32_t> tokens = random_tokens(40, shape.vocab, 33), pages = some_pages(3);
  const std::vector<float> expected = forward_all(*session, tokens, 40, pages), rows = forward_all(*small, tokens, 40, pages);
  QSPEC_EXPECT_BITS(rows.data(), expected.data(), expected.size(), "101376 bytes of shared memory");
}

// Rows of several sequences in one batch, in any order, equal the sequences alone.
QSPEC_TEST(neighbours_do_not_change_a_row) {
  LlamaShape shape;
  Model model(shape, all("int4"), 32);
  SessionSpec spec;
  spec.target.hadamard_block = 32;
  auto session = make_session(cuda_backend(), model, spec);
  const int lengths[] = {1, 5, 17, 30, 2};
  std::vector<std::vector<float>> alone;
  ForwardBatch batch;
  batch.pages.page_offsets = {0};
  std::vector<std::pair<int, int>> rows;
  int next_page = 0;
  for (int s = 0; s < 5; ++s) {
    const std::vector<int32_t> tokens = random_tokens(lengths[s], shape.vocab, 50 + s), pages = {next_page, next_page + 1};
    next_page += 2;
    alone.push_back(forward_all(*session, tokens, 32, pages));
    batch.pages.page_ids.insert(batch.pages.page_ids.end(), pages.begin(), pages.end());
    batch.pages.page_offsets.push_back(static_cast<int32_t>(batch.pages.page_ids.size()));
    for (int i = 0; i < lengths[s]; ++i) {
      batch.tokens.push_back(tokens[i]), batch.positions.push_back(i), batch.sequences.push_back(s);
      rows.push_back({s, i});
    }
  }
  // Interleaved: every third row first.
  ForwardBatch mixed = batch;
  mixed.tokens.clear(), mixed.positions.clear(), mixed.sequences.clear();
  std::vector<std::pair<int, int>> order;
  for (size_t start = 0; start < 3; ++start)
    for (size_t i = start; i < rows.size(); i += 3) {
      mixed.tokens.push_back(batch.tokens[i]), mixed.positions.push_back(batch.positions[i]), mixed.sequences.push_back(batch.sequences[i]);
      mixed.logit_rows.push_back(static_cast<int32_t>(mixed.logit_rows.size()));
      order.push_back(rows[i]);
    }
  ForwardResult result;
  expect_ok(session->forward(mixed, &result), "forward");
  for (size_t i = 0; i < order.size(); ++i) {
    const auto [s, row] = order[i];
    QSPEC_EXPECT_BITS(result.logits.data() + i * shape.vocab, alone[s].data() + row * shape.vocab, static_cast<size_t>(shape.vocab), text("sequence %d row %d", s, row));
  }
}

// A tree of rows: each equals the plain decode of its own path.
void check_tree(int head_dim, bool is_long) {
  LlamaShape shape;
  shape.head_dim = head_dim;
  Model model(shape, all("bf16"), 0);
  SessionSpec spec;
  auto session = make_session(cuda_backend(), model, spec);
  for (const int context : {5, 126, 250}) {
    const std::vector<int32_t> prompt = random_tokens(context, shape.vocab, 70 + context);
    std::vector<int32_t> pages;
    for (int i = 0; i < context / 16 + 1; ++i) pages.push_back(i);
    forward_all(*session, prompt, 32, pages);
    // Two tokens at depth 0, three children each, three grandchildren each: 2 + 6 + 18 rows.
    struct TreeNode {
      int parent, depth, token;
    };
    std::vector<TreeNode> tree;
    Rng rng(context);
    for (int i = 0; i < 2; ++i) tree.push_back({-1, 0, rng.integer(0, shape.vocab - 1)});
    for (int i = 0; i < 6; ++i) tree.push_back({i / 3, 1, rng.integer(0, shape.vocab - 1)});
    for (int i = 0; i < 18; ++i) tree.push_back({2 + i / 3, 2, rng.integer(0, shape.vocab - 1)});
    ForwardBatch batch;
    batch.pages = {{0, static_cast<int32_t>(pages.size())}, pages};
    batch.has_ancestors = true, batch.max_ancestors = 3;
    const int first_slot = 40 * 16;
    for (size_t i = 0; i < tree.size(); ++i) {
      batch.tokens.push_back(tree[i].token), batch.positions.push_back(context + tree[i].depth), batch.sequences.push_back(0);
      batch.ancestor_starts.push_back(context);
      std::vector<int32_t> path(3, 0);
      for (int node = static_cast<int>(i); node >= 0; node = tree[node].parent) path[tree[node].depth] = first_slot + node;
      batch.ancestor_slots.insert(batch.ancestor_slots.end(), path.begin(), path.end());
      batch.logit_rows.push_back(static_cast<int32_t>(i));
    }
    ForwardResult result;
    expect_ok(session->forward(batch, &result), "tree");
    QSPEC_EXPECT(cuda::kRowClasses[static_cast<cuda::CudaSession&>(*session).launches()[0].row_class].is_long == is_long);
    std::vector<int32_t> path_pages = pages;
    path_pages.back() = 50;  // a page of its own behind the shared ones …
    path_pages.push_back(51);
    for (size_t i = 0; i < tree.size(); ++i) {
      std::vector<int32_t> path;
      for (int node = static_cast<int>(i); node >= 0; node = tree[node].parent) path.insert(path.begin(), tree[node].token);
      const int shared = context / 16 * 16;  // … with what the prompt left there
      std::vector<int32_t> tokens(prompt.begin() + shared, prompt.end());
      tokens.insert(tokens.end(), path.begin(), path.end());
      ForwardResult plain;
      expect_ok(session->forward(chain(tokens, shared, path_pages), &plain), "path");
      QSPEC_EXPECT_BITS(result.logits.data() + i * shape.vocab, plain.logits.data() + (tokens.size() - 1) * shape.vocab, static_cast<size_t>(shape.vocab),
                        text("head_dim %d, context %d, node %d", head_dim, context, static_cast<int>(i)));
    }
  }
}
QSPEC_TEST(tree_rows_equal_plain_decodes_of_their_paths) {
  check_tree(32, false);
  check_tree(128, true);
}

// ---- Rounds -----------------------------------------------------------------------------------------------------------------------------

SamplerParams sampler(float temperature) {
  SamplerParams params{};
  params.temperature = temperature;
  params.top_p = 1, params.repetition_penalty = 1, params.seed = 9, params.num_logprobs = -1;
  return params;
}

struct Generated {
  std::vector<int32_t> tokens;
  int num_accepted = 0, num_rounds = 0;
};

// Emits `length` tokens after `prompt`; `propose` gives the draft tokens of a round (-1: draw).
Generated generate(Session& session, const std::vector<int32_t>& prompt, SamplerParams params, int gamma, size_t length,
                   const std::function<std::vector<int32_t>(const Generated&, int)>& propose = nullptr) {
  Generated g;
  while (g.tokens.size() < length) {
    RoundBatch batch;
    batch.pages = {{0, 6}, {7, 2, 9, 0, 11, 30}};
    batch.tokens = g.tokens.empty() ? prompt : std::vector<int32_t>{g.tokens.back()};
    batch.token_offsets = {0, static_cast<int32_t>(batch.tokens.size())};
    batch.start_positions = {g.tokens.empty() ? 0 : static_cast<int32_t>(prompt.size() + g.tokens.size() - 1)};
    batch.emit = {1};
    const int now = g.tokens.empty() ? 0 : gamma;
    batch.gammas = {now};
    if (propose && now > 0) batch.draft_tokens = propose(g, now);
    std::vector<int32_t> history = prompt;
    history.insert(history.end(), g.tokens.begin(), g.tokens.end());
    params.history = history.data(), params.num_history = static_cast<int>(history.size()), params.num_prompt = static_cast<int>(prompt.size());
    batch.samplers = {params};
    RoundResult result;
    const Status status = session.round(batch, &result);
    expect_ok(status, "round");
    if (!status.is_ok()) return g;
    QSPEC_EXPECT(static_cast<int>(result.tokens.size()) == result.num_accepted[0] + 1);
    g.tokens.insert(g.tokens.end(), result.tokens.begin(), result.tokens.end());
    if (now > 0) g.num_accepted += result.num_accepted[0], ++g.num_rounds;
  }
  g.tokens.resize(length);
  return g;
}

QSPEC_TEST(text_is_the_same_with_any_gamma_and_any_drafter) {
  Model model({}, all("nested"), 0);
  for (const int bits : {16, 8, 4}) {
    auto session = make_session(cuda_backend(), model, speculative_spec(bits));
    const std::vector<int32_t> prompt = random_tokens(7, 48, 21);
    for (const float temperature : {0.0f, 0.9f}) {
      const Generated plain = generate(*session, prompt, sampler(temperature), 0, 24);
      int accepted = 0, rounds = 0;
      for (const int gamma : {1, 3, 5}) {
        const Generated g = generate(*session, prompt, sampler(temperature), gamma, 24);
        QSPEC_EXPECT_BITS(g.tokens.data(), plain.tokens.data(), plain.tokens.size(), text("%d bits, temperature %g, gamma %d", bits, static_cast<double>(temperature), gamma));
        accepted += g.num_accepted, rounds += g.num_rounds;
      }
      QSPEC_EXPECT(accepted > 0 && rounds > 0);
      // Proposals given, partly right, partly to be drawn.
      const Generated mixed = generate(*session, prompt, sampler(temperature), 4, 24, [&](const Generated& g, int gamma) {
        std::vector<int32_t> tokens(gamma, -1);
        if (g.tokens.size() + 1 < plain.tokens.size()) tokens[0] = plain.tokens[g.tokens.size()];
        if (g.num_rounds % 2) tokens[1] = 5;
        return tokens;
      });
      QSPEC_EXPECT_BITS(mixed.tokens.data(), plain.tokens.data(), plain.tokens.size(), text("%d bits, mixed proposals", bits));
    }
  }
}

// All of them at once, each on a thread of its own; where the device is emulated, which is one at a time, one after the other.
void run_together(const std::vector<std::function<void()>>& tasks) {
#if defined(QSPEC_CUDA_EMULATED)
  for (const auto& task : tasks) task();
#else
  std::vector<std::thread> threads;
  for (const auto& task : tasks) threads.emplace_back(task);
  for (std::thread& thread : threads) thread.join();
#endif
}
// One session drafts and verifies, one takes prompts whose linears blocks share, and a third is made anew, with its weights, again and again: kernels of all of them are on the
// device together, and some wait for other blocks of their own. Each gives what it gives alone.
QSPEC_TEST(sessions_share_a_device) {
  constexpr int kTurns = 6;
  Model talking({}, all("nested"), 0, 5);
  LlamaShape deep;
  deep.hidden = 256, deep.intermediate = 4352, deep.layers = 2, deep.head_dim = 128;
  const auto deep_spec = [](const std::string& name) { return name == "embedding" || name == "head" ? dense_spec(DenseType::kBf16) : int4_spec(128); };
  Model reading(deep, deep_spec, 0, 6);
  auto talks = make_session(cuda_backend(), talking, speculative_spec(16)), reads = make_session(cuda_backend(), reading, {});
  const std::vector<int32_t> prompt = random_tokens(9, talking.shape().vocab, 51), text_read = random_tokens(90, deep.vocab, 52), pages = some_pages(6);
  std::vector<int32_t> said[kTurns];
  std::vector<float> read[kTurns], remade[kTurns];
  const auto talk = [&](int turn) { said[turn] = generate(*talks, prompt, sampler(0.9f), turn % 2 ? 3 : 0, 24).tokens; };
  const auto take_prompt = [&](int turn) { read[turn] = forward_all(*reads, text_read, 90, pages); };
  const auto make_anew = [&](int turn) {
    Model model({}, all("bf16"), 0, 7);
    auto session = make_session(cuda_backend(), model, {});
    if (session) remade[turn] = forward_all(*session, prompt, 4, pages);
  };
  talk(0), take_prompt(0), make_anew(0);
  const auto turns_of = [](const auto& task) {
    return [&task] {
      for (int turn = 1; turn < kTurns; ++turn) task(turn);
    };
  };
  run_together({turns_of(talk), turns_of(take_prompt), turns_of(make_anew)});
  for (int turn = 1; turn < kTurns; ++turn) {
    const bool is_whole = said[turn].size() == said[0].size() && read[turn].size() == read[0].size() && remade[turn].size() == remade[0].size();
    QSPEC_EXPECT(is_whole);
    if (!is_whole) return;
    QSPEC_EXPECT_BITS(said[turn].data(), said[0].data(), said[0].size(), text("text, turn %d", turn));
    QSPEC_EXPECT_BITS(read[turn].data(), read[0].data(), read[0].size(), text("prompt, turn %d", turn));
    QSPEC_EXPECT_BITS(remade[turn].data(), remade[0].data(), remade[0].size(), text("a session made anew, turn %d", turn));
  }
}

QSPEC_TEST(draft_over_a_nested_cache_reads_the_high_plane) {
  Model model({}, all("nested"), 0);
  SessionSpec spec = speculative_spec(16);
  spec.kv = KvFormat::kInt8Nested;
  auto session = make_session(cuda_backend(), model, spec);
  const std::vector<int32_t> prompt = random_tokens(30, 48, 22);
  const Generated plain = generate(*session, prompt, sampler(0), 0, 20), g = generate(*session, prompt, sampler(0), 3, 20);
  QSPEC_EXPECT_BITS(g.tokens.data(), plain.tokens.data(), plain.tokens.size(), "int8-nested");
  const std::vector<int32_t> pages = {7, 2, 9, 0};
  const std::vector<float> target = forward_all(*session, prompt, 32, pages), draft = forward_all(*session, prompt, 32, pages, true);
  QSPEC_EXPECT(target != draft);
}

// One sequence alone, or eight with prompts of different lengths: the same tokens.
QSPEC_TEST(batches_do_not_change_text) {
  Model model({}, all("nested"), 0);
  auto session = make_session(cuda_backend(), model, speculative_spec(16));
  const int count = 8;
  std::vector<std::vector<int32_t>> prompts, outputs(count), alone;
  for (int s = 0; s < count; ++s) prompts.push_back(random_tokens(3 + 2 * s, 48, 90 + s));
  for (int s = 0; s < count; ++s) alone.push_back(generate(*session, prompts[s], sampler(s % 2 ? 0.8f : 0.0f), 0, 10).tokens);
  while (outputs[0].size() < 10) {
    RoundBatch batch;
    batch.pages.page_offsets = batch.token_offsets = {0};
    for (int s = 0; s < count; ++s) {
      const bool is_new = outputs[s].empty();
      for (int page = 0; page < 4; ++page) batch.pages.page_ids.push_back(s * 4 + page);
      batch.pages.page_offsets.push_back(static_cast<int32_t>(batch.pages.page_ids.size()));
      const std::vector<int32_t> inputs = is_new ? prompts[s] : std::vector<int32_t>{outputs[s].back()};
      batch.tokens.insert(batch.tokens.end(), inputs.begin(), inputs.end());
      batch.token_offsets.push_back(static_cast<int32_t>(batch.tokens.size()));
      batch.start_positions.push_back(is_new ? 0 : static_cast<int32_t>(prompts[s].size() + outputs[s].size() - 1));
      batch.emit.push_back(1), batch.gammas.push_back(is_new ? 0 : s % 4);
      batch.samplers.push_back(sampler(s % 2 ? 0.8f : 0.0f));
    }
    RoundResult result;
    expect_ok(session->round(batch, &result), "round");
    for (int s = 0; s < count; ++s)
      outputs[s].insert(outputs[s].end(), result.tokens.begin() + result.token_offsets[s], result.tokens.begin() + result.token_offsets[s + 1]);
  }
  for (int s = 0; s < count; ++s) {
    const size_t length = std::min(outputs[s].size(), alone[s].size());
    QSPEC_EXPECT_BITS(outputs[s].data(), alone[s].data(), length, text("sequence %d", s));
  }
}

// Many sequences verify in one long launch, which samples 64 rows at a time: each gets the tokens that it gets alone.
QSPEC_TEST(a_round_of_many_sequences_gives_each_its_own_text) {
  LlamaShape shape;
  shape.head_dim = 128;
  Model model(shape, all("bf16"), 0);
  constexpr int kSequences = 26, kDrafted = 4;
  SessionSpec spec;
  spec.max_rows = kSequences * (kDrafted + 1);
  auto session = make_session(cuda_backend(), model, spec);
  RoundBatch together;
  std::vector<RoundBatch> alone;
  together.pages.page_offsets = together.token_offsets = {0};
  for (int s = 0; s < kSequences; ++s) {
    RoundBatch one;
    one.pages = {{0, 2}, {2 * s, 2 * s + 1}}, one.tokens = random_tokens(1, shape.vocab, 40 + s), one.token_offsets = {0, 1};
    one.start_positions = {0}, one.emit = {1}, one.gammas = {kDrafted}, one.draft_tokens = random_tokens(kDrafted, shape.vocab, 80 + s);
    SamplerParams params = sampler(s % 3 ? 0.8f : 0.0f);
    if (s % 4 == 3) params.top_k = 5;
    params.stream = static_cast<uint32_t>(s);
    one.samplers = {params};
    for (const int32_t page : one.pages.page_ids) together.pages.page_ids.push_back(page);
    together.pages.page_offsets.push_back(static_cast<int32_t>(together.pages.page_ids.size()));
    together.tokens.insert(together.tokens.end(), one.tokens.begin(), one.tokens.end()), together.token_offsets.push_back(s + 1);
    together.draft_tokens.insert(together.draft_tokens.end(), one.draft_tokens.begin(), one.draft_tokens.end());
    together.start_positions.push_back(0), together.emit.push_back(1), together.gammas.push_back(kDrafted), together.samplers.push_back(params);
    alone.push_back(one);
  }
  RoundResult result;
  expect_ok(session->round(together, &result), "round");
  QSPEC_EXPECT(static_cast<cuda::CudaSession&>(*session).launches().size() == 3);
  for (int s = 0; s < kSequences; ++s) {
    RoundResult one;
    expect_ok(session->round(alone[s], &one), "alone");
    QSPEC_EXPECT(one.num_accepted[0] == result.num_accepted[s] && result.token_offsets[s + 1] - result.token_offsets[s] == static_cast<int32_t>(one.tokens.size()));
    QSPEC_EXPECT_BITS(result.tokens.data() + result.token_offsets[s], one.tokens.data(), one.tokens.size(), text("sequence %d", s));
  }
}

// ---- Sampling -----------------------------------------------------------------------------------------------------------------------------

// The device's picks are the CPU sampler's from the same logits, whatever the settings.
QSPEC_TEST(picks_are_those_of_the_cpu_sampler) {
  LlamaShape shape;
  shape.vocab = 403, shape.layers = 1;
  Model model(shape, all("bf16"), 0);
  SessionSpec spec;
  auto session = make_session(cuda_backend(), model, spec);
  const std::vector<int32_t> prompt = random_tokens(12, shape.vocab, 31), pages = {7, 2, 9, 0};
  const int32_t bias_ids[] = {3, 77, 200};
  const float bias_values[] = {4.0f, -INFINITY, 1.5f};
  Rng rng(8);
  SamplerScratch scratch;
  for (int trial = 0; trial < 60; ++trial) {
    SamplerParams p = sampler(trial % 5 == 0 ? 0.0f : rng.uniform(0.2f, 3.0f));
    p.seed = static_cast<uint32_t>(trial), p.stream = 3;
    if (trial % 2) p.top_k = rng.integer(1, 60);
    if (trial % 3 == 1) p.top_p = rng.uniform(0.05f, 0.99f);
    if (trial % 4 == 2) p.min_p = rng.uniform(0.01f, 0.5f);
    if (trial % 6 == 3) p.repetition_penalty = rng.uniform(0.7f, 1.6f), p.presence_penalty = rng.uniform(-1, 1), p.frequency_penalty = rng.uniform(-1, 1);
    if (trial % 7 == 4) p.bias_ids = bias_ids, p.bias_values = bias_values, p.num_bias = 3;
    p.history = prompt.data(), p.num_history = 12, p.num_prompt = 5;
    ForwardResult logits;
    expect_ok(session->forward(chain(prompt, 0, pages), &logits), "forward");
    RoundBatch batch;
    batch.pages = {{0, 4}, pages};
    batch.tokens = prompt, batch.token_offsets = {0, 12}, batch.start_positions = {0}, batch.emit = {1}, batch.gammas = {0}, batch.samplers = {p};
    RoundResult result;
    expect_ok(session->round(batch, &result), "round");
    const int32_t expected = sample_row(logits.logits.data() + 11 * shape.vocab, shape.vocab, p, 12, nullptr, 0, scratch);
    if (result.tokens[0] != expected) fail(__FILE__, __LINE__, "trial %d: expected %d but received %d", trial, expected, result.tokens[0]);
  }
}

QSPEC_TEST(log_probabilities_come_from_the_target) {
  Model model({}, all("nested"), 0);
  auto session = make_session(cuda_backend(), model, speculative_spec(16));
  SamplerParams p = sampler(0);
  p.num_logprobs = 3;
  RoundBatch batch;
  batch.pages = {{0, 4}, {7, 2, 9, 0}};
  batch.tokens = random_tokens(9, 48, 41), batch.token_offsets = {0, 9}, batch.start_positions = {0}, batch.emit = {1}, batch.gammas = {0}, batch.samplers = {p};
  RoundResult result;
  expect_ok(session->round(batch, &result), "round");
  ForwardResult logits;
  expect_ok(session->forward(chain(batch.tokens, 0, {7, 2, 9, 0}), &logits), "forward");
  const double expected = token_logprob(logits.logits.data() + 8 * 48, 48, result.tokens[0], nullptr);
  QSPEC_EXPECT(result.logprobs.size() == 1 && std::fabs(result.logprobs[0] - expected) < 1e-12);
  QSPEC_EXPECT(result.top_counts[0] == 3 && result.top_tokens[0] == result.tokens[0]);
}

// ---- Resources and bad input ------------------------------------------------------------------------------------------------------------

QSPEC_TEST(a_weight_is_held_once) {
  const RandomWeight random(nested_spec(128, 12), 256, 1024, 5);
  WeightRef weight;
  expect_ok(cuda_backend()->create_weight({random.source("w")}, &weight), "create_weight");
  QSPEC_EXPECT(weight->bytes() == 256 * 1024 / 2 * 2 + 256 * (1024 / 128) * 2);
}

// Up to five rows: from the first layer's attention to the last one's nobody waits for everybody, and one barrier a layer is waited for long after it was arrived at.
QSPEC_TEST(few_rows_wait_for_words) {
  LlamaShape shape;
  shape.layers = 4;
  for (const char* format : {"bf16", "int4", "nested"}) {
    Model model(shape, all(format), 0);
    auto session = make_session(cuda_backend(), model, {});
    if (!session) return;
    for (int rows = 1; rows <= cuda::kPostedRows + 1; ++rows) {
      int attentions = 0, barriers = 0, arrivals = 0, waits = 0;
      for (const cuda::Phase& phase : static_cast<const cuda::CudaSession&>(*session).phases(false, rows)) {
        attentions += phase.kind == cuda::PhaseKind::kAttention;
        if (attentions == 0 || attentions == shape.layers) continue;
        barriers += phase.barrier_after, arrivals += phase.arrives_after, waits += phase.waits_before;
      }
      const int late = rows <= cuda::kPostedRows ? shape.layers - 1 : 0, expected = rows <= cuda::kPostedRows ? 0 : 5 * (shape.layers - 1);
      if (barriers != expected || arrivals != late || waits != late)
        fail(__FILE__, __LINE__, "%s, %d rows: expected %d barriers and %d late ones but received %d, %d arrivals and %d waits", format, rows, expected, late, barriers, arrivals, waits);
    }
  }
}

void expect_error(const Status& status, StatusCode code, const char* word) {
  if (status.code() != code) fail(__FILE__, __LINE__, "expected status %d but received %d: %s", static_cast<int>(code), static_cast<int>(status.code()), status.message().c_str());
  if (status.message().find(word) == std::string::npos) fail(__FILE__, __LINE__, "expected `%s` in: %s", word, status.message().c_str());
}

QSPEC_TEST(what_has_no_kernel_is_refused_by_name) {
  const RandomWeight fine(int4_spec(32), 16, 64, 5);
  WeightRef weight;
  WeightSource bad = fine.source("layers.0.q");
  bad.group_size = 16;
  expect_error(cuda_backend()->create_weight({bad}, &weight), StatusCode::kUnsupported, "layers.0.q");
  bad = fine.source("big rotation"), bad.hadamard_block = 1024;
  expect_error(cuda_backend()->create_weight({bad}, &weight), StatusCode::kUnsupported, "hadamard_block");
  expect_error(cuda_backend()->create_weight({fine.source("a"), RandomWeight(int4_spec(64), 16, 64, 5).source("b")}, &weight), StatusCode::kShapeMismatch, "`b`");
  expect_error(cuda_backend()->create_weight({}, &weight), StatusCode::kInvalidArgument, "at least one");

  LlamaShape shape;
  shape.head_dim = 48;
  Model odd_head(shape, all("bf16"), 0);
  SessionConfig config;
  config.target = odd_head.program(*cuda_backend(), {});
  config.kv = {KvFormat::kBf16, 2, 16, 2, 48, 4};
  config.vocab_size = 48, config.max_rows = config.max_logit_rows = 8;
  std::unique_ptr<Session> session;
  expect_error(cuda_backend()->create_session(std::move(config), &session), StatusCode::kUnsupported, "headDim");

  Model model({}, all("bf16"), 0);
  SessionConfig f32;
  f32.target = model.program(*cuda_backend(), {});
  f32.kv = {KvFormat::kF32, 2, 16, 2, 32, 4};
  f32.vocab_size = 48, f32.max_rows = f32.max_logit_rows = 8;
  expect_error(cuda_backend()->create_session(std::move(f32), &session), StatusCode::kUnsupported, "kv.format");

  SessionConfig huge;
  huge.target = model.program(*cuda_backend(), {});
  huge.kv = {KvFormat::kBf16, 2, 1024, 2, 32, 2000000};
  huge.vocab_size = 48, huge.max_rows = huge.max_logit_rows = 8;
  expect_error(cuda_backend()->create_session(std::move(huge), &session), StatusCode::kOutOfMemory, "KV pages");
}

QSPEC_TEST(pages_are_copied_whole) {
  Model model({}, all("bf16"), 0);
  auto session = make_session(cuda_backend(), model, {});
  const std::vector<int32_t> tokens = random_tokens(20, 48, 61);
  const std::vector<float> before = forward_all(*session, tokens, 20, {1, 2});
  expect_ok(session->copy_pages({1, 2}, {10, 11}), "copy_pages");
  ForwardResult again;
  expect_ok(session->forward(chain({tokens[19]}, 19, {10, 11}), &again), "forward");
  QSPEC_EXPECT_BITS(again.logits.data(), before.data() + 19 * 48, 48, "row 19 over copied pages");
}

QSPEC_TEST(profiles_name_every_op) {
  Model model({}, all("int4"), 32);
  SessionSpec spec;
  spec.target.hadamard_block = 32;
  auto session = make_session(cuda_backend(), model, spec);
  expect_ok(session->set_profiling(true), "set_profiling");
  forward_all(*session, random_tokens(10, 48, 62), 10, {1});
  const Profile& profile = session->target_profile();
  QSPEC_EXPECT(profile.entries[static_cast<int>(OpKind::kLinear)].calls == 9);
  QSPEC_EXPECT(profile.entries[static_cast<int>(OpKind::kAttention)].nanoseconds > 0);
  expect_ok(session->set_profiling(false), "set_profiling");
}

}  // namespace

int main(int argc, char** argv) {
  const cuda::CudaSummary summary = cuda::summarize_cuda(0);
  if (!summary.is_usable) {
    std::printf("skipped: %s\n", summary.problem.c_str());
    return 77;
  }
  return run_all(argc, argv);
}
