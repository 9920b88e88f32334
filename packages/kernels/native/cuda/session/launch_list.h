// One call's work as a list of kernel launches, with everything that they read gathered in the upload arena first: no launch waits for the host.
#pragma once
#include <algorithm>
#include <vector>

#include "sampling/sample_params.h"
#include "session/attention_plan.h"
#include "session/rows.h"
#include "session/upload_arena.h"
#include "step/step_config.h"

namespace qspec::cuda {

// A forward pass over any number of rows, to be cut into launches. Rows of a sequence must lie together, ascending by position.
struct PassRows {
  std::vector<int32_t> token_index;  // into the call's pool of tokens
  std::vector<int32_t> positions, sequences, slots;
  std::vector<int32_t> logit_rows;   // ascending
  std::vector<SampleRow> samples;    // one a logit row, or empty: nothing is sampled
  bool has_ancestors = false;
  int max_ancestors = 0;
  std::vector<int32_t> ancestor_starts, ancestor_slots;
  int64_t rows() const { return static_cast<int64_t>(positions.size()); }
};

struct Launch {
  bool is_draft = false;
  bool only_logits = false;            // of rows of the launch before, which had too many
  int rows = 0, row_class = 0;
  TeamShare attention{};
  FoldShape folds{};                   // of a long launch
  int slot = 0;                        // of its structs in the arena's fixed part
  int first_logit_row = 0, num_logit_rows = 0;
  bool is_sampled = false, has_general = false;
};

// Device addresses that all launches of a call share.
struct CallArrays {
  int32_t* tokens = nullptr;           // the pool
  const int32_t* page_ids = nullptr;
  const DeviceSampler* samplers = nullptr;
  const int32_t* bias_ids = nullptr;
  const float* bias_values = nullptr;
  const int32_t* history = nullptr;
};

constexpr size_t kLaunchStructBytes = 256;  // StepBatch and SampleBatch of one launch
static_assert(sizeof(StepBatch) <= 192 && sizeof(SampleBatch) <= 64, "both fit a slot");
inline size_t step_struct_offset(int slot) { return slot * kLaunchStructBytes; }
inline size_t sample_struct_offset(int slot) { return slot * kLaunchStructBytes + 192; }

// Most rows of a program's launch, and of a long one (0: it has none), which has at least so many.
struct LaunchRows {
  int rows = kMaxStepRows, long_rows = 0, least_long = 0;
  int most() const { return std::max(rows, long_rows); }
};

class LaunchList {
 public:
  // `max_rows`: of the target, and of the draft.
  LaunchList(UploadArena& arena, const AttentionGeometry& geometry, int page_shift, const LaunchRows (&max_rows)[2], int max_launches)
      : arena_(arena), geometry_(geometry), page_shift_(page_shift), max_rows_{max_rows[0], max_rows[1]}, max_launches_(max_launches) {}

  void begin(const CallArrays& arrays, const std::vector<int32_t>& page_offsets) {
    arrays_ = arrays, page_offsets_ = &page_offsets;
    launches_.clear();
  }
  // Cuts the pass into launches of at most `max_rows` rows (trees: 32), about equal. Logits are made for 64 rows at once: where there are more, a long launch is followed by
  // others that make the rest of its logits, and one that isn't has fewer rows.
  Status add(bool is_draft, const PassRows& pass);
  const std::vector<Launch>& launches() const { return launches_; }

 private:
  int most_rows(bool is_draft, const PassRows& pass) const;
  Status add_launch(bool is_draft, const PassRows& pass, int first, int count, bool is_long);
  Status add_logits(const PassRows& pass, int first, int count, Launch launch, StepBatch batch);
  void add_samples(const PassRows& pass, const Launch& launch);

  UploadArena& arena_;
  const AttentionGeometry& geometry_;
  const int page_shift_;
  const LaunchRows max_rows_[2];
  const int max_launches_;
  CallArrays arrays_;
  const std::vector<int32_t>* page_offsets_ = nullptr;
  std::vector<Launch> launches_;
};

}  // namespace qspec::cuda
