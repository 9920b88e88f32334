// The KV cache of one session on the device: K and V of every layer over one pool of slots.
#pragma once
#include <vector>

#include "common/device.h"
#include "session/program.h"
#include "step/step_program.h"

namespace qspec::cuda {

class DeviceKv {
 public:
  // kUnsupported for float32; kOutOfMemory says how many pages were asked for and how many would fit.
  Status create(const KvShape& shape);
  const DeviceKvLayer& layer(int index) const { return layers_[index]; }
  const KvShape& shape() const { return shape_; }
  size_t bytes() const { return memory_.bytes(); }
  // Copies K and V of whole pages over all layers, in stream order. Page ids were checked.
  Status copy_page(int64_t from, int64_t to, cudaStream_t stream) const;
  // For benchmarks: random elements of about unit size in every slot.
  Status fill_randomly(uint64_t seed);

 private:
  struct Plane {
    uint8_t* base;
    size_t page_bytes;
  };
  KvShape shape_;
  DeviceBuffer memory_;
  std::vector<DeviceKvLayer> layers_;
  std::vector<Plane> planes_;
};

}  // namespace qspec::cuda
