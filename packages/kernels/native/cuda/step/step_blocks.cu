#include "common/launch.cuh"
#include "step/step_kernel.cuh"
#include "step/step_kernels.h"

namespace qspec::cuda {

Status launch_step_blocks(int num_blocks, const StepConfig& config, const StepParams& params, cudaStream_t stream) {
  return launch(step_kernel<8, true>, {num_blocks, step_threads<8>(), config.shared_bytes(params.attention), true}, stream, "step kernel", params);
}

}  // namespace qspec::cuda
