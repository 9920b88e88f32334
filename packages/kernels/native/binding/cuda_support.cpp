#include "binding/cuda_support.h"

#if QSPEC_HAS_CUDA
#include "cuda/session/cuda_backend.h"
#endif

namespace qspec::binding {

#if QSPEC_HAS_CUDA

namespace {
std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }
}  // namespace

Status create_cuda_backend(int ordinal, std::shared_ptr<Backend>* out) { return cuda::create_cuda_backend(ordinal, out); }

Napi::Value describe_cuda(const Napi::CallbackInfo& info) {
  const cuda::CudaSummary summary = cuda::summarize_cuda(0);
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("isBuilt", true);
  result.Set("isUsable", summary.is_usable);
  if (!summary.problem.empty()) result.Set("problem", summary.problem);
  if (!summary.name.empty()) {
    result.Set("name", summary.name);
    result.Set("computeCapability", std::to_string(summary.major) + "." + std::to_string(summary.minor));
    result.Set("memoryBytes", static_cast<double>(summary.memory_bytes));
  }
  if (summary.driver_version > 0) result.Set("driverVersion", version_text(summary.driver_version));
  if (summary.runtime_version > 0) result.Set("runtimeVersion", version_text(summary.runtime_version));
  return result;
}

#else

Status create_cuda_backend(int, std::shared_ptr<Backend>*) {
  return {StatusCode::kDevice,
          "Expected a build with CUDA kernels but this one of @qspec/kernels has none (" QSPEC_CUDA_ABSENCE
          "): install the CUDA toolkit (12.4 or newer) so that nvcc is on the PATH, run `npm run build:native` in packages/kernels, or use the CPU backend."};
}

Napi::Value describe_cuda(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("isBuilt", false);
  result.Set("isUsable", false);
  result.Set("problem", QSPEC_CUDA_ABSENCE);
  return result;
}

#endif

}  // namespace qspec::binding
