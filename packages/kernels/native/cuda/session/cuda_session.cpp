#include "session/cuda_session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "gemm/cluster_gemm.h"
#include "qspec/sampling.h"
#include "sampling/sample_launch.h"
#include "session/busy_guard.h"
#include "session/round_plan.h"
#include "step/attention_kernel.h"
#include "step/rows_kernel.h"

namespace qspec::cuda {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxDraftSteps = 64;
constexpr int kClusterMajor = 9;        // compute capability of what long launches are compiled for
constexpr int kResultSlots = 4096;      // results of attention items that are kept at once
constexpr int kPrefillSegments = 16;    // and of so many segments, if there are, of a launch of kMaxStepRows rows
constexpr size_t kArenaBytes = size_t{1} << 20;
constexpr int kNotThereByte = 0xff;     // four of them are kNotThere
constexpr int kMaxPhases = 1024;  // that a profile can time

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
int page_shift(const KvShape& kv) {
  int shift = 0;
  while (1 << shift < kv.page_size) ++shift;
  return shift;
}
int launches_for(int64_t rows, int max_rows) {  // at most
  const int most = std::min(kMaxTreeRows, max_rows);
  return static_cast<int>((rows + most - 1) / most);
}

DeviceSampler device_sampler(const SamplerParams& p, int bias_offset, int history_offset) {
  return {p.temperature, p.top_p, p.min_p, p.top_k, p.repetition_penalty, p.presence_penalty, p.frequency_penalty, p.seed, p.stream,
          bias_offset,   p.num_bias, history_offset, p.num_history, p.num_prompt};
}
bool is_general(const SamplerParams& p, int64_t vocab) {
  const bool has_penalty = p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
  const bool is_filtered = p.temperature > 0 && ((p.top_k > 0 && p.top_k < vocab) || p.top_p < 1);
  return p.num_bias > 0 || has_penalty || is_filtered;
}

}  // namespace

// ---- Making ----------------------------------------------------------------------------------------------------------------------------

Status CudaSession::create(const DeviceInfo& device, SessionConfig config, std::unique_ptr<Session>* out) {
  QSPEC_RETURN_IF_ERROR(validate_session(config));
  QSPEC_CUDA_CALL(cudaSetDevice(device.ordinal));
  std::unique_ptr<CudaSession> session(new CudaSession(device, std::move(config)));
  QSPEC_RETURN_IF_ERROR(session->allocate());
  *out = std::move(session);
  return {};
}

Status CudaSession::allocate() {
  QSPEC_RETURN_IF_ERROR(stream_.create());
  for (Event& event : events_) QSPEC_RETURN_IF_ERROR(event.create());
  QSPEC_RETURN_IF_ERROR(kv_.create(config_.kv));
  const Program* programs[2] = {&config_.target, config_.draft.get()};
  const StepEnvironment environment{device_.num_multiprocessors, device_.shared_bytes, &kv_, config_.max_rows, device_.major == kClusterMajor};
  size_t bytes = 0;
  int rows[2] = {};
  for (int i = 0; i < 2; ++i) {
    if (!programs[i]) continue;
    QSPEC_RETURN_IF_ERROR(lower_program(*programs[i], &lowered_[i]));
    QSPEC_RETURN_IF_ERROR(vectors_.add(lowered_[i]));
    rows[i] = most_launch_rows(lowered_[i], environment);
    bytes = std::max(bytes, StepBuffers::bytes(lowered_[i], rows[i]));
  }
  const bool is_long = std::max(rows[0], rows[1]) > kMaxStepRows;
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(bytes, "scratch of the programs", &scratch_, is_long ? "lower `maxRows`: up to 256 take the least" : nullptr));
  QSPEC_RETURN_IF_ERROR(scratch_.fill(0));
  buffers_.reserve(2);
  for (int i = 0; i < 2; ++i) {
    if (!programs[i]) continue;
    buffers_.emplace_back(lowered_[i], rows[i], scratch_.as<uint8_t>());
    QSPEC_RETURN_IF_ERROR(StepPlan::create(lowered_[i], environment, vectors_, buffers_.back(), i == 1, &plans_[i]));
  }
  return allocate_workspace();
}

