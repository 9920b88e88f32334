// Storage layout -> resident layout (common/layout.h): uploaded piece by piece, repacked by the device, once.
#pragma once
#include <memory>
#include <vector>

#include "common/device.h"
#include "common/layout.h"
#include "qspec/packing.h"
#include "qspec/weight.h"

namespace qspec::cuda {

// Immutable; owns one device allocation that every mode reads.
class ResidentDeviceWeight : public Weight {
 public:
  const WeightShape& shape() const override { return shape_; }
  size_t bytes() const override { return memory_.bytes() - kReadSlack; }
  const DeviceWeight& view() const { return view_; }

  // Stacks `parts` (equal kind, k, group size, radix, Hadamard block) along n, as the CPU's ResidentWeight does. Dense float32 and float16
  // are rounded to bfloat16. kShapeMismatch, kUnsupported and kInvalidArgument name the tensor; kOutOfMemory and kDevice come from the device.
  static Status create(const std::vector<WeightSource>& parts, std::shared_ptr<const ResidentDeviceWeight>* out);

  // For benchmarks: a weight of this shape with random codes and scales that keep sums near 1, made on the device.
  static Status create_random(const WeightShape& shape, uint64_t seed, std::shared_ptr<const ResidentDeviceWeight>* out);

 private:
  Status allocate(const WeightShape& shape, const char* name);

  WeightShape shape_;
  DeviceWeight view_{};
  DeviceBuffer memory_;
};

}  // namespace qspec::cuda
