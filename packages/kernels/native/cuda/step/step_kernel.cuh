// One forward pass in one kernel: a block a multiprocessor, all of them walking the phases together.
//
// Why one kernel: a decode step is bound by the bytes of its weights, and kernels one after another stop that stream at every boundary for as
// long as a launch takes. Here a boundary costs a barrier. See docs/architecture.md.
#pragma once
#include "step/attention.cuh"
#include "step/attention_groups.cuh"
#include "step/linear.cuh"
#include "step/row_phases.cuh"

namespace qspec::cuda {

// A barrier over the grid. What any thread wrote before it can be read after it, past L1.
// Its state lies in shared memory: a register that lives through the whole kernel is one that every phase lacks.
struct GridBarrier {
  unsigned long long* arrivals;
  unsigned long long target;  // arrivals at the next barrier
};
QSPEC_DEVICE GridBarrier& grid_barrier() { return shared_at<GridBarrier>(kBarrierAt); }
QSPEC_DEVICE void begin_barrier(unsigned long long* counter) {
  const unsigned long long blocks = static_cast<unsigned long long>(grid_blocks());
  grid_barrier() = {counter, load_acquire(counter) / blocks * blocks + blocks};  // fewer than all can have arrived at this launch's first
}
// One thread of the block, after all have met. All arrive at a barrier before anybody arrives at the next.
QSPEC_DEVICE void arrive_at_barrier() { add_release(grid_barrier().arrivals, 1); }
QSPEC_DEVICE void wait_at_barrier() {
  const unsigned long long target = grid_barrier().target;
  const unsigned long long* arrivals = grid_barrier().arrivals;
  while (load_acquire(arrivals) < target) pause();
  grid_barrier().target = target + static_cast<unsigned long long>(grid_blocks());
}

// Starts copying a phase. It comes from far away: nobody has read it since the last step, and the weights have passed through L2 since.
QSPEC_DEVICE void fetch_phase(const StepParams& params, int index, int thread) {
  if (index >= params.num_phases || thread >= kPhaseBytes / 16) return;
  copy_async<16>(kPhasesAt + (index & 1) * kPhaseBytes + thread * 16, reinterpret_cast<const uint4*>(params.phases + index) + thread);
}
// Brings the weights of a phase's norm to L2, each block a piece.
QSPEC_DEVICE void prefetch_norm(const Phase& phase, int lane) {
  constexpr int kPiece = 512;
  if (phase.source.source != RowSource::kNorm) return;
  const int begin = block_index() * kPiece, rest = phase.source.width * 4 - begin;
  if (rest > 0) prefetch_l2(reinterpret_cast<const uint8_t*>(phase.source.norm_weight) + begin, rest < kPiece ? rest : kPiece, lane);
}

// `by_blocks`: whole blocks take attention's items (TeamWay::kGroups).
template <int n8, bool by_blocks>
QSPEC_DEVICE void run_phase(const StepParams& params, int index) {
  constexpr int warps = step_warps<n8>();
  const Phase& phase = phase_at(index);
  const int thread = thread_index(), warp = thread / kWarp;
  switch (phase.kind) {
    case PhaseKind::kEmbedding: embed(phase.embedding, step_batch(), warp, warps); break;
    case PhaseKind::kRopeTable: fill_rope_table(phase.rope_table, step_batch(), thread, warps * kWarp); break;
    case PhaseKind::kRows: run_rows<n8>(index); break;
    case PhaseKind::kGather: gather_rows(phase, warps); break;
    case PhaseKind::kLinear: run_linear<n8>(params, index); break;
    case PhaseKind::kReduce:
      if constexpr (n8 >= 3) run_reduce<n8>(index);
      break;
    case PhaseKind::kAttention:
      if constexpr (by_blocks) call_group_attention(index);
      else run_attention<false, n8>(params, index);
      break;
  }
}

// What a phase can do before its input is there: attention fetches K and V that are in the cache already. With writes_first
// every row's K and V are put into the cache before that.
template <int n8, bool by_blocks>
QSPEC_DEVICE void begin_attention(const StepParams& params, int index, bool writes_first) {
  constexpr int threads = step_threads<n8>();
  if (writes_first) {
    write_all_kv<may_post<n8>()>(phase_at(index).attention, step_batch(), step_warps<n8>());
    named_barrier(kBlockBarrier, threads);
    if (thread_index() == 0) arrive_at_barrier(), wait_at_barrier();
    named_barrier(kBlockBarrier, threads);
  }
  if constexpr (!by_blocks) run_attention<true, n8>(params, index);
}

// What the warps must know of the weights: the block's share of every shape, where every linear's begins.
template <int n8>
QSPEC_DEVICE void load_streams(const StepParams& params, int thread) {
  if (thread % kWarp == 0) {  // one a warp: they wait for different memory
    for (int i = thread / kWarp; i < params.num_shapes; i += step_warps<n8>())
      load_shape<n8>(params, params.linears[params.shape_linears[i]].linear, block_index(), &stream_shape(i));
  }
  named_barrier(kBlockBarrier, step_threads<n8>());
  for (int i = thread; i < params.num_linears; i += step_threads<n8>()) load_source(params.linears[i], &stream_source(i));
  for (int i = lane_index(); i < params.num_shapes; i += kWarp) warp_start(params, i) = RunWalk<n8>::find_start(stream_shape(i), 0, thread / kWarp);
}

template <int n8, bool by_blocks = false>
QSPEC_KERNEL(step_threads<n8>(), 1) step_kernel(const QSPEC_GRID_CONSTANT StepParams params) {
  constexpr int threads = step_threads<n8>();
  const int thread = thread_index();
  if (thread < static_cast<int>(sizeof(StepBatch) / 8)) shared_at<uint2>(kBatchAt + thread * 8) = load_constant(reinterpret_cast<const uint2*>(params.batch) + thread);
  if (thread == threads - 1) shared_at<StepParams>(kParamsAt) = params;
  fetch_phase(params, 0, thread);
  commit_async();
  load_streams<n8>(params, thread);
  const StepBatch& batch = step_batch();
  if (batch.num_items > 0) start_attention<!by_blocks>(batch, params.attention, thread, threads);
  if (thread == 0) begin_barrier(params.workspace.barrier);
  if constexpr (n8 >= kWideRowBlocks) {
    if (thread == 0) WideStages::begin_launch();
  } else if constexpr (has_input_runs<n8>(GemmMode::kHi)) {
    if (thread == 0) InputRuns::begin_launch();
  }
  wait_async<0>();
  named_barrier(kBlockBarrier, threads);

  stamp_clock(params, -1, 0);
  QSPEC_NO_UNROLL
  for (int i = 0; i < params.num_phases; ++i) {
    const bool is_skipped = phase_at(i).rows != Rows::kTokens && step_batch().logit_rows == 0;
    fetch_phase(params, i + 1, thread_index());  // into the slot that everybody left at the last barrier
    if (phase_at(i).waits_before && thread_index() == threads - 1) wait_at_barrier();
    if (!is_skipped) run_phase<n8, by_blocks>(params, i);
    stamp_clock(params, i, kStampSteps - 3);
    const bool is_barrier = phase_at(i).barrier_after && !is_skipped, arrives = phase_at(i).arrives_after, is_unfinished = !is_skipped && leaves_sums<n8>(phase_at(i));
    commit_async(), wait_async<0>();        // the next phase
    named_barrier(kBlockBarrier, threads);  // from here on this one may change under us
    stamp_clock(params, i, kStampSteps - 2);
    if (is_barrier && thread_index() == 0) arrive_at_barrier();
    if (arrives && thread_index() == threads - 1) arrive_at_barrier();
    if (is_unfinished) finish_linear<n8>(i);  // there is a barrier behind it, so the phase is still there
    const bool has_next = i + 1 < params.num_phases, is_attention_next = has_next && phase_at(i + 1).kind == PhaseKind::kAttention;
    const bool writes_first = step_batch().writes_first != 0;
    if (has_next && thread_index() / kWarp == 1) prefetch_norm(phase_at(i + 1), lane_index());
    if (is_attention_next && !writes_first) begin_attention<n8, by_blocks>(params, i + 1, false);
    if (is_barrier) {
      if (thread_index() == 0) wait_at_barrier();
      named_barrier(kBlockBarrier, threads);
    }
    if (is_attention_next && writes_first) begin_attention<n8, by_blocks>(params, i + 1, true);
    stamp_clock(params, i, kStampSteps - 1);
  }
}

}  // namespace qspec::cuda
