// The thread pool, and programs, CPU sessions and rounds over the reference ops. A model of one attention layer, dense weights.
#include <atomic>
#include <chrono>
#include <ctime>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "session/cpu_session.h"
#include "testkit.h"

using namespace qspec;

namespace {

constexpr int kVocab = 41, kHidden = 24, kHeadDim = 8, kHeads = 2, kKvHeads = 1, kPage = 16, kPages = 12;

WeightRef dense(int64_t n, int64_t k, uint64_t seed) {
  const std::vector<float> values = test::Rng(seed).normals(static_cast<size_t>(n * k), 0.6f);
  WeightSource source{};
  source.name = "w";
  source.kind = WeightKind::kDenseF32;
  source.dense_type = DenseType::kF32;
  source.n = n;
  source.k = k;
  source.radix = 1;
  source.dense = values.data();
  std::unique_ptr<ResidentWeight> weight;
  QSPEC_EXPECT(ResidentWeight::create({source}, &weight).is_ok());
  return WeightRef(std::move(weight));
}

VectorRef vector_of(size_t length, float value) { return std::make_shared<const std::vector<float>>(length, value); }

ProgramOp op_of(OpKind kind, int input, int output) {
  ProgramOp op;
  op.kind = kind;
  op.input = input;
  op.output = output;
  return op;
}

// A draft sees only the last two positions, so that it is sometimes wrong.
Program make_program(bool is_draft = false) {
  const int qkv_width = (kHeads + 2 * kKvHeads) * kHeadDim;
  Program program;
  program.name = "one layer";
  for (const int64_t width : {kHidden, kHidden, qkv_width, kHeads * kHeadDim, kHidden, kHidden, kVocab}) {
    BufferSpec buffer;
    buffer.width = width;
    program.buffers.push_back(buffer);
  }
  program.logits = 6;
  ProgramOp embedding = op_of(OpKind::kEmbedding, -1, 0);
  embedding.weight = dense(kVocab, kHidden, 1);
  ProgramOp norm = op_of(OpKind::kRmsNorm, 0, 1);
  norm.vector = vector_of(kHidden, 1);
  norm.eps = 1e-5f;
  ProgramOp qkv = op_of(OpKind::kLinear, 1, 2);
  qkv.weight = dense(qkv_width, kHidden, 2);
  ProgramOp rope = op_of(OpKind::kRopeKvWrite, 2, -1);
  rope.vector = vector_of(kHeadDim / 2, 0.3f);
  ProgramOp attention = op_of(OpKind::kAttention, 2, 3);
  attention.scale = 0.35f;
  attention.sliding_window = is_draft ? 2 : 0;
  for (ProgramOp* op : {&rope, &attention}) op->num_heads = kHeads, op->num_kv_heads = kKvHeads, op->head_dim = kHeadDim;
  ProgramOp project = op_of(OpKind::kLinear, 3, 4);
  project.weight = dense(kHidden, kHeads * kHeadDim, 3);
  ProgramOp add = norm;
  add.delta = 4;
  ProgramOp head = op_of(OpKind::kLinear, 5, 6);
  head.weight = dense(kVocab, kHidden, 4);
  program.ops = {embedding, norm, qkv, rope, attention, project, add, op_of(OpKind::kGatherRows, 1, 5), head};
  return program;
}

std::shared_ptr<ThreadPool> make_pool(int num_threads) {
  std::shared_ptr<ThreadPool> pool;
  QSPEC_EXPECT(ThreadPool::create(num_threads, &pool).is_ok());
  return pool;
}

std::unique_ptr<Session> make_session(int num_threads = 2) {
  SessionConfig config;
  config.target = make_program();
  config.draft = std::make_unique<Program>(make_program(true));
  config.kv = {KvFormat::kF32, 1, kPage, kKvHeads, kHeadDim, kPages};
  config.vocab_size = kVocab;
  config.max_rows = config.max_logit_rows = 64;
  std::unique_ptr<Session> session;
  const Status status = CpuSession::create(reference_ops(), make_pool(num_threads), std::move(config), &session);
  if (!status.is_ok()) test::fail(__FILE__, __LINE__, "%s", status.message().c_str());
  return session;
}

SamplerParams sampler(float temperature) {
  SamplerParams params{};
  params.temperature = temperature;
  params.top_p = 1;
  params.repetition_penalty = 1;
  params.seed = 9;
  params.num_logprobs = -1;
  return params;
}

// Emits `length` tokens after `prompt`, `gamma` drafts a round.
std::vector<int32_t> generate(Session& session, const std::vector<int32_t>& prompt, float temperature, int gamma, size_t length,
                              int* num_accepted = nullptr, int* num_rounds = nullptr) {
  std::vector<int32_t> output;
  while (output.size() < length) {
    RoundBatch batch;
    batch.pages = {{0, 4}, {7, 2, 9, 0}};
    batch.tokens = output.empty() ? prompt : std::vector<int32_t>{output.back()};
    batch.token_offsets = {0, static_cast<int32_t>(batch.tokens.size())};
    batch.start_positions = {output.empty() ? 0 : static_cast<int32_t>(prompt.size() + output.size() - 1)};
    batch.emit = {1};
    batch.gammas = {output.empty() ? 0 : gamma};
    batch.samplers = {sampler(temperature)};
    RoundResult result;
    const Status status = session.round(batch, &result);
    if (!status.is_ok()) return test::fail(__FILE__, __LINE__, "%s", status.message().c_str()), output;
    output.insert(output.end(), result.tokens.begin(), result.tokens.end());
    if (num_accepted) *num_accepted += result.num_accepted[0];
    if (num_rounds) *num_rounds += batch.gammas[0] > 0;
  }
  output.resize(length);
  return output;
}

double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

}  // namespace

