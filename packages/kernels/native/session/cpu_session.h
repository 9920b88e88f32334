// A session on the processor: replays over the pool's threads, K and V in the system's memory.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "qspec/sampling.h"
#include "session/replay.h"
#include "session/round_plan.h"
#include "session/session.h"

namespace qspec {

class CpuSession : public Session {
 public:
  // `ops` is a static table. Scratch and KV are reserved here.
  static Status create(const OpTable& ops, std::shared_ptr<ThreadPool> pool, SessionConfig config, std::unique_ptr<Session>* out);

  Status forward(const ForwardBatch& batch, ForwardResult* result) override;
  Status round(const RoundBatch& batch, RoundResult* result) override;
  Status copy_pages(const std::vector<int32_t>& from, const std::vector<int32_t>& to) override;

  size_t kv_bytes() const override { return kv_.bytes(); }
  size_t scratch_bytes() const override { return scratch_.bytes(); }

  Status set_profiling(bool is_on) override;
  const Profile& target_profile() const override { return profiles_[0]; }
  const Profile& draft_profile() const override { return profiles_[1]; }

 private:
  CpuSession(const OpTable& ops, std::shared_ptr<ThreadPool> pool, SessionConfig config)
      : ops_(ops), pool_(std::move(pool)), config_(std::move(config)) {}
  Status allocate();
  void draft(RoundPlan& plan);
  void verify(RoundPlan& plan, RoundResult* result);
  // One token for each logit row of `plan`.
  std::vector<int32_t> sample(const RoundPlan& plan, const float* logits, Profile& profile);

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

}  // namespace qspec
