// Backends as code outside sees them: the CPU's behind the interface, and what programs and batches ask of a weight that is nobody's.
#include <memory>
#include <vector>

#include "session/cpu_backend.h"
#include "session/round_plan.h"
#include "testkit.h"

using namespace qspec;

namespace {

constexpr int kVocab = 19, kWidth = 32;

std::shared_ptr<Backend> cpu_backend(const OpTable& ops, int num_threads = 1) {
  std::shared_ptr<ThreadPool> pool;
  QSPEC_EXPECT(ThreadPool::create(num_threads, &pool).is_ok());
  return std::make_shared<CpuBackend>(ops, std::move(pool));
}

WeightSource dense_source(const std::vector<uint16_t>& values) {
  WeightSource source{};
  source.name = "table";
  source.kind = WeightKind::kDenseF32;
  source.dense_type = DenseType::kBf16;
  source.n = kVocab;
  source.k = kWidth;
  source.radix = 1;
  source.dense = values.data();
  return source;
}

// logits = table · table[token].
SessionConfig table_session(WeightRef table, KvFormat format) {
  SessionConfig config;
  config.target.name = "table";
  for (const int64_t width : {kWidth, kWidth, kVocab}) {
    BufferSpec buffer;
    buffer.width = width;
    config.target.buffers.push_back(buffer);
  }
  ProgramOp embedding, gather, head;
  embedding.kind = OpKind::kEmbedding;
  embedding.output = 0;
  gather.kind = OpKind::kGatherRows;
  gather.input = 0, gather.output = 1;
  head.kind = OpKind::kLinear;
  head.input = 1, head.output = 2;
  embedding.weight = head.weight = std::move(table);
  config.target.ops = {embedding, gather, head};
  config.target.logits = 2;
  config.kv = {format, 1, 16, 1, 8, 4};
  config.vocab_size = kVocab;
  config.max_rows = config.max_logit_rows = 8;
  return config;
}

// A weight of a device that this test has not: only its shape can be asked.
class ElsewhereWeight : public Weight {
 public:
  explicit ElsewhereWeight(WeightShape shape) : shape_(shape) {}
  const WeightShape& shape() const override { return shape_; }
  size_t bytes() const override { return 0; }

 private:
  const WeightShape shape_;
};

SamplerParams greedy(int num_logprobs) {
  SamplerParams params{};
  params.top_p = params.repetition_penalty = 1;
  params.num_logprobs = num_logprobs;
  return params;
}

}  // namespace

QSPEC_TEST(a_weight_says_its_shape_and_a_session_runs_over_it) {
  const auto backend = cpu_backend(reference_ops());
  const std::vector<uint16_t> values(kVocab * kWidth, 0x3f80);  // all ones
  std::shared_ptr<const Weight> table;
  QSPEC_EXPECT(backend->create_weight({dense_source(values), dense_source(values)}, &table).is_ok());
  QSPEC_EXPECT(table->shape().kind == WeightKind::kDenseBf16);
  QSPEC_EXPECT(table->shape().n == 2 * kVocab && table->shape().k == kWidth && table->shape().radix == 1);
  QSPEC_EXPECT(table->bytes() >= 2 * values.size() * sizeof(uint16_t));
  QSPEC_EXPECT(backend->create_weight({dense_source(values)}, &table).is_ok());
  std::unique_ptr<Session> session;
  QSPEC_EXPECT(backend->create_session(table_session(table, KvFormat::kInt8), &session).is_ok());
  ForwardBatch batch;
  batch.pages = {{0, 1}, {2}};
  batch.tokens = {3};
  batch.positions = batch.sequences = batch.logit_rows = {0};
  ForwardResult result;
  QSPEC_EXPECT(session->forward(batch, &result).is_ok());
  for (const float logit : result.logits) QSPEC_EXPECT(logit == kWidth);
}