QSPEC_TEST(pool_runs_every_part_once) {
  for (const int threads : {1, 2, 3, 7}) {
    const auto pool = make_pool(threads);
    for (const int count : {0, 1, 2, 5, 64, 1000}) {
      for (int repeat = 0; repeat < 200; ++repeat) {
        std::vector<std::atomic<int>> runs(count);
        std::atomic<int> wrong_counts{0};
        pool->run(count, [&](Part part) {
          runs[part.index].fetch_add(1);
          if (part.count != count) wrong_counts.fetch_add(1);
        });
        for (const auto& run : runs) QSPEC_EXPECT(run.load() == 1);
        QSPEC_EXPECT(wrong_counts.load() == 0);
      }
    }
  }
}

QSPEC_TEST(pool_keeps_a_failure_and_runs_on) {
  const auto pool = make_pool(3);
  std::atomic<int> runs{0};
  pool->run(6, [&](Part part) {
    runs.fetch_add(1);
    if (part.index == 2) throw std::bad_alloc();
  });
  QSPEC_EXPECT(runs.load() == 6);
  QSPEC_EXPECT(pool->take_failure());
  QSPEC_EXPECT(!pool->take_failure());
}

QSPEC_TEST(pool_parks_when_idle_and_wakes_again) {
  const auto pool = make_pool(4);
  for (int i = 0; i < 3; ++i) {
    pool->run(4, [](Part) {});
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    QSPEC_EXPECT(cpu_seconds() - before < 0.05);
  }
}

QSPEC_TEST(rounds_emit_the_same_tokens_for_every_gamma) {
  const auto session = make_session();
  for (const float temperature : {0.0f, 1.0f}) {
    const std::vector<int32_t> prompt = {3, 17, 8, 29, 5};
    const std::vector<int32_t> plain = generate(*session, prompt, temperature, 0, 30);
    for (int gamma = 1; gamma <= 8; ++gamma) {
      int num_accepted = 0, num_rounds = 0;
      const std::vector<int32_t> speculative = generate(*session, prompt, temperature, gamma, 30, &num_accepted, &num_rounds);
      QSPEC_EXPECT(num_accepted > 0 && num_accepted < gamma * num_rounds);  // both outcomes occur
      QSPEC_EXPECT_BITS(speculative.data(), plain.data(), plain.size(), test::text("temperature %g gamma %d", temperature, gamma));
    }
  }
}

