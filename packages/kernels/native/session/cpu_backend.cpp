#include "session/cpu_backend.h"

#include "cpu/read_bandwidth.h"
#include "session/cpu_session.h"

namespace qspec {

namespace {
constexpr size_t kBandwidthBytes = size_t{256} << 20;  // well past the last-level cache
}  // namespace

Status CpuBackend::create_weight(const std::vector<WeightSource>& parts, std::shared_ptr<const Weight>* out) const {
  std::unique_ptr<ResidentWeight> weight;
  QSPEC_RETURN_IF_ERROR(ResidentWeight::create(parts, &weight));
  *out = std::move(weight);
  return Status::ok();
}

Status CpuBackend::create_session(SessionConfig config, std::unique_ptr<Session>* out) const {
  return CpuSession::create(ops_, pool_, std::move(config), out);
}

Status CpuBackend::measure_read_bandwidth(double* bytes_per_second) const {
  return cpu::measure_read_bandwidth(*pool_, kBandwidthBytes, bytes_per_second);
}

BackendDescription CpuBackend::describe() const {
  const int threads = pool_->num_threads();
  const std::string arch = &ops_ == &reference_ops() ? "scalar" : ops_.name;
  return {arch + ", " + (threads == 1 ? "1 thread" : std::to_string(threads) + " threads"), arch, threads};
}

}  // namespace qspec
