#include "common/launch.cuh"
#include "step/step_kernel.cuh"
#include "step/step_kernels.h"

namespace qspec::cuda {

Status launch_step_five(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream) {
  return launch(step_kernel<kFiveRows>, {num_blocks, step_threads<kFiveRows>(), config.shared_bytes(params.attention), true}, stream, "step kernel", params);
}

}  // namespace qspec::cuda
