#include "common/device.h"

namespace qspec::cuda {

namespace {

constexpr int kMinMajor = 8;  // compute capability: asynchronous copies, bfloat16

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

Status old_driver(const DeviceInfo& info) {
  return {StatusCode::kDevice, "Expected a driver for CUDA " + version_text(info.runtime_version) + " but it supports only " +
                                   version_text(info.driver_version) + "; update the driver, build with an older toolkit, or use the CPU backend."};
}

Status check_driver(DeviceInfo* info) {
  QSPEC_CUDA_CALL(cudaRuntimeGetVersion(&info->runtime_version));
  const cudaError_t error = cudaDriverGetVersion(&info->driver_version);
  if (error != cudaSuccess || info->driver_version == 0)
    return {StatusCode::kDevice, "Expected an NVIDIA driver but found none; install one, or use the CPU backend."};
  return info->driver_version / 1000 < info->runtime_version / 1000 ? old_driver(*info) : Status::ok();
}

}  // namespace

Status query_device(int ordinal, DeviceInfo* info) {
  *info = {};
  info->ordinal = ordinal;
  QSPEC_RETURN_IF_ERROR(check_driver(info));
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    return {StatusCode::kDevice, "Expected a CUDA device but the driver sees none; check `nvidia-smi`, or use the CPU backend."};
  if (error == cudaErrorInsufficientDriver) return old_driver(*info);
  if (error != cudaSuccess) return device_error(error, "cudaGetDeviceCount");
  if (ordinal < 0 || ordinal >= count) {
    return {StatusCode::kInvalidArgument, "Expected `device` to be in 0.." + std::to_string(count - 1) + " but received " +
                                              std::to_string(ordinal) + "; see `nvidia-smi -L`."};
  }
  cudaDeviceProp prop;
  QSPEC_CUDA_CALL(cudaGetDeviceProperties(&prop, ordinal));
  info->name = prop.name;
  info->major = prop.major, info->minor = prop.minor;
  info->num_multiprocessors = prop.multiProcessorCount;
  info->l2_bytes = static_cast<size_t>(prop.l2CacheSize);
  info->memory_bytes = prop.totalGlobalMem;
  info->shared_bytes = prop.sharedMemPerBlockOptin;
  if (info->major < kMinMajor) {
    return {StatusCode::kDevice, "Expected compute capability " + std::to_string(kMinMajor) + ".0 or newer but `" + info->name +
                                     "` has " + std::to_string(info->major) + "." + std::to_string(info->minor) + "; use the CPU backend."};
  }
  return {};
}

}  // namespace qspec::cuda