Status CudaSession::allocate_workspace() {
  const KvShape& kv = config_.kv;
  int heads = lowered_[0].num_heads, head_dim = lowered_[0].head_dim;
  if (heads == 0) heads = 1, head_dim = 32;
  const int max_splits = static_cast<int>(std::min<int64_t>((kv.num_slots() + kSplitPositions - 1) / kSplitPositions, INT32_MAX / kMaxStepRows));
  const int max_segments = (max_splits + kSegmentSplits - 1) / kSegmentSplits;
  geometry_ = {lowered_[0].num_heads, lowered_[0].num_kv_heads, head_dim, kv.format, device_.num_multiprocessors, device_.shared_bytes, kResultSlots, std::max(kMaxTreeRows * max_segments, kMaxStepRows * std::min(max_segments, kPrefillSegments)),
               kMaxTreeRows * max_segments};
  for (const auto& plan : plans_)
    if (plan) geometry_.room = std::min(geometry_.room, plan->attention_room());
  LaunchRows max_rows[2];
  for (int i = 0; i < 2; ++i)
    if (plans_[i]) max_rows[i] = {plans_[i]->max_rows(false), plans_[i]->max_rows(true), plans_[i]->least_long_rows()};
  const int most_rows = std::max(max_rows[0].most(), max_rows[1].most());
  const bool is_long = std::max(max_rows[0].long_rows, max_rows[1].long_rows) > 0;
  int64_t partials = 0, counters = 1;
  for (const auto& plan : plans_) {
    if (!plan) continue;
    partials = std::max(partials, plan->partial_floats()), counters = std::max(counters, plan->num_counters());
  }
  const int64_t result_floats = static_cast<int64_t>(heads) * (head_dim + kResultTail);
  const int max_folds = std::max(geometry_.max_folds, most_rows);
  const int64_t fold_counters = static_cast<int64_t>(max_folds + most_rows) * std::max(geometry_.num_kv_heads, 1);
  // Of long launches: a GEMM's totals, then attention's saved sums.
  const size_t blocks = static_cast<size_t>(device_.num_multiprocessors), totals = gemm_blocks(device_.num_multiprocessors) * kGemmTotalBytes;
  const size_t long_bytes = is_long ? std::max(totals, blocks * kSplitGroups * kWarpgroupScratchFloats * sizeof(float)) : 0;
  const size_t sizes[] = {256, static_cast<size_t>(partials) * 4, static_cast<size_t>(counters) * 4, static_cast<size_t>(geometry_.result_slots * result_floats) * 4,
                          static_cast<size_t>(geometry_.segment_slots * result_floats) * 4, static_cast<size_t>(fold_counters) * 4,
                          static_cast<size_t>(device_.num_multiprocessors) * kBlockScratchFloats * 4,
                          kMaxLogitRows * kSampleChunks * sizeof(SampleBest), kMaxLogitRows * 4, static_cast<size_t>(kGeneralBlocks * config_.vocab_size) * 4,
                          static_cast<size_t>(kGeneralBlocks * config_.vocab_size) * 4, long_bytes, is_long ? blocks * kGemmTurnBytes : 0};
  size_t total = 0;
  for (const size_t size : sizes) total += aligned(size);
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(total, "the workspace", &workspace_memory_, "lower `kv.numPages` or `vocabSize`"));
  QSPEC_RETURN_IF_ERROR(workspace_memory_.fill(0));
  uint8_t* next = workspace_memory_.as<uint8_t>();
  uint8_t* places[13];
  for (int i = 0; i < 13; ++i) places[i] = std::exchange(next, next + aligned(sizes[i]));
  workspace_ = {reinterpret_cast<unsigned long long*>(places[0]), reinterpret_cast<float*>(places[1]), reinterpret_cast<int32_t*>(places[2]),
                reinterpret_cast<float*>(places[3]), reinterpret_cast<float*>(places[4]), reinterpret_cast<float*>(places[6]), reinterpret_cast<int32_t*>(places[5]), max_folds};
  long_scratch_ = places[11], gemm_turns_ = reinterpret_cast<unsigned long long*>(places[12]);
  sample_workspace_ = {reinterpret_cast<SampleBest*>(places[7]), reinterpret_cast<int32_t*>(places[8]), reinterpret_cast<float*>(places[9]),
                       reinterpret_cast<int32_t*>(places[10])};
  const int max_launches = (kMaxDraftSteps + 1) * launches_for(config_.max_rows, std::min(max_rows[0].rows, max_rows[1].rows));
  QSPEC_RETURN_IF_ERROR(arena_.create(static_cast<size_t>(max_launches) * kLaunchStructBytes, kArenaBytes));
  list_ = std::make_unique<LaunchList>(arena_, geometry_, page_shift(kv), max_rows, max_launches);
  return {};
}

