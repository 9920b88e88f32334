#include "step/attention_kernel.h"

#include "common/launch.cuh"
#include "step/attention_groups.cuh"

namespace qspec::cuda {

namespace {
constexpr int kKvWarps = 8;  // of a block: a head of a row each, of K or of V
}

struct WriteKvParams {
  AttentionSpec spec;
  const StepBatch* batch;
};
QSPEC_KERNEL(kKvWarps * kWarp, 4) write_kv_kernel(const QSPEC_GRID_CONSTANT WriteKvParams params) {
  let_next_kernel_begin();
  wait_for_previous_kernel();
  write_all_kv<false>(params.spec, *params.batch, kKvWarps);
}

// Of chips that have no such launches (session/step_plan.cpp), nothing.
template <CacheCodes codes, int head_dim>
QSPEC_KERNEL(kStepThreads, 1) attention_kernel(const QSPEC_GRID_CONSTANT StepParams params) {
#if defined(QSPEC_HAS_WGMMA) || !defined(__CUDACC__)
  const int thread = thread_index();
  let_next_kernel_begin();
  if (thread < static_cast<int>(sizeof(StepBatch) / 8)) shared_at<uint2>(kBatchAt + thread * 8) = load_constant(reinterpret_cast<const uint2*>(params.batch) + thread);
  if (thread >= kWarp && thread < kWarp + kPhaseBytes / 16) shared_at<uint4>(kPhasesAt + (thread - kWarp) * 16) = load_constant(reinterpret_cast<const uint4*>(params.phases) + thread - kWarp);
  if (thread == kStepThreads - 1) shared_at<StepParams>(kParamsAt) = params;
  named_barrier(kBlockBarrier, kStepThreads);
  start_attention<false>(step_batch(), params.attention, thread, kStepThreads);
  named_barrier(kBlockBarrier, kStepThreads);
  wait_for_previous_kernel();  // what was read so far is the host's
  GroupAttention<codes, head_dim, TeamWay::kWarpgroups>(attention_phase<codes, head_dim, TeamWay::kWarpgroups, false>(step_params(), 0)).run();
#endif
}

Status launch_attention(int num_blocks, int rows, const StepConfig& config, const StepParams& params, const AttentionSpec& spec, cudaStream_t stream) {
  const int heads = rows * spec.num_kv_heads * 2;
  QSPEC_RETURN_IF_ERROR(launch(write_kv_kernel, {(heads + kKvWarps - 1) / kKvWarps, kKvWarps * kWarp, 0, false, true}, stream, "K and V kernel", WriteKvParams{spec, params.batch}));
  const auto run = [&](auto kernel) {
    return launch(kernel, {num_blocks, kStepThreads, config.region_at + static_cast<size_t>(params.attention.num_teams) * params.attention.team_bytes, false, true}, stream, "attention kernel", params);
  };
  switch (spec.cache.format) {
    case KvFormat::kInt8: return run(attention_kernel<CacheCodes::kInt8, kMaxHeadDim>);
    case KvFormat::kInt8Nested: return run(attention_kernel<CacheCodes::kNibbles, kMaxHeadDim>);
    default: return spec.head_dim == kMaxHeadDim ? run(attention_kernel<CacheCodes::kNone, kMaxHeadDim>) : run(attention_kernel<CacheCodes::kNone, 64>);
  }
}

}  // namespace qspec::cuda
