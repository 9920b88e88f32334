#include <algorithm>
#include <cmath>
#include <string>

#include "session/session.h"

namespace qspec {

namespace {

Status wrong(const std::string& expectation, int64_t received) {
  return {StatusCode::kInvalidArgument, "Expected " + expectation + " but received " + std::to_string(received) + "."};
}

std::string at(const char* field, int64_t index) { return "`" + std::string(field) + "[" + std::to_string(index) + "]`"; }

Status check_length(const char* field, size_t actual, int64_t expected) {
  if (static_cast<int64_t>(actual) == expected) return Status::ok();
  return {StatusCode::kInvalidArgument,
          "Expected `" + std::string(field) + "` to have " + std::to_string(expected) + " elements but received " + std::to_string(actual) + "."};
}

// low <= every value < high.
Status check_range(const char* field, const std::vector<int32_t>& values, int64_t low, int64_t high) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < low || values[i] >= high) {
      return wrong(at(field, static_cast<int64_t>(i)) + " to be from " + std::to_string(low) + " to " + std::to_string(high - 1), values[i]);
    }
  }
  return Status::ok();
}

// [count + 1] prefix sums that begin at 0, never fall, and end at `total`.
Status check_offsets(const char* field, const std::vector<int32_t>& offsets, int64_t total) {
  if (offsets.empty() || offsets[0] != 0) return {StatusCode::kInvalidArgument, "Expected `" + std::string(field) + "` to begin with 0."};
  for (size_t i = 1; i < offsets.size(); ++i) {
    if (offsets[i] < offsets[i - 1]) return wrong(at(field, static_cast<int64_t>(i)) + " to be at least the one before", offsets[i]);
  }
  return offsets.back() == total ? Status::ok() : wrong("`" + std::string(field) + "` to end at " + std::to_string(total), offsets.back());
}

Status check_pages(const PageTables& pages, const KvShape& kv) {
  QSPEC_RETURN_IF_ERROR(check_offsets("pageOffsets", pages.page_offsets, static_cast<int64_t>(pages.page_ids.size())));
  return check_range("pageIds", pages.page_ids, 0, kv.num_pages);
}

int64_t capacity_of(const PageTables& pages, int64_t sequence, int page_size) {
  return int64_t{pages.page_offsets[sequence + 1] - pages.page_offsets[sequence]} * page_size;
}

// Two rows that write one slot would race; the later reader could see either.
Status check_distinct_slots(std::vector<int64_t> slots) {
  std::sort(slots.begin(), slots.end());
  const auto twice = std::adjacent_find(slots.begin(), slots.end());
  return twice == slots.end() ? Status::ok() : wrong("every row to write a slot of its own, but two of them write", *twice);
}

int64_t page_slot(const PageTables& pages, int64_t sequence, int64_t position, int page_size) {
  return int64_t{pages.page_ids[pages.page_offsets[sequence] + position / page_size]} * page_size + position % page_size;
}

// Ancestors of row `row`: [start, position] have entries, positions before `start` come from the page table.
Status check_ancestors(const ForwardBatch& batch, int64_t row, const KvShape& kv) {
  const int32_t start = batch.ancestor_starts[row], position = batch.positions[row];
  if (start < 0 || start > position) return wrong(at("ancestorStarts", row) + " to be from 0 to " + std::to_string(position), start);
  if (position - start >= batch.max_ancestors) {
    return wrong(at("ancestorStarts", row) + " to leave at most maxAncestors = " + std::to_string(batch.max_ancestors) + " entries", start);
  }
  for (int32_t i = 0; i <= position - start; ++i) {
    const int64_t index = row * batch.max_ancestors + i;
    const int32_t slot = batch.ancestor_slots[index];
    if (slot < 0 || slot >= kv.num_slots()) return wrong(at("ancestorSlots", index) + " to be from 0 to " + std::to_string(kv.num_slots() - 1), slot);
  }
  return Status::ok();
}

Status check_row(const ForwardBatch& batch, int64_t row, const KvShape& kv, int64_t* slot) {
  const int64_t position = batch.positions[row], sequence = batch.sequences[row];
  int64_t paged_length = position + 1;
  if (batch.has_ancestors) {
    QSPEC_RETURN_IF_ERROR(check_ancestors(batch, row, kv));
    paged_length = batch.ancestor_starts[row];
  }
  const int64_t capacity = capacity_of(batch.pages, sequence, kv.page_size);
  if (paged_length > capacity) return wrong("the pages of sequence " + std::to_string(sequence) + " to cover " + std::to_string(paged_length) + " positions but they cover fewer; " + at("positions", row) + " to fit", position);
  *slot = batch.has_ancestors ? batch.ancestor_slots[row * batch.max_ancestors + position - batch.ancestor_starts[row]]
                              : page_slot(batch.pages, sequence, position, kv.page_size);
  return Status::ok();
}

