// Checked kernel launches. A kernel takes one parameter struct by value.
#pragma once
#include <set>

#include "common/device.h"
#include "common/primitives.cuh"

namespace qspec::cuda {

struct LaunchShape {
  int blocks, threads;
  size_t shared_bytes = 0;
  bool is_cooperative = false;  // all blocks are resident together: a grid barrier works
  bool is_dependent = false;    // may start while the kernel before it drains (it waits for that one itself)
  int cluster_blocks = 1;       // neighbours that reach each other's shared memory
  bool waits = false;           // blocks wait for each other: there are at most as many as run at once
};

#if defined(__CUDACC__)
// What launches ask of the calling thread's device. Asked once: the driver takes as long to answer as to launch, and a long launch is hundreds of kernels.
struct LaunchDevice {
  int ordinal = -1, most_shared = 0, major = 0;
  std::set<const void*> kernels;  // that may have most_shared bytes of shared memory

  static cudaError_t current(LaunchDevice** out) {
    thread_local LaunchDevice last;
    int ordinal = 0;
    cudaError_t error = cudaGetDevice(&ordinal);
    if (error == cudaSuccess && ordinal != last.ordinal) {
      LaunchDevice found;
      error = cudaDeviceGetAttribute(&found.most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
      if (error == cudaSuccess) error = cudaDeviceGetAttribute(&found.major, cudaDevAttrComputeCapabilityMajor, ordinal);
      if (error == cudaSuccess) found.ordinal = ordinal, last = std::move(found);
    }
    *out = &last;
    return error;
  }
  // Once and for all: launches of one kernel differ, and graphs keep theirs.
  cudaError_t allow_shared(const void* kernel) {
    if (kernels.count(kernel) != 0) return cudaSuccess;
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared);
    if (error == cudaSuccess) kernels.insert(kernel);
    return error;
  }
  // Chips before Hopper run kernels strictly one after another.
  bool has_dependent_launches() const { return major >= 9; }
};

template <typename Params>
Status launch(void (*kernel)(Params), const LaunchShape& shape, cudaStream_t stream, const char* what, const Params& params) {
  LaunchDevice* device = nullptr;
  cudaError_t error = LaunchDevice::current(&device);
  if (error == cudaSuccess && shape.shared_bytes > 48 * 1024) error = device->allow_shared(reinterpret_cast<const void*>(kernel));
  if (error != cudaSuccess) return device_error(error, what);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks)), config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes, config.stream = stream;
  cudaLaunchAttribute attributes[3] = {};
  unsigned count = 0;
  if (shape.is_cooperative) attributes[count].id = cudaLaunchAttributeCooperative, attributes[count++].val.cooperative = 1;
  if (shape.is_dependent && device->has_dependent_launches())
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization, attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  if (shape.cluster_blocks > 1) attributes[count].id = cudaLaunchAttributeClusterDimension, attributes[count++].val.clusterDim = {static_cast<unsigned>(shape.cluster_blocks), 1, 1};
  config.attrs = attributes, config.numAttrs = count;
  error = cudaLaunchKernelEx(&config, kernel, params);
  if (error == cudaSuccess) error = cudaGetLastError();
  return error == cudaSuccess ? Status::ok() : device_error(error, what);
}
#else
template <typename Params>
Status launch(void (*kernel)(Params), const LaunchShape& shape, cudaStream_t stream, const char* what, const Params& params) {
  const cudaError_t error = emulator::launch(stream, [=] {
    emulator::run_grid(shape.blocks, shape.threads, shape.shared_bytes, shape.is_cooperative || shape.waits, [&] { kernel(params); });
  });
  return error == cudaSuccess ? Status::ok() : device_error(error, what);
}
#endif

}  // namespace qspec::cuda
