// The device's own ceilings, for byte limits.
#pragma once
#include "common/device.h"

namespace qspec::cuda {

// Bytes a second of reading 1 GiB (or less, where less is free) with 16-byte loads; median of several passes.
Status measure_device_read(double* bytes_per_second);

}  // namespace qspec::cuda