Status check_at_most(const char* what, int64_t count, const char* option, int64_t limit) {
  if (count <= limit) return Status::ok();
  return wrong("at most `" + std::string(option) + "` = " + std::to_string(limit) + " " + what, count);
}

Status check_sampler_range(const char* field, int64_t sequence, double value, double low, double high) {
  if (value >= low && value <= high) return Status::ok();
  return {StatusCode::kInvalidArgument, "Expected `" + std::string(field) + "` of sampler " + std::to_string(sequence) + " to be from " +
                                            std::to_string(low) + " to " + std::to_string(high) + " but received " + std::to_string(value) + "."};
}

Status check_sampler_values(const SamplerParams& s, int64_t i, int64_t vocab) {
  QSPEC_RETURN_IF_ERROR(check_sampler_range("temperature", i, s.temperature, 0, 100));
  QSPEC_RETURN_IF_ERROR(check_sampler_range("topK", i, s.top_k, 0, INT32_MAX));
  QSPEC_RETURN_IF_ERROR(check_sampler_range("topP", i, s.top_p, 0, 1));
  QSPEC_RETURN_IF_ERROR(check_sampler_range("minP", i, s.min_p, 0, 1));
  QSPEC_RETURN_IF_ERROR(check_sampler_range("repetitionPenalty", i, s.repetition_penalty, 1e-7, 1e7));
  QSPEC_RETURN_IF_ERROR(check_sampler_range("presencePenalty", i, s.presence_penalty, -100, 100));
  QSPEC_RETURN_IF_ERROR(check_sampler_range("frequencyPenalty", i, s.frequency_penalty, -100, 100));
  QSPEC_RETURN_IF_ERROR(check_sampler_range("logprobs", i, s.num_logprobs, -1, 1024));
  QSPEC_RETURN_IF_ERROR(check_sampler_range("numPromptTokens", i, s.num_prompt, 0, INT32_MAX));
  for (int j = 0; j < s.num_bias; ++j) {
    QSPEC_RETURN_IF_ERROR(check_sampler_range("logitBias id", i, s.bias_ids[j], 0, static_cast<double>(vocab - 1)));
    if (std::isnan(s.bias_values[j])) return wrong("`logitBias` of sampler " + std::to_string(i) + " to have no NaN, but that of id is:", s.bias_ids[j]);
  }
  for (int j = 0; j < s.num_history; ++j) QSPEC_RETURN_IF_ERROR(check_sampler_range("history", i, s.history[j], 0, static_cast<double>(vocab - 1)));
  return Status::ok();
}

Status check_entry(const RoundBatch& batch, int64_t s, const SessionConfig& config) {
  const int64_t num_inputs = batch.token_offsets[s + 1] - batch.token_offsets[s], gamma = batch.gammas[s];
  if (num_inputs < 1) return wrong("sequence " + std::to_string(s) + " to have at least one input token", num_inputs);
  if (gamma < 0) return wrong(at("gammas", s) + " to be 0 or more", gamma);
  if (batch.emit[s] > 1) return wrong(at("emit", s) + " to be 0 or 1", batch.emit[s]);
  if (gamma > 0 && (num_inputs != 1 || !batch.emit[s])) {
    return wrong(at("gammas", s) + " to be 0 for an entry without `emit` or with several inputs", gamma);
  }
  const int64_t end = batch.start_positions[s] + num_inputs + gamma, capacity = capacity_of(batch.pages, s, config.kv.page_size);
  if (batch.start_positions[s] < 0) return wrong(at("startPositions", s) + " to be 0 or more", batch.start_positions[s]);
  if (end > capacity) return wrong("the pages of sequence " + std::to_string(s) + " to cover " + std::to_string(end) + " positions", capacity);
  return check_sampler_values(batch.samplers[s], s, config.vocab_size);
}

}  // namespace

Status validate_forward(const ForwardBatch& batch, const SessionConfig& config) {
  const int64_t rows = static_cast<int64_t>(batch.tokens.size());
  if (batch.is_draft && !config.draft) return {StatusCode::kInvalidArgument, "Expected `program` to be target but received draft: the session has no draft program."};
  QSPEC_RETURN_IF_ERROR(check_at_most("rows", rows, "maxRows", config.max_rows));
  QSPEC_RETURN_IF_ERROR(check_at_most("logit rows", static_cast<int64_t>(batch.logit_rows.size()), "maxLogitRows", config.max_logit_rows));
  QSPEC_RETURN_IF_ERROR(check_pages(batch.pages, config.kv));
  QSPEC_RETURN_IF_ERROR(check_length("positions", batch.positions.size(), rows));
  QSPEC_RETURN_IF_ERROR(check_length("sequences", batch.sequences.size(), rows));
  QSPEC_RETURN_IF_ERROR(check_range("tokens", batch.tokens, 0, config.vocab_size));
  QSPEC_RETURN_IF_ERROR(check_range("positions", batch.positions, 0, INT32_MAX));
  QSPEC_RETURN_IF_ERROR(check_range("sequences", batch.sequences, 0, static_cast<int64_t>(batch.pages.page_offsets.size()) - 1));
  QSPEC_RETURN_IF_ERROR(check_range("logitRows", batch.logit_rows, 0, rows));
  if (batch.has_ancestors) {
    if (batch.max_ancestors < 1 || batch.max_ancestors > 1 << 20) return wrong("`maxAncestors` to be from 1 to 1048576", batch.max_ancestors);
    QSPEC_RETURN_IF_ERROR(check_length("ancestorStarts", batch.ancestor_starts.size(), rows));
    QSPEC_RETURN_IF_ERROR(check_length("ancestorSlots", batch.ancestor_slots.size(), rows * batch.max_ancestors));
  }
  if (batch.has_labels) {
    QSPEC_RETURN_IF_ERROR(check_length("labels", batch.labels.size(), static_cast<int64_t>(batch.logit_rows.size())));
    QSPEC_RETURN_IF_ERROR(check_range("labels", batch.labels, 0, config.vocab_size));
  }
  std::vector<int64_t> slots(rows);
  for (int64_t row = 0; row < rows; ++row) QSPEC_RETURN_IF_ERROR(check_row(batch, row, config.kv, &slots[row]));
  return check_distinct_slots(std::move(slots));
}