size_t CudaSession::scratch_bytes() const { return scratch_.bytes() + workspace_memory_.bytes() + arena_.bytes() + vectors_.bytes(); }

// ---- Launching ---------------------------------------------------------------------------------------------------------------------------

StepParams CudaSession::step_params(const Launch& launch) const {
  StepParams params{};
  plans_[launch.is_draft]->bind(launch.row_class, &params);
  params.attention = launch.attention;
  params.batch = arena_.fixed<StepBatch>(step_struct_offset(launch.slot));
  params.workspace = workspace_;
  params.stamps = stamps_.as<unsigned long long>();
  return params;
}

SampleParams CudaSession::sample_params(const Launch& launch) const {
  return {arena_.fixed<SampleBatch>(sample_struct_offset(launch.slot)), plans_[launch.is_draft]->logits(), static_cast<int32_t>(config_.vocab_size), sample_workspace_};
}

Status CudaSession::clear_posts(const Launch& launch) {
  const size_t posted = plans_[launch.is_draft]->posted_bytes(launch.row_class);
  if (posted > 0) QSPEC_CUDA_CALL(cudaMemsetAsync(buffers_[launch.is_draft].posts(), kNotThereByte, posted, stream_.get()));
  return {};
}

Status CudaSession::enqueue(const Launch& launch) {
  QSPEC_RETURN_IF_ERROR(clear_posts(launch));
  for (const StepPlan::Stretch& stretch : plans_[launch.is_draft]->stretches(launch.row_class))
    if (stretch.of_logits || !launch.only_logits) QSPEC_RETURN_IF_ERROR(enqueue(launch, stretch));
  return launch.is_sampled ? enqueue_sampling(launch) : Status::ok();
}

Status CudaSession::enqueue(const Launch& launch, const StepPlan::Stretch& stretch) {
  const StepPlan& plan = *plans_[launch.is_draft];
  StepParams params = step_params(launch);
  const Phase& first = plan.phases(launch.row_class)[stretch.first];
  const int blocks = device_.num_multiprocessors;
  params.phases += stretch.first, params.num_phases = stretch.count, params.stamps_stride = stamps_stride(stretch.count);
  switch (stretch.kernel) {
    case StepPlan::Kernel::kGemm: return launch_cluster_gemm(blocks, launch.rows, {first, params.batch, params.blocks, long_scratch_, gemm_turns_}, stream_.get());
    case StepPlan::Kernel::kRows: return launch_rows(launch.rows, {first, params.batch, params.blocks}, stream_.get());
    case StepPlan::Kernel::kAttention:
      if (launch.attention.way == TeamWay::kWarpgroups) params.workspace.block_scratch = reinterpret_cast<float*>(long_scratch_);
      return launch_attention(blocks, launch.rows, plan.config(launch.row_class), params, first.attention, launch.folds, stream_.get());
    case StepPlan::Kernel::kStep: break;
  }
  if (kRowClasses[launch.row_class].is_long) params.attention = {TeamWay::kGroups, kGroupTeamWarps, 0, 0, 0};  // attends to nothing, and with more than 32 rows keeps none in shared memory
  return launch_step(launch.row_class, blocks, plan.config(launch.row_class), params, stream_.get());
}

