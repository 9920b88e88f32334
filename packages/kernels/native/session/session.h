// Programs bound to scratch and a KV cache: forward passes and speculative rounds without leaving native code. Knows nothing of Node.
// Contract and field meanings: core/src/kernel-backend.ts. Every array is checked before any of it is used; one call at a time.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "qspec/sampling.h"
#include "session/replay.h"

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

class Session {
 public:
  // `ops` is a static table. Scratch and KV are reserved here, so nothing large is allocated while decoding.
  static Status create(const OpTable& ops, std::shared_ptr<ThreadPool> pool, SessionConfig config, std::unique_ptr<Session>* out);

  Status forward(const ForwardBatch& batch, ForwardResult* result);
  Status round(const RoundBatch& batch, RoundResult* result);
  Status copy_pages(const std::vector<int32_t>& from, const std::vector<int32_t>& to);

  size_t kv_bytes() const { return kv_.bytes(); }
  size_t scratch_bytes() const { return scratch_.bytes(); }

  // Between calls only.
  void set_profiling(bool is_on);
  const Profile& target_profile() const { return profiles_[0]; }
  const Profile& draft_profile() const { return profiles_[1]; }

 private:
  friend class RoundRun;
  Session(const OpTable& ops, std::shared_ptr<ThreadPool> pool, SessionConfig config)
      : ops_(ops), pool_(std::move(pool)), config_(std::move(config)) {}
  Status allocate();

  const OpTable& ops_;
  std::shared_ptr<ThreadPool> pool_;
  SessionConfig config_;
  KvPool kv_;
  Memory scratch_;
  std::unique_ptr<Replay> target_, draft_;
  std::vector<SamplerScratch> sampler_scratch_;  // one a thread part
  Profile profiles_[2];
  std::atomic<bool> is_busy_{false};
};

// Checks of a caller's arrays; ok means that replaying them touches only memory that is theirs.
Status validate_forward(const ForwardBatch& batch, const SessionConfig& config);
Status validate_round(const RoundBatch& batch, const SessionConfig& config);
Status validate_page_copy(const std::vector<int32_t>& from, const std::vector<int32_t>& to, const KvShape& kv);

}  // namespace qspec