QSPEC_TEST(thread_count_does_not_change_a_bit) {
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17};
  std::vector<std::vector<float>> logits;
  for (const int threads : {1, 2, 5}) {
    ForwardBatch batch;
    batch.pages = {{0, 2}, {3, 1}};
    batch.tokens = tokens;
    for (int i = 0; i < 17; ++i) batch.positions.push_back(i), batch.sequences.push_back(0), batch.logit_rows.push_back(i);
    ForwardResult result;
    QSPEC_EXPECT(make_session(threads)->forward(batch, &result).is_ok());
    logits.push_back(result.logits);
  }
  for (const auto& other : logits) QSPEC_EXPECT_BITS(other.data(), logits[0].data(), logits[0].size(), "logits");
}

QSPEC_TEST(bad_programs_are_refused_with_the_op_named) {
  const KvShape kv{KvFormat::kF32, 1, kPage, kKvHeads, kHeadDim, kPages};
  QSPEC_EXPECT(validate_program(make_program(), kv, kVocab).is_ok());
  const auto refused = [&](const char* words, auto change) {
    Program program = make_program();
    change(program);
    const Status status = validate_program(program, kv, kVocab);
    if (status.message().find(words) == std::string::npos) test::fail(__FILE__, __LINE__, "%s: %s", words, status.message().c_str());
  };
  refused("op 2 (linear)", [](Program& p) { p.ops[2].input = 99; });
  refused("written before it is read", [](Program& p) { p.ops.erase(p.ops.begin() + 2); });
  refused("`layer`", [](Program& p) { p.ops[3].layer = 1; });
  refused("multiple of", [](Program& p) { p.ops[4].num_heads = 0; });
  refused("`inverseFrequencies`", [](Program& p) { p.ops[3].vector = vector_of(3, 1); });
  refused("`delta`", [](Program& p) { p.ops[6].delta = 2; });
  refused("`hadamardBlock`", [](Program& p) { p.ops[1].hadamard_block = 16; });
  refused("another buffer", [](Program& p) { p.ops[1].output = 0; });
  refused("gatherRows", [](Program& p) { p.ops.resize(7); });
  refused("lie within", [](Program& p) { p.ops[8].output_column = 1; });
  refused("`logits`", [](Program& p) { p.logits = 5; });
}

QSPEC_TEST(bad_batches_are_refused) {
  const auto session = make_session();
  const auto batch = [] {
    RoundBatch b;
    b.pages = {{0, 1}, {0}};
    b.tokens = {1};
    b.token_offsets = {0, 1};
    b.start_positions = {2};
    b.emit = {1};
    b.gammas = {2};
    b.samplers = {sampler(0)};
    return b;
  };
  const auto refused = [&](auto change) {
    RoundBatch b = batch();
    change(b);
    RoundResult result;
    return session->round(b, &result).code() == StatusCode::kInvalidArgument;
  };
  QSPEC_EXPECT(!refused([](RoundBatch&) {}));
  QSPEC_EXPECT(refused([](RoundBatch& b) { b.pages.page_ids[0] = kPages; }));
  QSPEC_EXPECT(refused([](RoundBatch& b) { b.tokens[0] = kVocab; }));
  QSPEC_EXPECT(refused([](RoundBatch& b) { b.gammas[0] = 14; }));
  QSPEC_EXPECT(refused([](RoundBatch& b) { b.gammas[0] = -1; }));
  QSPEC_EXPECT(refused([](RoundBatch& b) { b.draft_tokens = {kVocab, 1}; }));
  QSPEC_EXPECT(refused([](RoundBatch& b) { b.start_positions[0] = -1; }));
  QSPEC_EXPECT(refused([](RoundBatch& b) { b.samplers[0].temperature = NAN; }));
  QSPEC_EXPECT(refused([](RoundBatch& b) { b.emit[0] = 0; }));
}

QSPEC_TEST(page_copies_are_checked_and_whole) {
  const auto session = make_session();
  QSPEC_EXPECT(session->copy_pages({0, 1}, {4, 5}).is_ok());
  QSPEC_EXPECT(session->copy_pages({0}, {kPages}).code() == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(session->copy_pages({0, 1}, {4}).code() == StatusCode::kInvalidArgument);
  QSPEC_EXPECT(session->copy_pages({0, 1}, {1, 2}).code() == StatusCode::kInvalidArgument);
}

QSPEC_TEST_MAIN()