Status CudaSession::enqueue_sampling(const Launch& launch) {
  return launch_sample(sample_params(launch), std::min(kRowClasses[launch.row_class].max_rows, kMaxLogitRows), launch.has_general, stream_.get());
}

Status CudaSession::begin_call() {
  QSPEC_CUDA_CALL(cudaSetDevice(device_.ordinal));
  if (!is_settled_) QSPEC_RETURN_IF_ERROR(synchronize());  // a call that failed may have left copies out of the arena on their way
  is_settled_ = false;
  return {};
}

Status CudaSession::synchronize() {
  QSPEC_CUDA_CALL(cudaStreamSynchronize(stream_.get()));
  is_settled_ = true;
  return {};
}

Status CudaSession::run(const std::vector<Launch>& launches) {
  if (profiles_[0].is_on) {
    for (const Launch& launch : launches) QSPEC_RETURN_IF_ERROR(run_profiled(launch));
    return {};
  }
  std::string key = std::to_string(arena_.generation());
  bool is_long = false;
  for (const Launch& launch : launches) {
    if (&launch == launches.data()) key += '@' + std::to_string(launch.slot);  // addresses follow from it
    const TeamShare& share = launch.attention;
    const char code[] = {static_cast<char>('a' + launch.row_class), static_cast<char>('a' + static_cast<int>(share.way)), static_cast<char>('a' + share.team_warps), static_cast<char>('a' + share.num_teams), static_cast<char>('a' + share.ring_turns), launch.is_draft ? 'd' : 't', launch.is_sampled ? launch.has_general ? 'g' : 's' : '-', 0};
    key += code;
    if (kRowClasses[launch.row_class].is_long) key += std::to_string(launch.rows) + '/' + std::to_string(launch.folds.groups) + '/' + std::to_string(launch.folds.rows) + (launch.only_logits ? "l" : ""), is_long = true;  // grids follow from these
  }
  return graphs_.run(key, is_long, stream_.get(), [&]() -> Status {
    for (const Launch& launch : launches) QSPEC_RETURN_IF_ERROR(enqueue(launch));
    return {};
  });
}

// ---- forward -----------------------------------------------------------------------------------------------------------------------------

// Rows sorted by sequence and position; `result_rows[i]`: which of the caller's logit rows the pass's i-th is.
void CudaSession::build_forward(const ForwardBatch& batch, PassRows* pass, std::vector<int32_t>* result_rows) {
  const size_t rows = batch.tokens.size();
  std::vector<int32_t> order(rows), wanted(rows, -1);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return batch.sequences[a] != batch.sequences[b] ? batch.sequences[a] < batch.sequences[b] : batch.positions[a] < batch.positions[b];
  });
  for (size_t i = 0; i < batch.logit_rows.size(); ++i) wanted[batch.logit_rows[i]] = static_cast<int32_t>(i);
  const std::vector<int32_t> slots = slots_of(batch, config_.kv.page_size);
  pass->has_ancestors = batch.has_ancestors, pass->max_ancestors = batch.max_ancestors;
  for (const int32_t row : order) {
    if (wanted[row] >= 0) {
      pass->logit_rows.push_back(static_cast<int32_t>(pass->positions.size()));
      result_rows->push_back(wanted[row]);
    }
    pass->token_index.push_back(row), pass->positions.push_back(batch.positions[row]);
    pass->sequences.push_back(batch.sequences[row]), pass->slots.push_back(slots[row]);
    if (!batch.has_ancestors) continue;
    pass->ancestor_starts.push_back(batch.ancestor_starts[row]);
    const auto first = batch.ancestor_slots.begin() + static_cast<int64_t>(row) * batch.max_ancestors;
    pass->ancestor_slots.insert(pass->ancestor_slots.end(), first, first + batch.max_ancestors);
  }
}

