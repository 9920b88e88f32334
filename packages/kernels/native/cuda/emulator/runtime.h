// The part of the CUDA runtime API that the host side uses, over ordinary memory: everything happens at once, in order. What a machine
// without a healthy GPU answers can be set, so that each answer is seen.
#pragma once
#include <cstdint>
#include <functional>

using cudaError_t = int;
using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
using cudaGraph_t = struct EmulatedGraph*;
using cudaGraphExec_t = struct EmulatedGraph*;
constexpr cudaError_t cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInsufficientDriver = 35, cudaErrorNoDevice = 100, cudaErrorSystemNotReady = 802;
constexpr cudaError_t cudaErrorIllegalAddress = 700, cudaErrorStreamCaptureUnsupported = 900;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
constexpr unsigned cudaStreamNonBlocking = 1;
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount, l2CacheSize;
};

const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int ordinal);
cudaError_t cudaSetDevice(int ordinal);
cudaError_t cudaMalloc(void** out, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMallocHost(void** out, size_t bytes);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreate(cudaEvent_t* out);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);

namespace qspec::cuda::emulator {

// A kernel launch: runs now, or becomes part of the graph that `stream` is being captured into.
cudaError_t launch(cudaStream_t stream, std::function<void()> kernel);

// What the machine has.
struct Installation {
  int driver_version = 13000, runtime_version = 13000;  // 1000·major + 10·minor; 0: no driver
  int num_devices = 1;
  cudaError_t count_error = cudaSuccess;  // of cudaGetDeviceCount
  int major = 9, minor = 0;               // compute capability
  size_t memory_bytes = size_t{1} << 33;  // all of it free
};
Installation& installation();
// Without: launches are only counted.
void set_runs_kernels(bool runs);

// The runtime's calls so far, other than those that give something back or ask for the last error.
int64_t num_calls();
// Call number `call` (counted as num_calls()) gives `error`; all later ones, too, if `is_lasting`, as of a device that is lost.
void fail_at(int64_t call, cudaError_t error, bool is_lasting);
void fail_never();
// Call number `call` wants memory?
bool is_allocation(int64_t call);
// What has been taken and not been given back: memory, streams, events, graphs.
int64_t num_held();

}  // namespace qspec::cuda::emulator
