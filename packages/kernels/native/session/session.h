// Programs bound to scratch and a KV cache: forward passes and speculative rounds without leaving native code. Knows nothing of Node, of
// threads or of a device. Contract and field meanings: core/src/kernel-backend.ts. Every array is checked before any of it is used.
#pragma once
#include <memory>
#include <vector>

#include "qspec/params.h"
#include "session/profile.h"
#include "session/program.h"

namespace qspec {

struct SessionConfig {
  Program target;
  std::unique_ptr<Program> draft;  // optional
  KvShape kv;
  int64_t vocab_size = 0, max_rows = 0, max_logit_rows = 0;
};

struct PageTables {
  std::vector<int32_t> page_offsets;  // [num_sequences + 1]
  std::vector<int32_t> page_ids;
};

struct ForwardBatch {
  bool is_draft = false;
  PageTables pages;
  std::vector<int32_t> tokens, positions, sequences;  // [num_rows]
  bool has_ancestors = false;
  int max_ancestors = 0;
  std::vector<int32_t> ancestor_starts;  // [num_rows]
  std::vector<int32_t> ancestor_slots;   // [num_rows, max_ancestors]
  std::vector<int32_t> logit_rows;       // ascending
  bool has_labels = false;
  std::vector<int32_t> labels;  // [num_logit_rows]
};

struct ForwardResult {
  std::vector<float> logits;     // [num_logit_rows, vocab], without labels
  std::vector<double> logprobs;  // [num_logit_rows], with labels
  std::vector<int32_t> argmax;   // [num_logit_rows]
};

struct RoundBatch {
  PageTables pages;
  std::vector<int32_t> token_offsets;    // [num_sequences + 1]
  std::vector<int32_t> tokens;
  std::vector<int32_t> start_positions;  // [num_sequences], as are the next two
  std::vector<uint8_t> emit;
  std::vector<int32_t> gammas;
  std::vector<int32_t> draft_tokens;     // [sum of gammas], -1 = to be drawn; or empty: all to be drawn
  std::vector<SamplerParams> samplers;   // [num_sequences]; their pointers outlive the call
  int64_t num_sequences() const { return static_cast<int64_t>(start_positions.size()); }
};

struct RoundResult {
  std::vector<int32_t> token_offsets;  // [num_sequences + 1]
  std::vector<int32_t> tokens;
  std::vector<int32_t> num_accepted;   // [num_sequences]
  std::vector<double> logprobs;        // [tokens], NaN where not wanted
  std::vector<int32_t> top_counts;     // [tokens]
  std::vector<int32_t> top_tokens;
  std::vector<float> top_logprobs;
  double draft_ms = 0, verify_ms = 0;
};

// One call at a time; the second gets a kInternal Status. Each backend has its own.
class Session {
 public:
  virtual ~Session() = default;

  virtual Status forward(const ForwardBatch& batch, ForwardResult* result) = 0;
  virtual Status round(const RoundBatch& batch, RoundResult* result) = 0;
  virtual Status copy_pages(const std::vector<int32_t>& from, const std::vector<int32_t>& to) = 0;

  virtual size_t kv_bytes() const = 0;
  virtual size_t scratch_bytes() const = 0;

  // Between calls only. Switching on clears.
  virtual Status set_profiling(bool is_on) = 0;
  virtual const Profile& target_profile() const = 0;
  virtual const Profile& draft_profile() const = 0;
};

// What every backend asks of a session before it reserves anything: limits, the KV shape, both programs.
Status validate_session(const SessionConfig& config);

// Checks of a caller's arrays; ok means that replaying them touches only memory that is theirs.
Status validate_forward(const ForwardBatch& batch, const SessionConfig& config);
Status validate_round(const RoundBatch& batch, const SessionConfig& config);
Status validate_page_copy(const std::vector<int32_t>& from, const std::vector<int32_t>& to, const KvShape& kv);

}  // namespace qspec