Status CudaSession::forward(const ForwardBatch& batch, ForwardResult* result) {
  const BusyGuard busy(is_busy_);
  QSPEC_RETURN_IF_ERROR(busy.status());
  QSPEC_RETURN_IF_ERROR(validate_forward(batch, config_));
  QSPEC_RETURN_IF_ERROR(begin_call());
  PassRows pass;
  std::vector<int32_t> result_rows;
  build_forward(batch, &pass, &result_rows);
  for (;;) {
    arena_.begin();
    CallArrays arrays;
    arrays.tokens = arena_.put(batch.tokens), arrays.page_ids = arena_.put(batch.pages.page_ids);
    list_->begin(arrays, batch.pages.page_offsets);
    QSPEC_RETURN_IF_ERROR(list_->add(batch.is_draft, pass));
    if (!arena_.is_full()) break;
    QSPEC_RETURN_IF_ERROR(arena_.grow());
  }
  QSPEC_RETURN_IF_ERROR(arena_.send(stream_.get()));
  const int64_t vocab = config_.vocab_size, num_logit_rows = static_cast<int64_t>(batch.logit_rows.size());
  result->argmax.resize(num_logit_rows);
  batch.has_labels ? result->logprobs.resize(num_logit_rows) : result->logits.resize(num_logit_rows * vocab);
  std::vector<float> rows;
  for (const Launch& launch : list_->launches()) {
    QSPEC_RETURN_IF_ERROR(run({launch}));
    rows.resize(launch.num_logit_rows * vocab);
    QSPEC_CUDA_CALL(cudaMemcpyAsync(rows.data(), plans_[launch.is_draft]->logits(), rows.size() * 4, cudaMemcpyDeviceToHost, stream_.get()));
    QSPEC_RETURN_IF_ERROR(synchronize());
    for (int i = 0; i < launch.num_logit_rows; ++i) {
      const int32_t to = result_rows[launch.first_logit_row + i];
      const float* row = rows.data() + i * vocab;
      result->argmax[to] = argmax_row(row, vocab);
      if (batch.has_labels) result->logprobs[to] = token_logprob(row, vocab, batch.labels[to], nullptr);
      else std::copy(row, row + vocab, result->logits.data() + to * vocab);
    }
  }
  return {};
}

// ---- round -------------------------------------------------------------------------------------------------------------------------------

namespace {

// Where in the pool of tokens [inputs | proposals | picks] a sequence's positions are.
class PoolIndex {
 public:
  explicit PoolIndex(const RoundBatch& batch) : batch_(batch), drafts_{static_cast<int32_t>(batch.tokens.size())} {
    for (const int32_t gamma : batch.gammas) drafts_.push_back(drafts_.back() + gamma);
  }
  int32_t of_position(int32_t sequence, int32_t position) const {
    const int32_t within = position - batch_.start_positions[sequence], inputs = batch_.token_offsets[sequence + 1] - batch_.token_offsets[sequence];
    return within < inputs ? batch_.token_offsets[sequence] + within : drafts_[sequence] + within - inputs;
  }
  int32_t first_draft(int32_t sequence) const { return drafts_[sequence]; }
  int32_t end_of_drafts() const { return drafts_.back(); }

