#include "common/launch.cuh"
#include "step/step_kernel.cuh"
#include "step/step_kernels.h"

namespace qspec::cuda {

Status launch_step_one(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream) {
  return launch(step_kernel<kOneRow>, {num_blocks, step_threads<kOneRow>(), config.shared_bytes(params.attention), true}, stream, "step kernel", params);
}

}  // namespace qspec::cuda
