#include "common/device.h"

#include <utility>

namespace qspec::cuda {

Status device_error(cudaError_t error, const char* call) {
  (void)cudaGetLastError();  // clears the non-sticky ones, so that the next call isn't blamed
  return {StatusCode::kDevice, std::string("CUDA call `") + call + "` failed: " + cudaGetErrorString(error) + " (" +
                                   cudaGetErrorName(error) + "). Check `nvidia-smi`; after a fault the process must be restarted."};
}

namespace {
std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

Status check_driver(DeviceInfo* info) {
  if (cudaRuntimeGetVersion(&info->runtime_version) != cudaSuccess) info->runtime_version = 0;
  const cudaError_t error = cudaDriverGetVersion(&info->driver_version);
  if (error != cudaSuccess || info->driver_version == 0)
    return {StatusCode::kDevice, "Expected an NVIDIA driver but found none; install one, or use the CPU backend."};
  if (info->driver_version / 1000 < info->runtime_version / 1000) {
    return {StatusCode::kDevice, "Expected a driver for CUDA " + version_text(info->runtime_version) + " but it supports only " +
                                     version_text(info->driver_version) + "; update the driver, or build with an older toolkit."};
  }
  return {};
}
}  // namespace

Status query_device(int ordinal, DeviceInfo* out) {
  DeviceInfo info;
  info.ordinal = ordinal;
  QSPEC_RETURN_IF_ERROR(check_driver(&info));
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    return {StatusCode::kDevice, "Expected a CUDA device but the driver sees none; check `nvidia-smi`, or use the CPU backend."};
  if (error != cudaSuccess) return device_error(error, "cudaGetDeviceCount");
  if (ordinal < 0 || ordinal >= count) {
    return {StatusCode::kInvalidArgument, "Expected `device` to be in 0.." + std::to_string(count - 1) + " but received " +
                                              std::to_string(ordinal) + "; see `nvidia-smi -L`."};
  }
  cudaDeviceProp prop;
  QSPEC_CUDA_CALL(cudaGetDeviceProperties(&prop, ordinal));
  info.name = prop.name;
  info.major = prop.major, info.minor = prop.minor;
  info.num_multiprocessors = prop.multiProcessorCount;
  info.l2_bytes = static_cast<size_t>(prop.l2CacheSize);
  info.memory_bytes = prop.totalGlobalMem;
  info.shared_bytes = prop.sharedMemPerBlockOptin;
  if (info.major < QSPEC_CUDA_MIN_MAJOR) {
    return {StatusCode::kDevice, "Expected compute capability " + std::to_string(QSPEC_CUDA_MIN_MAJOR) + ".0 or newer but `" + info.name +
                                     "` has " + std::to_string(info.major) + "." + std::to_string(info.minor) + "; use the CPU backend."};
  }
  QSPEC_CUDA_CALL(cudaSetDevice(ordinal));
  *out = info;
  return {};
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Status DeviceBuffer::create(size_t bytes, const char* what, DeviceBuffer* out) {
  DeviceBuffer buffer;
  const cudaError_t error = cudaMalloc(&buffer.data_, bytes ? bytes : 1);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) free_bytes = total_bytes = 0;
    buffer.data_ = nullptr;
    return {StatusCode::kOutOfMemory, std::string("`") + what + "` asked for " + std::to_string(bytes) + " bytes of device memory but " +
                                          std::to_string(free_bytes) + " of " + std::to_string(total_bytes) +
                                          " are free; take a smaller model or format, or lower the cache and batch limits."};
  }
  if (error != cudaSuccess) return device_error(error, "cudaMalloc");
  buffer.bytes_ = bytes;
  *out = std::move(buffer);
  return {};
}

Status DeviceBuffer::upload(const void* source, size_t count) {
  if (count > bytes_) return {StatusCode::kInternal, "DeviceBuffer::upload past the end."};
  QSPEC_CUDA_CALL(cudaMemcpy(data_, source, count, cudaMemcpyHostToDevice));
  return {};
}

Status DeviceBuffer::download(void* destination, size_t count) const {
  if (count > bytes_) return {StatusCode::kInternal, "DeviceBuffer::download past the end."};
  QSPEC_CUDA_CALL(cudaMemcpy(destination, data_, count, cudaMemcpyDeviceToHost));
  return {};
}

void DeviceBuffer::reset() {
  if (data_ != nullptr) (void)cudaFree(data_);  // a failure here was reported by the call that broke the device
  data_ = nullptr, bytes_ = 0;
}

}  // namespace qspec::cuda