 private:
  const RoundBatch& batch_;
  std::vector<int32_t> drafts_;
};

PassRows pass_of(const RoundPlan& plan, const PoolIndex& pool) {
  const ReplayRows rows = plan.rows();
  PassRows pass;
  const auto copy = [&](const int32_t* from, int64_t count) { return std::vector<int32_t>(from, from + count); };
  pass.positions = copy(rows.batch.positions, rows.batch.rows), pass.sequences = copy(rows.batch.sequences, rows.batch.rows);
  pass.slots = copy(rows.batch.slots, rows.batch.rows), pass.logit_rows = copy(rows.logit_rows, rows.num_logit_rows);
  for (int64_t i = 0; i < rows.batch.rows; ++i) pass.token_index.push_back(pool.of_position(pass.sequences[i], pass.positions[i]));
  return pass;
}

// `destination(row, sequence, step)`: where the drawn token goes.
template <typename Destination>
void add_samples(const RoundPlan& plan, const PoolIndex& pool, int64_t vocab, PassRows* pass, const Destination& destination) {
  for (int64_t i = 0; i < plan.num_logit_rows(); ++i) {
    const RoundPlan::Draw draw = plan.draw(i);
    const int32_t sequence = pass->sequences[pass->logit_rows[i]];
    pass->samples.push_back({sequence, static_cast<int32_t>(draw.position), pool.first_draft(sequence), draw.num_drafted,
                             destination(static_cast<int32_t>(i), sequence, draw.num_drafted), is_general(draw.sampler, vocab)});
  }
}

}  // namespace

Status CudaSession::build_round(const RoundBatch& batch) {
  const PoolIndex index(batch);
  num_inputs_ = static_cast<int64_t>(batch.tokens.size()), num_drafts_ = index.end_of_drafts() - num_inputs_;
  std::vector<int32_t> pool = batch.tokens;
  if (batch.draft_tokens.empty()) pool.resize(index.end_of_drafts(), 0);
  else pool.insert(pool.end(), batch.draft_tokens.begin(), batch.draft_tokens.end());
  num_picks_ = 0;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) num_picks_ += batch.emit[s] ? batch.gammas[s] + 1 : 0;
  pool.resize(pool.size() + num_picks_, 0);

  std::vector<DeviceSampler> samplers;
  std::vector<int32_t> bias_ids, history;
  std::vector<float> bias_values;
  for (const SamplerParams& p : batch.samplers) {
    samplers.push_back(device_sampler(p, static_cast<int>(bias_ids.size()), static_cast<int>(history.size())));
    bias_ids.insert(bias_ids.end(), p.bias_ids, p.bias_ids + p.num_bias);
    bias_values.insert(bias_values.end(), p.bias_values, p.bias_values + p.num_bias);
    history.insert(history.end(), p.history, p.history + p.num_history);
  }
  CallArrays arrays;
  arrays.tokens = pool_ = arena_.put(pool);
  arrays.page_ids = arena_.put(batch.pages.page_ids);
  arrays.samplers = arena_.put(samplers);
  arrays.bias_ids = arena_.put(bias_ids), arrays.bias_values = arena_.put(bias_values);
  arrays.history = arena_.put(history);
  list_->begin(arrays, batch.pages.page_offsets);

  RoundPlan plan(batch, config_.kv.page_size);
  for (int32_t step = 0; step < plan.num_draft_steps(); ++step) {
    if (!plan.gather_draft_rows(step)) continue;
    PassRows pass = pass_of(plan, index);
    add_samples(plan, index, config_.vocab_size, &pass, [&](int32_t, int32_t sequence, int32_t) { return index.first_draft(sequence) + step; });
    QSPEC_RETURN_IF_ERROR(list_->add(true, pass));
    plan.record_draws(step, std::vector<int32_t>(plan.num_logit_rows(), 0));  // drawn on the device; what counts here is that there is one
  }
  num_draft_launches_ = list_->launches().size();
  plan.gather_verify_rows();
  PassRows pass = pass_of(plan, index);
  add_samples(plan, index, config_.vocab_size, &pass, [&](int32_t row, int32_t, int32_t) { return index.end_of_drafts() + row; });
  return list_->add(false, pass);
}

