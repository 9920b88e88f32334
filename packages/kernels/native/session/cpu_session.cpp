#include "session/cpu_session.h"

#include <algorithm>
#include <chrono>

#include "session/busy_guard.h"

namespace qspec {

namespace {
using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

Status out_of_memory(const char* what) {
  return {StatusCode::kOutOfMemory, "Expected memory for " + std::string(what) + " but the system has none left: use a smaller batch."};
}

Status check_kv_format(KvFormat format) {
  if (format != KvFormat::kInt8Nested) return Status::ok();
  return {StatusCode::kUnsupported, "Expected `kv.format` to be f32, bf16 or int8 on the CPU but received int8-nested: choose int8, or a CUDA device."};
}
}  // namespace

Status CpuSession::create(const OpTable& ops, std::shared_ptr<ThreadPool> pool, SessionConfig config, std::unique_ptr<Session>* out) {
  QSPEC_RETURN_IF_ERROR(check_kv_format(config.kv.format));
  QSPEC_RETURN_IF_ERROR(validate_session(config));
  std::unique_ptr<CpuSession> session(new CpuSession(ops, std::move(pool), std::move(config)));
  QSPEC_RETURN_IF_ERROR(session->allocate());
  *out = std::move(session);
  return Status::ok();
}

Status CpuSession::allocate() {
  const auto bytes_of = [this](const Program& program) { return Replay::scratch_bytes(program, config_.max_rows, config_.max_logit_rows); };
  const size_t bytes = std::max(bytes_of(config_.target), config_.draft ? bytes_of(*config_.draft) : 0);
  QSPEC_RETURN_IF_ERROR(kv_.create(config_.kv));
  // Contents don't survive a replay, so the programs share their scratch.
  if (!scratch_.allocate(bytes)) {
    return {StatusCode::kOutOfMemory, "Expected " + std::to_string(bytes >> 20) + " MiB of scratch but the system has not: lower `maxRows` or `maxLogitRows`."};
  }
  const auto bind = [this](const Program& program) {
    return std::make_unique<Replay>(program, ops_, kv_, scratch_.data(), config_.max_rows, config_.max_logit_rows);
  };
  target_ = bind(config_.target);
  if (config_.draft) draft_ = bind(*config_.draft);
  sampler_scratch_.resize(pool_->num_threads());
  return Status::ok();
}

Status CpuSession::set_profiling(bool is_on) {
  for (Profile& profile : profiles_) {
    profile = {};
    profile.is_on = is_on;
  }
  return Status::ok();
}

Status CpuSession::forward(const ForwardBatch& batch, ForwardResult* result) {
  const BusyGuard busy(is_busy_);
  QSPEC_RETURN_IF_ERROR(busy.status());
  QSPEC_RETURN_IF_ERROR(validate_forward(batch, config_));
  const int64_t num_logit_rows = static_cast<int64_t>(batch.logit_rows.size()), vocab = config_.vocab_size;
  result->argmax.resize(num_logit_rows);
  batch.has_labels ? result->logprobs.resize(num_logit_rows) : result->logits.resize(num_logit_rows * vocab);
  const std::vector<int32_t> slots = slots_of(batch, config_.kv.page_size);
  const ReplayRows rows{batch.tokens.data(), batch_rows(batch, slots), batch.logit_rows.data(), num_logit_rows};

  const auto lock = pool_->use();
  const float* const logits = (batch.is_draft ? *draft_ : *target_).run(rows, *pool_, profiles_[batch.is_draft]);
  pool_->run(static_cast<int>(std::min<int64_t>(num_logit_rows, ThreadPool::kMaxParts)), [&](Part part) {
    for (int64_t i = part.index; i < num_logit_rows; i += part.count) {
      const float* const row = logits + i * vocab;
      result->argmax[i] = argmax_row(row, vocab);
      if (batch.has_labels) {
        result->logprobs[i] = token_logprob(row, vocab, batch.labels[i], nullptr);
      } else {
        std::copy(row, row + vocab, result->logits.data() + i * vocab);
      }
    }
  });
  return pool_->take_failure() ? out_of_memory("this forward pass") : Status::ok();
}

Status CpuSession::copy_pages(const std::vector<int32_t>& from, const std::vector<int32_t>& to) {
  const BusyGuard busy(is_busy_);
  QSPEC_RETURN_IF_ERROR(busy.status());
  QSPEC_RETURN_IF_ERROR(validate_page_copy(from, to, config_.kv));
  for (size_t i = 0; i < from.size(); ++i) kv_.copy_page(from[i], to[i]);
  return Status::ok();
}

Status CpuSession::round(const RoundBatch& batch, RoundResult* result) {
  const BusyGuard busy(is_busy_);
  QSPEC_RETURN_IF_ERROR(busy.status());
  QSPEC_RETURN_IF_ERROR(validate_round(batch, config_));
  const auto lock = pool_->use();
  RoundPlan plan(batch, config_.kv.page_size);
  auto start = Clock::now();
  draft(plan);
  result->draft_ms = ms_since(start);
  start = Clock::now();
  verify(plan, result);
  result->verify_ms = ms_since(start);
  return pool_->take_failure() ? out_of_memory("this round") : Status::ok();
}

// One pass a step over every sequence that still draws.
void CpuSession::draft(RoundPlan& plan) {
  for (int32_t step = 0; step < plan.num_draft_steps(); ++step) {
    if (!plan.gather_draft_rows(step)) continue;
    const float* const logits = draft_->run(plan.rows(), *pool_, profiles_[1]);
    plan.record_draws(step, sample(plan, logits, profiles_[1]));
  }
}

void CpuSession::verify(RoundPlan& plan, RoundResult* result) {
  plan.gather_verify_rows();
  const float* const logits = target_->run(plan.rows(), *pool_, profiles_[0]);
  const int64_t vocab = config_.vocab_size;
  plan.accept(sample(plan, logits, profiles_[0]), [=](int64_t row) { return logits + row * vocab; }, vocab, result);
}

std::vector<int32_t> CpuSession::sample(const RoundPlan& plan, const float* logits, Profile& profile) {
  const auto start = Clock::now();
  const int64_t count = plan.num_logit_rows(), vocab = config_.vocab_size;
  std::vector<int32_t> picks(count);
  const int parts = static_cast<int>(std::min<int64_t>(count, pool_->num_threads()));
  pool_->run(parts, [&](Part part) {
    for (int64_t i = part.index; i < count; i += part.count) {
      const RoundPlan::Draw draw = plan.draw(i);
      picks[i] = sample_row(logits + i * vocab, vocab, draw.sampler, draw.position, draw.drafted, draw.num_drafted, sampler_scratch_[part.index]);
    }
  });
  if (profile.is_on) profile.add(Profile::kSample, start);
  return picks;
}

}  // namespace qspec