QSPEC_TEST(the_cpu_describes_itself_and_measures_its_memory) {
  const BackendDescription reference = cpu_backend(reference_ops())->describe();
  QSPEC_EXPECT(reference.arch == "scalar" && reference.description == "scalar, 1 thread" && reference.num_threads == 1);
  const auto backend = cpu_backend(cpu_ops(CpuIsa::kGeneric), 3);
  QSPEC_EXPECT(backend->describe().description == "generic, 3 threads");
  int64_t free_bytes = 0;
  QSPEC_EXPECT(backend->free_bytes(&free_bytes).is_ok() && free_bytes == -1);
  double rate = 0;
  QSPEC_EXPECT(backend->measure_read_bandwidth(&rate).is_ok());
  QSPEC_EXPECT(rate > 1e8);
}

QSPEC_TEST(which_cache_formats_there_are_is_the_backends_to_say) {
  const auto backend = cpu_backend(reference_ops());
  const SessionConfig config = table_session(std::make_shared<ElsewhereWeight>(WeightShape{WeightKind::kDenseBf16, kVocab, kWidth}), KvFormat::kInt8Nested);
  QSPEC_EXPECT(validate_kv_shape(config.kv).is_ok());
  QSPEC_EXPECT(validate_session(config).is_ok());
  std::unique_ptr<Session> session;
  const Status status = backend->create_session(table_session(config.target.ops[0].weight, KvFormat::kInt8Nested), &session);
  QSPEC_EXPECT(status.code() == StatusCode::kUnsupported);
  QSPEC_EXPECT(status.message().find("`kv.format`") != std::string::npos);
}

QSPEC_TEST(programs_are_checked_by_the_shape_alone) {
  const auto check = [](WeightShape shape) {
    const SessionConfig config = table_session(std::make_shared<ElsewhereWeight>(shape), KvFormat::kBf16);
    return validate_program(config.target, config.kv, config.vocab_size);
  };
  QSPEC_EXPECT(check({WeightKind::kNested8, kVocab, kWidth, 32, 12, 0}).is_ok());
  QSPEC_EXPECT(check({WeightKind::kDenseF32, kVocab, kWidth + 1}).message().find("op 0 (embedding)") != std::string::npos);
  QSPEC_EXPECT(check({WeightKind::kDenseF32, kVocab - 1, kWidth}).message().find("`table`") != std::string::npos);
}

QSPEC_TEST(a_round_is_planned_without_any_device) {
  RoundBatch batch;  // sequence 0 drafts twice after its input at position 4, sequence 1 is a prompt chunk
  batch.pages = {{0, 1, 2}, {3, 1}};
  batch.tokens = {7, 8, 9};
  batch.token_offsets = {0, 1, 3};
  batch.start_positions = {4, 0};
  batch.emit = {1, 0};
  batch.gammas = {2, 0};
  batch.draft_tokens = {5, -1};
  batch.samplers = {greedy(-1), greedy(-1)};
  RoundPlan plan(batch, 16);
  QSPEC_EXPECT(plan.num_draft_steps() == 2);
  QSPEC_EXPECT(!plan.gather_draft_rows(0));  // that token was given
  QSPEC_EXPECT(plan.gather_draft_rows(1));
  QSPEC_EXPECT(plan.rows().batch.rows == 2 && plan.rows().tokens[0] == 7 && plan.rows().tokens[1] == 5);
  QSPEC_EXPECT(plan.rows().batch.slots[1] == 3 * 16 + 5 && plan.num_logit_rows() == 1);
  QSPEC_EXPECT(plan.draw(0).position == 6 && plan.draw(0).num_drafted == 1 && plan.draw(0).drafted[0] == 5);
  plan.record_draws(1, {6});
  plan.gather_verify_rows();
  QSPEC_EXPECT(plan.rows().batch.rows == 5 && plan.num_logit_rows() == 3 && plan.rows().tokens[2] == 6);
  RoundResult result;
  bool is_asked = false;
  const auto logits_of = [&](int64_t) -> const float* { return is_asked = true, nullptr; };
  plan.accept({5, 1, 2}, logits_of, kVocab, &result);
  QSPEC_EXPECT((result.tokens == std::vector<int32_t>{5, 1}) && (result.num_accepted == std::vector<int32_t>{1, 0}));
  QSPEC_EXPECT((result.token_offsets == std::vector<int32_t>{0, 2, 2}) && !is_asked);
}

QSPEC_TEST_MAIN()