Status CudaSession::round(const RoundBatch& batch, RoundResult* result) {
  const BusyGuard busy(is_busy_);
  QSPEC_RETURN_IF_ERROR(busy.status());
  QSPEC_RETURN_IF_ERROR(validate_round(batch, config_));
  QSPEC_RETURN_IF_ERROR(begin_call());
  for (;;) {
    arena_.begin();
    QSPEC_RETURN_IF_ERROR(build_round(batch));
    if (!arena_.is_full()) break;
    QSPEC_RETURN_IF_ERROR(arena_.grow());
  }
  const size_t count = static_cast<size_t>(num_drafts_ + num_picks_);
  QSPEC_RETURN_IF_ERROR(results_.reserve(std::max<size_t>(count * 4, 4)));
  const std::vector<Launch>& launches = list_->launches();
  const bool has_logprobs = std::any_of(batch.samplers.begin(), batch.samplers.end(), [](const SamplerParams& p) { return p.num_logprobs >= 0; });
  if (has_logprobs) QSPEC_RETURN_IF_ERROR(logits_.reserve(static_cast<size_t>(num_picks_ * config_.vocab_size) * 4));
  QSPEC_RETURN_IF_ERROR(arena_.send(stream_.get()));
  QSPEC_RETURN_IF_ERROR(events_[0].record(stream_.get()));
  const auto first_verify = launches.begin() + static_cast<int64_t>(num_draft_launches_);
  if (num_draft_launches_ > 0) {
    QSPEC_RETURN_IF_ERROR(run({launches.begin(), first_verify}));
    QSPEC_RETURN_IF_ERROR(events_[1].record(stream_.get()));
  }
  if (!has_logprobs) QSPEC_RETURN_IF_ERROR(run({first_verify, launches.end()}));
  for (auto launch = first_verify; has_logprobs && launch != launches.end(); ++launch) {
    QSPEC_RETURN_IF_ERROR(run({*launch}));
    QSPEC_RETURN_IF_ERROR(read_logits(*launch));
  }
  QSPEC_RETURN_IF_ERROR(events_[2].record(stream_.get()));
  QSPEC_CUDA_CALL(cudaMemcpyAsync(results_.data(), pool_ + num_inputs_, count * 4, cudaMemcpyDeviceToHost, stream_.get()));
  QSPEC_RETURN_IF_ERROR(synchronize());
  return collect_round(batch, result);
}

// Logits of one launch's rows into pinned memory, before the next launch writes over them.
Status CudaSession::read_logits(const Launch& launch) {
  float* to = reinterpret_cast<float*>(logits_.data()) + launch.first_logit_row * config_.vocab_size;
  QSPEC_CUDA_CALL(cudaMemcpyAsync(to, plans_[0]->logits(), static_cast<size_t>(launch.num_logit_rows * config_.vocab_size) * 4, cudaMemcpyDeviceToHost, stream_.get()));
  return {};
}

// Accepts on the host: what was proposed and what the target picked are a few integers.
Status CudaSession::collect_round(const RoundBatch& batch, RoundResult* result) {
  const int32_t* tokens = reinterpret_cast<const int32_t*>(results_.data());
  RoundBatch proposed = batch;
  proposed.draft_tokens.assign(tokens, tokens + num_drafts_);
  RoundPlan plan(proposed, config_.kv.page_size);
  plan.gather_verify_rows();
  const std::vector<int32_t> picks(tokens + num_drafts_, tokens + num_drafts_ + num_picks_);
  const float* logits = reinterpret_cast<const float*>(logits_.data());
  plan.accept(picks, [&](int64_t row) { return logits + row * config_.vocab_size; }, config_.vocab_size, result);
  const bool has_drafts = num_draft_launches_ > 0;
  if (has_drafts) QSPEC_RETURN_IF_ERROR(events_[1].milliseconds_since(events_[0], &result->draft_ms));
  return events_[2].milliseconds_since(events_[has_drafts], &result->verify_ms);
}

Status CudaSession::copy_pages(const std::vector<int32_t>& from, const std::vector<int32_t>& to) {
  const BusyGuard busy(is_busy_);
  QSPEC_RETURN_IF_ERROR(busy.status());
  QSPEC_RETURN_IF_ERROR(validate_page_copy(from, to, config_.kv));
  QSPEC_RETURN_IF_ERROR(begin_call());
  for (size_t i = 0; i < from.size(); ++i) QSPEC_RETURN_IF_ERROR(kv_.copy_page(from[i], to[i], stream_.get()));
  return synchronize();
}

