#include <algorithm>
#include <cmath>
#include <limits>

#include "session/rows.h"

namespace qspec {

namespace {
using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }
}  // namespace

RoundRun::RoundRun(Session& session, const RoundBatch& batch)
    : session_(session), batch_(batch), rows_(batch.pages, session.config_.kv.page_size), draft_offsets_{0}, num_fed_(batch.num_sequences(), 0) {
  for (const int32_t gamma : batch.gammas) draft_offsets_.push_back(draft_offsets_.back() + gamma);
  proposal_ = batch.draft_tokens;
  proposal_.resize(draft_offsets_.back(), -1);
}

void RoundRun::run(RoundResult* result) {
  auto start = Clock::now();
  draft();
  result->draft_ms = ms_since(start);
  start = Clock::now();
  accept(verify(), result);
  result->verify_ms = ms_since(start);
}

int32_t RoundRun::last_input_position(int32_t sequence) const {
  return batch_.start_positions[sequence] + batch_.token_offsets[sequence + 1] - batch_.token_offsets[sequence] - 1;
}

// One pass a step over every sequence that still draws. Draws use the sampler, position and random numbers that verify will use.
void RoundRun::draft() {
  const int32_t steps = batch_.gammas.empty() ? 0 : *std::max_element(batch_.gammas.begin(), batch_.gammas.end());
  for (int32_t step = 0; step < steps; ++step) {
    if (!gather_draft_rows(step)) continue;
    const float* const logits = session_.draft_->run(rows_.rows(), *session_.pool_, session_.profiles_[1]);
    const std::vector<int32_t> drawn = sample(logits, session_.profiles_[1]);
    for (size_t i = 0; i < drawn.size(); ++i) proposal_[draft_offsets_[rows_.logit_keys()[i].sequence] + step] = drawn[i];
  }
}

// Rows of the sequences whose token `step` is to be drawn: what draft mode has not seen yet (the input, given tokens, the last draw).
bool RoundRun::gather_draft_rows(int32_t step) {
  rows_.clear();
  for (int32_t s = 0; s < static_cast<int32_t>(batch_.num_sequences()); ++s) {
    const int32_t* const proposal = proposal_.data() + draft_offsets_[s];
    if (step >= batch_.gammas[s] || proposal[step] >= 0) continue;
    for (int32_t& fed = num_fed_[s]; fed <= step; ++fed) {
      const int32_t token = fed == 0 ? batch_.tokens[batch_.token_offsets[s + 1] - 1] : proposal[fed - 1];
      rows_.add(s, last_input_position(s) + fed, token);
    }
    rows_.want_logits(step);
  }
  return !rows_.empty();
}

// The target over every input and proposed token, writing over the draft's K and V.
const float* RoundRun::verify() {
  rows_.clear();
  for (int32_t s = 0; s < static_cast<int32_t>(batch_.num_sequences()); ++s) {
    const int32_t first = batch_.token_offsets[s], last = batch_.token_offsets[s + 1] - 1;
    for (int32_t i = first; i <= last; ++i) rows_.add(s, batch_.start_positions[s] + i - first, batch_.tokens[i]);
    if (!batch_.emit[s]) continue;
    rows_.want_logits(0);
    for (int32_t step = 0; step < batch_.gammas[s]; ++step) {
      rows_.add(s, last_input_position(s) + 1 + step, proposal_[draft_offsets_[s] + step]);
      rows_.want_logits(step + 1);
    }
  }
  return session_.target_->run(rows_.rows(), *session_.pool_, session_.profiles_[0]);
}

std::vector<int32_t> RoundRun::sample(const float* logits, Profile& profile) {
  const auto start = Clock::now();
  const int64_t count = static_cast<int64_t>(rows_.logit_keys().size()), vocab = session_.config_.vocab_size;
  std::vector<int32_t> picks(count);
  const int parts = static_cast<int>(std::min<int64_t>(count, session_.pool_->num_threads()));
  session_.pool_->run(parts, [&](Part part) {
    for (int64_t i = part.index; i < count; i += part.count) {
      const auto [s, step] = rows_.logit_keys()[i];
      const int32_t* const drafted = proposal_.data() + draft_offsets_[s];
      picks[i] = sample_row(logits + i * vocab, vocab, batch_.samplers[s], int64_t{last_input_position(s)} + 1 + step, drafted, step,
                            session_.sampler_scratch_[part.index]);
    }
  });
  if (profile.is_on) profile.add(Profile::kSample, start);
  return picks;
}

// The longest prefix of the proposal that equals the target's own picks, then one pick more.
void RoundRun::accept(const float* logits, RoundResult* result) {
  const std::vector<int32_t> picks = sample(logits, session_.profiles_[0]);
  result->token_offsets.assign(1, 0);
  int64_t row = 0;
  for (int64_t s = 0; s < batch_.num_sequences(); ++s) {
    int32_t accepted = 0;
    if (batch_.emit[s]) {
      const int32_t gamma = batch_.gammas[s];
      while (accepted < gamma && picks[row + accepted] == proposal_[draft_offsets_[s] + accepted]) ++accepted;
      for (int32_t i = 0; i <= accepted; ++i) {
        result->tokens.push_back(picks[row + i]);
        add_logprobs(logits + (row + i) * session_.config_.vocab_size, picks[row + i], batch_.samplers[s].num_logprobs, result);
      }
      row += gamma + 1;
    }
    result->num_accepted.push_back(accepted);
    result->token_offsets.push_back(static_cast<int32_t>(result->tokens.size()));
  }
}

void RoundRun::add_logprobs(const float* logits, int32_t token, int num_top, RoundResult* result) const {
  const int64_t vocab = session_.config_.vocab_size;
  const int count = static_cast<int>(std::clamp<int64_t>(num_top, 0, vocab));
  result->top_counts.push_back(count);
  if (num_top < 0) {
    result->logprobs.push_back(std::numeric_limits<double>::quiet_NaN());
    return;
  }
  double lse = 0;
  result->logprobs.push_back(token_logprob(logits, vocab, token, &lse));
  if (count == 0) return;
  const size_t begin = result->top_tokens.size();
  result->top_tokens.resize(begin + count);
  result->top_logprobs.resize(begin + count);
  top_logprobs(logits, vocab, lse, count, result->top_tokens.data() + begin, result->top_logprobs.data() + begin);
}

}  // namespace qspec
