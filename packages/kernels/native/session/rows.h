// Describing rows to the ops: slots from page tables, and batches that grow a row at a time.
#pragma once
#include <vector>

#include "session/session.h"

namespace qspec {

inline int32_t paged_slot(const PageTables& pages, int32_t sequence, int32_t position, int page_size) {
  return pages.page_ids[pages.page_offsets[sequence] + position / page_size] * page_size + position % page_size;
}

// Slot that each row of a checked batch writes.
inline std::vector<int32_t> slots_of(const ForwardBatch& batch, int page_size) {
  std::vector<int32_t> slots(batch.tokens.size());
  for (size_t row = 0; row < slots.size(); ++row) {
    const int32_t position = batch.positions[row];
    slots[row] = batch.has_ancestors ? batch.ancestor_slots[row * batch.max_ancestors + position - batch.ancestor_starts[row]]
                                     : paged_slot(batch.pages, batch.sequences[row], position, page_size);
  }
  return slots;
}

// Borrows everything.
inline BatchRows batch_rows(const ForwardBatch& batch, const std::vector<int32_t>& slots) {
  return {batch.positions.data(),
          batch.sequences.data(),
          slots.data(),
          batch.pages.page_offsets.data(),
          batch.pages.page_ids.data(),
          batch.has_ancestors ? batch.ancestor_starts.data() : nullptr,
          batch.has_ancestors ? batch.ancestor_slots.data() : nullptr,
          batch.max_ancestors,
          static_cast<int64_t>(batch.tokens.size())};
}

// Rows of chains, in the order they were added. `logit_keys` says what each logit row is for: (sequence, step).
class ChainRows {
 public:
  struct LogitKey {
    int32_t sequence, step;
  };

  ChainRows(const PageTables& pages, int page_size) : pages_(pages), page_size_(page_size) {}
  void clear() {
    for (auto* list : {&tokens_, &positions_, &sequences_, &slots_, &logit_rows_}) list->clear();
    keys_.clear();
  }
  void add(int32_t sequence, int32_t position, int32_t token) {
    tokens_.push_back(token);
    positions_.push_back(position);
    sequences_.push_back(sequence);
    slots_.push_back(paged_slot(pages_, sequence, position, page_size_));
  }
  // The row added last gets logits, for `step`.
  void want_logits(int32_t step) {
    logit_rows_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
    keys_.push_back({sequences_.back(), step});
  }
  bool empty() const { return tokens_.empty(); }
  const std::vector<LogitKey>& logit_keys() const { return keys_; }
  ReplayRows rows() const {
    const BatchRows batch{positions_.data(), sequences_.data(), slots_.data(), pages_.page_offsets.data(), pages_.page_ids.data(),
                          nullptr, nullptr, 0, static_cast<int64_t>(tokens_.size())};
    return {tokens_.data(), batch, logit_rows_.data(), static_cast<int64_t>(logit_rows_.size())};
  }

 private:
  const PageTables& pages_;
  const int page_size_;
  std::vector<int32_t> tokens_, positions_, sequences_, slots_, logit_rows_;
  std::vector<LogitKey> keys_;
};

// One round of a checked batch: draft, verify, accept.
class RoundRun {
 public:
  RoundRun(Session& session, const RoundBatch& batch);
  void run(RoundResult* result);

 private:
  void draft();
  bool gather_draft_rows(int32_t step);
  const float* verify();
  void accept(const float* logits, RoundResult* result);
  void add_logprobs(const float* logits, int32_t token, int num_top, RoundResult* result) const;
  // Samples every logit row of `rows_`: one token each.
  std::vector<int32_t> sample(const float* logits, Profile& profile);
  // The last input's position; token `step` of the proposal sits `step + 1` after it.
  int32_t last_input_position(int32_t sequence) const;

  Session& session_;
  const RoundBatch& batch_;
  ChainRows rows_;
  std::vector<int32_t> draft_offsets_;  // [num_sequences + 1] into proposal_
  std::vector<int32_t> proposal_;       // drafted tokens, -1 = not drawn yet
  std::vector<int32_t> num_fed_;        // [num_sequences] proposal tokens whose K and V draft mode has written, + 1 for the input
};

}  // namespace qspec