Status CudaSession::fill_cache_randomly(uint64_t seed) {
  QSPEC_RETURN_IF_ERROR(kv_.fill_randomly(seed));
  return synchronize();
}

// ---- Profiles ----------------------------------------------------------------------------------------------------------------------------

Status CudaSession::set_profiling(bool is_on) {
  for (Profile& profile : profiles_) profile = {};
  stamps_.reset();
  if (!is_on) return {};
  QSPEC_CUDA_CALL(cudaSetDevice(device_.ordinal));
  const size_t bytes = static_cast<size_t>(device_.num_multiprocessors) * stamps_stride(kMaxPhases) * 8;
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(bytes, "profiling", &stamps_));
  QSPEC_RETURN_IF_ERROR(stamps_.fill(0));  // a block leaves no stamp at a step that it hasn't
  for (Profile& profile : profiles_) profile.is_on = true;
  return {};
}

namespace {
OpKind op_of(const Phase& phase) {
  switch (phase.kind) {
    case PhaseKind::kEmbedding: return OpKind::kEmbedding;
    case PhaseKind::kRopeTable: return OpKind::kRopeKvWrite;
    case PhaseKind::kGather: return OpKind::kGatherRows;
    case PhaseKind::kLinear:
    case PhaseKind::kReduce: return OpKind::kLinear;
    case PhaseKind::kAttention: return OpKind::kAttention;
    case PhaseKind::kRows: break;
  }
  return phase.source.source == RowSource::kNorm ? OpKind::kRmsNorm : phase.source.source == RowSource::kSilu ? OpKind::kSiluMul : OpKind::kTransform;
}
}  // namespace

// One kernel at a time: its time by the clock, shared out by the device's own clock at every phase's end.
Status CudaSession::run_profiled(const Launch& launch) {
  Profile& profile = profiles_[launch.is_draft];
  const StepPlan& plan = *plans_[launch.is_draft];
  const std::vector<Phase>& phases = plan.phases(launch.row_class);
  QSPEC_RETURN_IF_ERROR(clear_posts(launch));
  for (const StepPlan::Stretch& stretch : plan.stretches(launch.row_class)) {
    if (launch.only_logits && !stretch.of_logits) continue;
    QSPEC_RETURN_IF_ERROR(synchronize());
    const auto start = Clock::now();
    QSPEC_RETURN_IF_ERROR(enqueue(launch, stretch));
    QSPEC_RETURN_IF_ERROR(synchronize());
    const double elapsed = std::chrono::duration<double, std::nano>(Clock::now() - start).count();
    std::vector<unsigned long long>& stamps = last_stamps_;
    stamps.assign(static_cast<size_t>(device_.num_multiprocessors) * stamps_stride(stretch.count), 0);
    if (stretch.kernel == StepPlan::Kernel::kStep && stretch.count <= kMaxPhases) QSPEC_RETURN_IF_ERROR(stamps_.download(stamps.data(), stamps.size() * 8));
    // By the first block's clock.
    const double total = std::max<double>(static_cast<double>(stamps[stretch.count * kStampSteps] - stamps[0]), 1);
    for (int i = 0; i < stretch.count; ++i) {
      Profile::Entry& entry = profile.entries[static_cast<int>(op_of(phases[stretch.first + i]))];
      const double share = stretch.count == 1 ? 1 : static_cast<double>(stamps[(i + 1) * kStampSteps] - stamps[i * kStampSteps]) / total;
      ++entry.calls;
      entry.nanoseconds += static_cast<int64_t>(elapsed * share);
    }
  }
  if (!launch.is_sampled) return {};
  const auto start = Clock::now();
  QSPEC_RETURN_IF_ERROR(enqueue_sampling(launch));
  QSPEC_RETURN_IF_ERROR(synchronize());
  profile.add(Profile::kSample, start);
  return {};
}

}  // namespace qspec::cuda
