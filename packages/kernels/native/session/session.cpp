#include "session/session.h"

#include <algorithm>

#include "session/rows.h"

namespace qspec {

namespace {
constexpr int64_t kMaxRows = int64_t{1} << 20;

Status check_limit(const char* option, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return Status::ok();
  return {StatusCode::kInvalidArgument, "Expected `" + std::string(option) + "` to be from 1 to " + std::to_string(limit) + " but received " + std::to_string(value) + "."};
}

Status out_of_memory(const char* what) {
  return {StatusCode::kOutOfMemory, "Expected memory for " + std::string(what) + " but the system has none left: use a smaller batch."};
}
}  // namespace

// One call at a time; the second gets a Status, not a race.
class BusyGuard {
 public:
  explicit BusyGuard(std::atomic<bool>& flag) : flag_(flag), is_first_(!flag.exchange(true)) {}
  ~BusyGuard() {
    if (is_first_) flag_.store(false);
  }
  Status status() const {
    return is_first_ ? Status::ok() : Status(StatusCode::kInternal, "Expected one call at a time on a session but another is pending: await it first.");
  }

 private:
  std::atomic<bool>& flag_;
  const bool is_first_;
};

Status Session::create(const OpTable& ops, std::shared_ptr<ThreadPool> pool, SessionConfig config, std::unique_ptr<Session>* out) {
  QSPEC_RETURN_IF_ERROR(check_limit("vocabSize", config.vocab_size, int64_t{1} << 26));
  QSPEC_RETURN_IF_ERROR(check_limit("maxRows", config.max_rows, kMaxRows));
  QSPEC_RETURN_IF_ERROR(check_limit("maxLogitRows", config.max_logit_rows, kMaxRows));
  QSPEC_RETURN_IF_ERROR(validate_kv_shape(config.kv));
  QSPEC_RETURN_IF_ERROR(validate_program(config.target, config.kv, config.vocab_size));
  if (config.draft) QSPEC_RETURN_IF_ERROR(validate_program(*config.draft, config.kv, config.vocab_size));
  std::unique_ptr<Session> session(new Session(ops, std::move(pool), std::move(config)));
  QSPEC_RETURN_IF_ERROR(session->allocate());
  *out = std::move(session);
  return Status::ok();
}

Status Session::allocate() {
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

void Session::set_profiling(bool is_on) {
  for (Profile& profile : profiles_) {
    profile = {};
    profile.is_on = is_on;
  }
}

Status Session::forward(const ForwardBatch& batch, ForwardResult* result) {
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

Status Session::copy_pages(const std::vector<int32_t>& from, const std::vector<int32_t>& to) {
  const BusyGuard busy(is_busy_);
  QSPEC_RETURN_IF_ERROR(busy.status());
  QSPEC_RETURN_IF_ERROR(validate_page_copy(from, to, config_.kv));
  for (size_t i = 0; i < from.size(); ++i) kv_.copy_page(from[i], to[i]);
  return Status::ok();
}

Status Session::round(const RoundBatch& batch, RoundResult* result) {
  const BusyGuard busy(is_busy_);
  QSPEC_RETURN_IF_ERROR(busy.status());
  QSPEC_RETURN_IF_ERROR(validate_round(batch, config_));
  const auto lock = pool_->use();
  RoundRun(*this, batch).run(result);
  return pool_->take_failure() ? out_of_memory("this round") : Status::ok();
}

}  // namespace qspec
