#include "common/device.h"

namespace qspec::cuda {

// A small Hopper: few blocks, so that every one of them gets several shares of the work.
Status query_device(int ordinal, DeviceInfo* info) {
  *info = {};
  info->ordinal = ordinal;
  info->name = "emulated";
  info->driver_version = info->runtime_version = 13000;
  info->major = 9;
  info->num_multiprocessors = 3;
  info->l2_bytes = size_t{1} << 20, info->memory_bytes = size_t{1} << 33, info->shared_bytes = 232448;
  if (ordinal == 0) return {};
  return {StatusCode::kInvalidArgument, "Expected `device` to be in 0..0 but received " + std::to_string(ordinal) + "; see `nvidia-smi -L`."};
}

}  // namespace qspec::cuda
