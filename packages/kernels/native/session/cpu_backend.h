// The backend of the processor that this process runs on: an op table and the thread pool that its sessions share.
#pragma once
#include "cpu/thread_pool.h"
#include "qspec/ops.h"
#include "session/backend.h"

namespace qspec {

class CpuBackend : public Backend {
 public:
  // `ops` is a static table: that of an instruction set, or the reference's.
  CpuBackend(const OpTable& ops, std::shared_ptr<ThreadPool> pool) : ops_(ops), pool_(std::move(pool)) {}

  Status create_weight(const std::vector<WeightSource>& parts, std::shared_ptr<const Weight>* out) const override;
  Status create_session(SessionConfig config, std::unique_ptr<Session>* out) const override;
  Status measure_read_bandwidth(double* bytes_per_second) const override;
  BackendDescription describe() const override;
  Status free_bytes(int64_t* bytes) const override {
    *bytes = -1;
    return {};
  }

 private:
  const OpTable& ops_;
  const std::shared_ptr<ThreadPool> pool_;
};

}  // namespace qspec
