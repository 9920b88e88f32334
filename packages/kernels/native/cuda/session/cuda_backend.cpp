#include "session/cuda_backend.h"

#include <cstdio>

#include "session/cuda_session.h"
#include "session/device_bandwidth.h"
#include "weights/device_weight.h"

namespace qspec::cuda {

namespace {

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(DeviceInfo device) : device_(std::move(device)) {}

  Status create_weight(const std::vector<WeightSource>& parts, std::shared_ptr<const Weight>* out) const override {
    QSPEC_CUDA_CALL(cudaSetDevice(device_.ordinal));
    std::shared_ptr<const ResidentDeviceWeight> weight;
    QSPEC_RETURN_IF_ERROR(ResidentDeviceWeight::create(parts, &weight));
    *out = std::move(weight);
    return {};
  }

  Status create_session(SessionConfig config, std::unique_ptr<Session>* out) const override { return CudaSession::create(device_, std::move(config), out); }

  Status measure_read_bandwidth(double* bytes_per_second) const override {
    QSPEC_CUDA_CALL(cudaSetDevice(device_.ordinal));
    return measure_device_read(bytes_per_second);
  }

  BackendDescription describe() const override {
    const std::string arch = "sm_" + std::to_string(device_.major) + std::to_string(device_.minor);
    return {device_.name + " (" + arch + ", " + std::to_string(device_.memory_bytes >> 30) + " GiB)", arch, 1};
  }

  Status free_bytes(int64_t* bytes) const override {
    size_t free_bytes = 0, total_bytes = 0;
    QSPEC_CUDA_CALL(cudaSetDevice(device_.ordinal));
    QSPEC_CUDA_CALL(cudaMemGetInfo(&free_bytes, &total_bytes));
    *bytes = static_cast<int64_t>(free_bytes);
    return {};
  }

 private:
  const DeviceInfo device_;
};

}  // namespace

Status create_cuda_backend(int ordinal, std::shared_ptr<Backend>* out) {
  DeviceInfo device;
  QSPEC_RETURN_IF_ERROR(query_device(ordinal, &device));
  QSPEC_CUDA_CALL(cudaSetDevice(ordinal));
  *out = std::make_shared<CudaBackend>(std::move(device));
  return {};
}

CudaSummary summarize_cuda(int ordinal) {
  DeviceInfo device;
  const Status status = query_device(ordinal, &device);
  CudaSummary summary;
  summary.is_usable = status.is_ok();
  summary.name = device.name, summary.problem = status.message();
  summary.major = device.major, summary.minor = device.minor;
  summary.memory_bytes = static_cast<int64_t>(device.memory_bytes);
  summary.driver_version = device.driver_version, summary.runtime_version = device.runtime_version;
  return summary;
}

}  // namespace qspec::cuda
