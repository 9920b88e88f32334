// The door to the CUDA backend: all that code outside native/cuda needs to know. Includes no CUDA header.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "qspec/status.h"
#include "session/backend.h"

namespace qspec::cuda {

// A backend on device `ordinal`, as CUDA counts them. May take a second: it makes the device's context. kDevice, with the remedy, when there
// is no driver, no device, the driver is too old, or the chip has no kernels here; kInvalidArgument when `ordinal` is not one of them.
Status create_cuda_backend(int ordinal, std::shared_ptr<Backend>* out);

// One device as diagnosis shows it. Makes no context and never fails: what is wrong is in `problem`.
struct CudaSummary {
  bool is_usable = false;  // create_cuda_backend would try, and find kernels for the chip
  std::string name;        // empty when there is no such device
  std::string problem;     // empty when usable; else the sentence that create_cuda_backend would give
  int major = 0, minor = 0;                     // compute capability
  int64_t memory_bytes = 0;
  int driver_version = 0, runtime_version = 0;  // 1000·major + 10·minor, 0 = unknown
};
CudaSummary summarize_cuda(int ordinal);

}  // namespace qspec::cuda
