// Storage layout -> resident layout on the device (layout.h): repacked on the host once, uploaded once, never copied again.
#pragma once
#include <memory>
#include <vector>

#include "common/device.h"
#include "common/layout.h"
#include "qspec/packing.h"

namespace qspec::cuda {

// Immutable; owns one device allocation that every mode reads.
class ResidentDeviceWeight {
 public:
  const DeviceWeight& view() const { return view_; }
  size_t bytes() const { return memory_.bytes(); }
  // Stacks `parts` (equal kind, k, group size, radix, Hadamard block) along n, as the CPU's ResidentWeight does.
  // Dense parts must be bfloat16 (kUnsupported otherwise). kOutOfMemory and kDevice come from the device.
  static Status create(const std::vector<WeightSource>& parts, std::unique_ptr<ResidentDeviceWeight>* out);

 private:
  DeviceWeight view_{};
  DeviceBuffer memory_;
};

}  // namespace qspec::cuda
