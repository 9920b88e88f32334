// Describing rows to the ops: slots from page tables, and batches that grow a row at a time.
#pragma once
#include <vector>

#include "session/session.h"

namespace qspec {

// What one forward pass works on. `batch.rows` tokens; logits for `logit_rows`, which index them.
struct ReplayRows {
  const int32_t* tokens;
  BatchRows batch;
  const int32_t* logit_rows;
  int64_t num_logit_rows;
};

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

}  // namespace qspec
