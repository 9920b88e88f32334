// A session on a CUDA device. A round is γ draft steps, one verify pass and their samplings, launched one behind the other (drafts and verify each as a
// captured graph where the shape repeats): drawn tokens stay on the device, the host hears of them once, at the end.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "common/device.h"
#include "session/device_kv.h"
#include "session/graph_cache.h"
#include "session/launch_list.h"
#include "session/session.h"
#include "session/step_plan.h"

namespace qspec::cuda {

class CudaSession : public Session {
 public:
  // Scratch and KV are reserved here. kUnsupported for what has no kernels; kOutOfMemory says what was asked for and what to lower.
  static Status create(const DeviceInfo& device, SessionConfig config, std::unique_ptr<Session>* out);

  Status forward(const ForwardBatch& batch, ForwardResult* result) override;
  Status round(const RoundBatch& batch, RoundResult* result) override;
  Status copy_pages(const std::vector<int32_t>& from, const std::vector<int32_t>& to) override;

  size_t kv_bytes() const override { return kv_.bytes(); }
  size_t scratch_bytes() const override;

  Status set_profiling(bool is_on) override;
  const Profile& target_profile() const override { return profiles_[0]; }
  const Profile& draft_profile() const override { return profiles_[1]; }

  // For tests: of the last call.
  const std::vector<Launch>& launches() const { return list_->launches(); }
  // For benchmarks: random K and V in every slot; the phases of the last profiled launch and every block's clock (StepParams::stamps).
  Status fill_cache_randomly(uint64_t seed);
  const std::vector<unsigned long long>& last_stamps() const { return last_stamps_; }
  const std::vector<Phase>& phases(bool is_draft, int num_rows, bool is_long = false) const { return plans_[is_draft]->phases(row_class_of(num_rows, is_long)); }

 private:
  CudaSession(const DeviceInfo& device, SessionConfig config) : device_(device), config_(std::move(config)) {}
  Status allocate();
  Status allocate_workspace();
  StepParams step_params(const Launch& launch) const;
  Status clear_posts(const Launch& launch);
  Status enqueue(const Launch& launch, const StepPlan::Stretch& stretch);
  Status enqueue_sampling(const Launch& launch);
  SampleParams sample_params(const Launch& launch) const;
  Status enqueue(const Launch& launch);
  Status run(const std::vector<Launch>& launches);
  Status run_profiled(const Launch& launch);
  // First of what touches the device.
  Status begin_call();
  Status synchronize();

  void build_forward(const ForwardBatch& batch, PassRows* pass, std::vector<int32_t>* result_rows);
  Status build_round(const RoundBatch& batch);
  Status read_logits(const Launch& launch);
  Status collect_round(const RoundBatch& batch, RoundResult* result);

  const DeviceInfo device_;
  SessionConfig config_;
  Stream stream_;
  DeviceKv kv_;
  VectorStore vectors_;
  LoweredProgram lowered_[2];              // target, draft
  DeviceBuffer scratch_, workspace_memory_;
  std::vector<StepBuffers> buffers_;
  std::unique_ptr<StepPlan> plans_[2];
  StepWorkspace workspace_{};
  uint8_t* long_scratch_ = nullptr;        // of long launches: a GEMM's totals, then attention's saved sums
  unsigned long long* gemm_turns_ = nullptr;  // of tiles that blocks share
  SampleWorkspace sample_workspace_{};
  AttentionGeometry geometry_{};
  UploadArena arena_;
  std::unique_ptr<LaunchList> list_;
  GraphCache graphs_;
  PinnedBuffer results_, logits_;
  Event events_[3];                        // of a round: its beginning, behind its drafts, its end

  // Of the round that is being run.
  int64_t num_inputs_ = 0, num_drafts_ = 0, num_picks_ = 0;
  size_t num_draft_launches_ = 0;
  int32_t* pool_ = nullptr;
  bool is_settled_ = true;  // nothing of an earlier call is on its way

  DeviceBuffer stamps_;                    // profiling: clock at every phase's end, of one launch
  std::vector<unsigned long long> last_stamps_;
  Profile profiles_[2];
  std::atomic<bool> is_busy_{false};
};

}  // namespace qspec::cuda
