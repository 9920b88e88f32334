// Checked kernel launches. A kernel takes one parameter struct by value.
#pragma once
#include "common/device.h"
#include "common/primitives.cuh"

namespace qspec::cuda {

struct LaunchShape {
  int blocks, threads;
  size_t shared_bytes = 0;
  bool is_cooperative = false;  // all blocks are resident together: a grid barrier works
  bool is_dependent = false;    // may start while the kernel before it drains (it waits for that one itself)
  int cluster_blocks = 1;       // neighbours that reach each other's shared memory
};

#if defined(__CUDACC__)
// Chips before Hopper run kernels strictly one after another.
inline bool has_dependent_launches() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
}

template <typename Params>
Status launch(void (*kernel)(Params), const LaunchShape& shape, cudaStream_t stream, const char* what, const Params& params) {
  if (shape.shared_bytes > 48 * 1024) {  // allowed once and for all: launches of one kernel differ, and graphs keep theirs
    int device = 0, most = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    if (error != cudaSuccess) return device_error(error, what);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks)), config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes, config.stream = stream;
  cudaLaunchAttribute attributes[3] = {};
  unsigned count = 0;
  if (shape.is_cooperative) attributes[count].id = cudaLaunchAttributeCooperative, attributes[count++].val.cooperative = 1;
  if (shape.is_dependent && has_dependent_launches())
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization, attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  if (shape.cluster_blocks > 1) attributes[count].id = cudaLaunchAttributeClusterDimension, attributes[count++].val.clusterDim = {static_cast<unsigned>(shape.cluster_blocks), 1, 1};
  config.attrs = attributes, config.numAttrs = count;
  cudaError_t error = cudaLaunchKernelEx(&config, kernel, params);
  if (error == cudaSuccess) error = cudaGetLastError();
  return error == cudaSuccess ? Status::ok() : device_error(error, what);
}
#else
template <typename Params>
Status launch(void (*kernel)(Params), const LaunchShape& shape, cudaStream_t, const char*, const Params& params) {
  emulator::run_grid(shape.blocks, shape.threads, shape.shared_bytes, shape.is_cooperative, [&] { kernel(params); });
  return Status::ok();
}
#endif

}  // namespace qspec::cuda
