#include "sampling/sample_launch.h"

#include <algorithm>

#include "common/launch.cuh"
#include "sampling/sample_kernels.cuh"

namespace qspec::cuda {

Status launch_sample(const SampleParams& params, int max_rows, bool has_general, cudaStream_t stream) {
  const size_t plain_bytes = kSampleThreads / kWarp * sizeof(SampleBest) + 16;
  QSPEC_RETURN_IF_ERROR(launch(sample_plain_kernel, {max_rows * kSampleChunks, kSampleThreads, plain_bytes}, stream, "sampling", params));
  if (!has_general) return {};
  return launch(sample_general_kernel, {std::min(max_rows, kGeneralBlocks), kGeneralThreads, sizeof(GeneralShared)}, stream, "sampling", params);
}

}  // namespace qspec::cuda
