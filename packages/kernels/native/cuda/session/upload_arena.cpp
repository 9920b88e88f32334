#include "session/upload_arena.h"

namespace qspec::cuda {

Status UploadArena::create(size_t fixed_bytes, size_t capacity) {
  fixed_bytes_ = (fixed_bytes + 255) / 256 * 256;
  used_ = fixed_bytes_;
  QSPEC_RETURN_IF_ERROR(host_.reserve(fixed_bytes_ + capacity));
  return DeviceBuffer::create(fixed_bytes_ + capacity, "batch descriptions", &device_, "lower `maxRows`");
}

Status UploadArena::grow() {
  const size_t wanted = 2 * used_;
  PinnedBuffer host;
  DeviceBuffer device;
  QSPEC_RETURN_IF_ERROR(host.reserve(wanted));
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(wanted, "batch descriptions", &device, "lower `maxRows`"));
  host_ = std::move(host), device_ = std::move(device);
  ++generation_;
  return {};
}

Status UploadArena::send(cudaStream_t stream) const {
  QSPEC_CUDA_CALL(cudaMemcpyAsync(device_.as<void>(), host_.data(), used_, cudaMemcpyHostToDevice, stream));
  return {};
}

}  // namespace qspec::cuda
