#include "session/round_plan.h"

#include <algorithm>
#include <limits>

#include "qspec/sampling.h"

namespace qspec {

namespace {

// Log-probability of `token` and its most likely alternatives; `num_top` -1: none wanted, and `logits` is not read.
void add_logprobs(const float* logits, int64_t vocab, int32_t token, int num_top, RoundResult* result) {
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

}  // namespace

RoundPlan::RoundPlan(const RoundBatch& batch, int page_size)
    : batch_(batch), rows_(batch.pages, page_size), draft_offsets_{0}, num_fed_(batch.num_sequences(), 0) {
  for (const int32_t gamma : batch.gammas) {
    draft_offsets_.push_back(draft_offsets_.back() + gamma);
    num_draft_steps_ = std::max(num_draft_steps_, gamma);
  }
  proposal_ = batch.draft_tokens;
  proposal_.resize(draft_offsets_.back(), -1);
}

int32_t RoundPlan::last_input_position(int32_t sequence) const {
  return batch_.start_positions[sequence] + batch_.token_offsets[sequence + 1] - batch_.token_offsets[sequence] - 1;
}

bool RoundPlan::gather_draft_rows(int32_t step) {
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

void RoundPlan::record_draws(int32_t step, const std::vector<int32_t>& drawn) {
  for (size_t i = 0; i < drawn.size(); ++i) proposal_[draft_offsets_[rows_.logit_keys()[i].sequence] + step] = drawn[i];
}

void RoundPlan::gather_verify_rows() {
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
}

RoundPlan::Draw RoundPlan::draw(int64_t logit_row) const {
  const auto [sequence, step] = rows_.logit_keys()[logit_row];
  return {batch_.samplers[sequence], int64_t{last_input_position(sequence)} + 1 + step, proposal_.data() + draft_offsets_[sequence], step};
}

void RoundPlan::accept(const std::vector<int32_t>& picks, const LogitsOf& logits_of, int64_t vocab, RoundResult* result) const {
  result->token_offsets.assign(1, 0);
  int64_t row = 0;
  for (int64_t s = 0; s < batch_.num_sequences(); ++s) {
    int32_t accepted = 0;
    if (batch_.emit[s]) {
      const int32_t gamma = batch_.gammas[s];
      const int num_top = batch_.samplers[s].num_logprobs;
      while (accepted < gamma && picks[row + accepted] == proposal_[draft_offsets_[s] + accepted]) ++accepted;
      for (int32_t i = 0; i <= accepted; ++i) {
        result->tokens.push_back(picks[row + i]);
        add_logprobs(num_top < 0 ? nullptr : logits_of(row + i), vocab, picks[row + i], num_top, result);
      }
      row += gamma + 1;
    }
    result->num_accepted.push_back(accepted);
    result->token_offsets.push_back(static_cast<int32_t>(result->tokens.size()));
  }
}

}  // namespace qspec