Status validate_round(const RoundBatch& batch, const SessionConfig& config) {
  const int64_t num_sequences = batch.num_sequences();
  QSPEC_RETURN_IF_ERROR(check_pages(batch.pages, config.kv));
  QSPEC_RETURN_IF_ERROR(check_length("pageOffsets", batch.pages.page_offsets.size(), num_sequences + 1));
  QSPEC_RETURN_IF_ERROR(check_length("tokenOffsets", batch.token_offsets.size(), num_sequences + 1));
  QSPEC_RETURN_IF_ERROR(check_length("emit", batch.emit.size(), num_sequences));
  QSPEC_RETURN_IF_ERROR(check_length("gammas", batch.gammas.size(), num_sequences));
  QSPEC_RETURN_IF_ERROR(check_length("samplers", batch.samplers.size(), num_sequences));
  QSPEC_RETURN_IF_ERROR(check_offsets("tokenOffsets", batch.token_offsets, static_cast<int64_t>(batch.tokens.size())));
  QSPEC_RETURN_IF_ERROR(check_range("tokens", batch.tokens, 0, config.vocab_size));
  int64_t num_drafts = 0, num_logit_rows = 0;
  for (int64_t s = 0; s < num_sequences; ++s) {
    QSPEC_RETURN_IF_ERROR(check_entry(batch, s, config));
    num_drafts += batch.gammas[s];
    num_logit_rows += batch.emit[s] ? batch.gammas[s] + 1 : 0;
  }
  QSPEC_RETURN_IF_ERROR(check_at_most("rows, inputs and drafts together,", static_cast<int64_t>(batch.tokens.size()) + num_drafts, "maxRows", config.max_rows));
  QSPEC_RETURN_IF_ERROR(check_at_most("rows with logits", num_logit_rows, "maxLogitRows", config.max_logit_rows));
  if (!batch.draft_tokens.empty()) {
    QSPEC_RETURN_IF_ERROR(check_length("draftTokens", batch.draft_tokens.size(), num_drafts));
    QSPEC_RETURN_IF_ERROR(check_range("draftTokens", batch.draft_tokens, -1, config.vocab_size));
  }
  const bool is_drawing = num_drafts > 0 && (batch.draft_tokens.empty() ||
                                             std::find(batch.draft_tokens.begin(), batch.draft_tokens.end(), -1) != batch.draft_tokens.end());
  if (is_drawing && !config.draft) return {StatusCode::kInvalidArgument, "Expected `gammas` to be 0 or `draftTokens` to be given: the session has no draft program."};
  std::vector<int64_t> slots;
  for (int64_t s = 0; s < num_sequences; ++s) {
    const int64_t length = batch.token_offsets[s + 1] - batch.token_offsets[s] + batch.gammas[s];
    for (int64_t i = 0; i < length; ++i) slots.push_back(page_slot(batch.pages, s, batch.start_positions[s] + i, config.kv.page_size));
  }
  return check_distinct_slots(std::move(slots));
}

Status validate_page_copy(const std::vector<int32_t>& from, const std::vector<int32_t>& to, const KvShape& kv) {
  QSPEC_RETURN_IF_ERROR(check_length("to", to.size(), static_cast<int64_t>(from.size())));
  QSPEC_RETURN_IF_ERROR(check_range("from", from, 0, kv.num_pages));
  QSPEC_RETURN_IF_ERROR(check_range("to", to, 0, kv.num_pages));
  for (size_t i = 0; i < to.size(); ++i) {
    if (std::find(from.begin(), from.end(), to[i]) != from.end() && from[i] != to[i]) {
      return wrong(at("to", static_cast<int64_t>(i)) + " not to be a page that is also copied from", to[i]);
    }
  }
  return Status::ok();
}

}  // namespace qspec
