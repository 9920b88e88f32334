// One round of a checked batch, all but the arithmetic: which rows draft mode and the target see, how their tokens are drawn, and what is
// accepted. A session runs the programs and the sampler over what this says, so that every backend keeps the one rule of exactness.
#pragma once
#include <functional>
#include <vector>

#include "session/rows.h"

namespace qspec {

class RoundPlan {
 public:
  // Borrows `batch`.
  RoundPlan(const RoundBatch& batch, int page_size);

  int32_t num_draft_steps() const { return num_draft_steps_; }
  // Rows of the sequences whose proposal token `step` is to be drawn; false when there are none. They cover what draft mode has not seen
  // yet: the input, given tokens, the last draw. Steps come in order, each followed by record_draws.
  bool gather_draft_rows(int32_t step);
  // `drawn`: one token a logit row.
  void record_draws(int32_t step, const std::vector<int32_t>& drawn);

  // Every input and proposed token: the target writes over the draft's K and V. After the last step.
  void gather_verify_rows();

  // What was gathered last, borrowed until the next gathering.
  ReplayRows rows() const { return rows_.rows(); }
  int64_t num_logit_rows() const { return static_cast<int64_t>(rows_.logit_keys().size()); }

  // Arguments of sample_row for a logit row. Draft and verify draw at a position with the same sampler and the same random numbers.
  struct Draw {
    const SamplerParams& sampler;
    int64_t position;
    const int32_t* drafted;
    int num_drafted;
  };
  Draw draw(int64_t logit_row) const;

  // After gather_verify_rows: for each sequence the longest prefix of its proposal that equals the target's `picks` (one a logit row), then
  // one pick more. `logits_of` gives a logit row [vocab] in host memory; asked for only where log-probabilities are wanted.
  using LogitsOf = std::function<const float*(int64_t logit_row)>;
  void accept(const std::vector<int32_t>& picks, const LogitsOf& logits_of, int64_t vocab, RoundResult* result) const;

 private:
  // The last input's position; token `step` of the proposal sits `step + 1` after it.
  int32_t last_input_position(int32_t sequence) const;

  const RoundBatch& batch_;
  ChainRows rows_;
  int32_t num_draft_steps_ = 0;
  std::vector<int32_t> draft_offsets_;  // [num_sequences + 1] into proposal_
  std::vector<int32_t> proposal_;       // drafted tokens, -1 = not drawn yet
  std::vector<int32_t> num_fed_;        // [num_sequences] proposal tokens whose K and V draft mode has written, + 1 for the input
};

}  // namespace qspec
