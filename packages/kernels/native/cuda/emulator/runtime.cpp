#include "emulator/runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "emulator/emulator.h"

struct EmulatedGraph {
  std::vector<std::function<void()>> nodes;
};
struct EmulatedStream {
  std::unique_ptr<EmulatedGraph> captured;  // while it is captured
};
struct EmulatedEvent {};

namespace qspec::cuda::emulator {

namespace {

constexpr int64_t kNever = INT64_MAX;

struct Runtime {
  Installation installation;
  bool runs_kernels = true;
  int64_t num_calls = 0, num_held = 0;
  int64_t failing_call = kNever;
  cudaError_t error = cudaSuccess;
  bool is_lasting = false;
  std::vector<bool> allocations;
  const EmulatedStream* capturing = nullptr;
};

Runtime& runtime() {
  static Runtime instance;
  return instance;
}

cudaError_t next_call(bool is_allocation = false) {
  Runtime& r = runtime();
  const int64_t call = r.num_calls++;
  r.allocations.push_back(is_allocation);
  return call == r.failing_call || (r.is_lasting && call > r.failing_call) ? r.error : cudaSuccess;
}

// A call that has no place in a graph.
cudaError_t next_blocking_call(bool is_allocation = false) {
  const cudaError_t error = next_call(is_allocation);
  return error == cudaSuccess && runtime().capturing != nullptr ? cudaErrorStreamCaptureUnsupported : error;
}

cudaError_t allocate(void** out, size_t bytes) {
  if (const cudaError_t error = next_blocking_call(true)) return error;
  if (bytes > runtime().installation.memory_bytes) return cudaErrorMemoryAllocation;
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*out == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*out, 0xff, bytes);  // NaN everywhere until somebody writes
  ++runtime().num_held;
  return cudaSuccess;
}

cudaError_t give_back(void* p) {
  if (p != nullptr) --runtime().num_held;
  std::free(p);
  return cudaSuccess;
}

template <typename T>
cudaError_t make(T** out) {
  if (const cudaError_t error = next_blocking_call()) return error;
  *out = new T;
  ++runtime().num_held;
  return cudaSuccess;
}

template <typename T>
cudaError_t destroy(T* p) {
  --runtime().num_held;
  delete p;
  return cudaSuccess;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  if (const cudaError_t error = next_call()) return error;
  if (stream != nullptr && stream->captured) stream->captured->nodes.push_back(std::move(work));
  else work();
  return cudaSuccess;
}

}  // namespace

Installation& installation() { return runtime().installation; }
void set_runs_kernels(bool runs) { runtime().runs_kernels = runs; }
int64_t num_calls() { return runtime().num_calls; }
void fail_at(int64_t call, cudaError_t error, bool is_lasting) { runtime().failing_call = call, runtime().error = error, runtime().is_lasting = is_lasting; }
void fail_never() { fail_at(kNever, cudaSuccess, false); }
bool is_allocation(int64_t call) { return runtime().allocations[static_cast<size_t>(call)]; }
int64_t num_held() { return runtime().num_held; }

cudaError_t launch(cudaStream_t stream, std::function<void()> kernel) {
  return enqueue(stream, [kernel = std::move(kernel)] {
    if (runtime().runs_kernels) kernel();
  });
}

}  // namespace qspec::cuda::emulator

using namespace qspec::cuda::emulator;

namespace {
struct ErrorName {
  cudaError_t error;
  const char *name, *text;
};
constexpr ErrorName kErrors[] = {{cudaSuccess, "cudaSuccess", "no error"},
                                 {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
                                 {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
                                 {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
                                 {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
                                 {cudaErrorSystemNotReady, "cudaErrorSystemNotReady", "system not yet initialized"},
                                 {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"}};
const ErrorName& name_of(cudaError_t error) {
  for (const ErrorName& name : kErrors)
    if (name.error == error) return name;
  std::abort();  // an error that no emulated call gives
}
}  // namespace

const char* cudaGetErrorString(cudaError_t error) { return name_of(error).text; }
const char* cudaGetErrorName(cudaError_t error) { return name_of(error).name; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = installation().driver_version;
  return next_call();
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = installation().runtime_version;
  return next_call();
}
cudaError_t cudaGetDeviceCount(int* count) {
  if (const cudaError_t error = next_call()) return error;
  *count = installation().num_devices;
  return installation().count_error;
}
// A small Hopper: few blocks, so that every one of them gets several shares of the work.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated");
  properties->totalGlobalMem = installation().memory_bytes, properties->sharedMemPerBlockOptin = 232448;
  properties->major = installation().major, properties->minor = installation().minor;
  properties->multiProcessorCount = 3, properties->l2CacheSize = 1 << 20;
  return next_call();
}
cudaError_t cudaSetDevice(int) { return next_call(); }

cudaError_t cudaMalloc(void** out, size_t bytes) { return allocate(out, bytes); }
cudaError_t cudaFree(void* p) { return give_back(p); }
cudaError_t cudaMallocHost(void** out, size_t bytes) { return allocate(out, bytes); }
cudaError_t cudaFreeHost(void* p) { return give_back(p); }
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = *total_bytes = installation().memory_bytes;
  return next_call();
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (const cudaError_t error = next_blocking_call()) return error;
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return enqueue(stream, [=] { std::memmove(to, from, bytes); });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return enqueue(stream, [=] { std::memset(to, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) { return make(out); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return destroy(stream); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return next_blocking_call(); }
cudaError_t cudaEventCreate(cudaEvent_t* out) { return make(out); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return destroy(event); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return next_call(); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 0;
  return next_call();
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (const cudaError_t error = next_blocking_call()) return error;
  stream->captured = std::make_unique<EmulatedGraph>();
  runtime().capturing = stream;
  return cudaSuccess;
}
// The capture is over in any case.
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  std::unique_ptr<EmulatedGraph> graph = std::move(stream->captured);
  runtime().capturing = nullptr;
  if (const cudaError_t error = next_call()) return error;
  ++runtime().num_held;
  *out = graph.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  if (const cudaError_t error = next_blocking_call()) return error;
  ++runtime().num_held;
  *out = new EmulatedGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return destroy(graph); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  if (const cudaError_t error = next_blocking_call()) return error;
  for (const std::function<void()>& node : graph->nodes) node();
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return destroy(graph); }
