#include "step/attention_kernel.h"

#include "common/launch.cuh"
#include "step/attention.cuh"
#include "step/attention_groups.cuh"
#include "step/folds_kernel.h"
#include "step/heads_kernel.h"

namespace qspec::cuda {

// Of chips that have no such launches (session/step_plan.cpp), nothing.
template <TeamWay way, CacheCodes codes, int head_dim>
QSPEC_KERNEL(kStepThreads, 1) attention_kernel(const QSPEC_GRID_CONSTANT StepParams params) {
#if defined(QSPEC_HAS_WGMMA) || !defined(__CUDACC__)
  constexpr bool has_groups = way == TeamWay::kWarpgroups || way == TeamWay::kGroups;
  const int thread = thread_index();
  let_next_kernel_begin();
  if (thread < static_cast<int>(sizeof(StepBatch) / 8)) shared_at<uint2>(kBatchAt + thread * 8) = load_constant(reinterpret_cast<const uint2*>(params.batch) + thread);
  if (thread >= kWarp && thread < kWarp + kPhaseBytes / 16) shared_at<uint4>(kPhasesAt + (thread - kWarp) * 16) = load_constant(reinterpret_cast<const uint4*>(params.phases) + thread - kWarp);
  if (thread == kStepThreads - 1) shared_at<StepParams>(kParamsAt) = params;
  named_barrier(kBlockBarrier, kStepThreads);
  start_attention<!has_groups>(step_batch(), params.attention, thread, kStepThreads);
  named_barrier(kBlockBarrier, kStepThreads);
  wait_for_previous_kernel();  // what was read so far is the host's
  const auto phase = attention_phase<codes, head_dim, way, false, true>(step_params(), 0);
  if constexpr (has_groups) {
    GroupAttention<codes, head_dim, way, true>(phase).run();
  } else {
    phase.fetch_first();
    phase.run();
  }
#endif
}

template <TeamWay way>
Status launch_teams(int num_blocks, const StepConfig& config, const StepParams& params, const AttentionSpec& spec, cudaStream_t stream) {
  const auto run = [&](auto kernel) {
    return launch(kernel, {num_blocks, kStepThreads, config.region_at + static_cast<size_t>(params.attention.num_teams) * params.attention.team_bytes, false, true}, stream, "attention kernel", params);
  };
  switch (spec.cache.format) {
    case KvFormat::kInt8: return run(attention_kernel<way, CacheCodes::kInt8, kMaxHeadDim>);
    case KvFormat::kInt8Nested: return run(attention_kernel<way, CacheCodes::kNibbles, kMaxHeadDim>);
    default: return spec.head_dim == kMaxHeadDim ? run(attention_kernel<way, CacheCodes::kNone, kMaxHeadDim>) : run(attention_kernel<way, CacheCodes::kNone, 64>);
  }
}

Status launch_teams(int num_blocks, const StepConfig& config, const StepParams& params, const AttentionSpec& spec, cudaStream_t stream) {
  switch (params.attention.way) {
    case TeamWay::kWarpgroups: return launch_teams<TeamWay::kWarpgroups>(num_blocks, config, params, spec, stream);
    case TeamWay::kGroups: return launch_teams<TeamWay::kGroups>(num_blocks, config, params, spec, stream);
    case TeamWay::kSplits: return launch_teams<TeamWay::kSplits>(num_blocks, config, params, spec, stream);
    case TeamWay::kWideSplits: return launch_teams<TeamWay::kWideSplits>(num_blocks, config, params, spec, stream);
    default: return launch_teams<TeamWay::kColumns>(num_blocks, config, params, spec, stream);
  }
}

Status launch_attention(int num_blocks, int rows, const StepConfig& config, const StepParams& params, const AttentionSpec& spec, const FoldShape& folds, cudaStream_t stream) {
  QSPEC_RETURN_IF_ERROR(launch_heads(rows, spec, params.batch, stream));
  QSPEC_RETURN_IF_ERROR(launch_teams(num_blocks, config, params, spec, stream));
  return launch_folds({spec, params.batch, params.workspace, params.blocks, folds}, stream);
}

}  // namespace qspec::cuda
