// One forward pass in one kernel: a block a multiprocessor, all of them walking the phases together.
//
// Why one kernel: a decode step is bound by the bytes of its weights, and weights depend on nothing. Kernels one after another stop the stream
// at every boundary; here every warp asks for weights ahead of its reading, across phases, so that memory works on while the grid meets at a
// barrier or computes attention. See docs/architecture.md.
#pragma once
#include "step/attention.cuh"
#include "step/linear.cuh"
#include "step/row_phases.cuh"

namespace qspec::cuda {

// A barrier over the grid. What any thread wrote before it can be read after it, past L1.
struct GridBarrier {
  unsigned long long* arrivals;
  unsigned long long target;

  QSPEC_DEVICE void begin(unsigned long long* counter) {
    arrivals = counter;
    const unsigned long long blocks = static_cast<unsigned long long>(grid_blocks());
    target = load_relaxed(counter) / blocks * blocks;  // fewer than all can have arrived at this launch's first barrier
  }
  // All warps of the block have met before, and meet again after.
  QSPEC_DEVICE void arrive(int thread) {
    if (thread != 0) return;
    target += static_cast<unsigned long long>(grid_blocks());
    fence_device();
    add_relaxed(arrivals, 1);
  }
  QSPEC_DEVICE void wait(int thread) const {
    if (thread != 0) return;
    while (load_relaxed(arrivals) < target) pause();
    fence_device();
  }
};

QSPEC_DEVICE void fetch_phase(const StepParams& params, int index, int thread) {
  if (index >= params.num_phases || thread >= kPhaseBytes / 16) return;
  reinterpret_cast<uint4*>(&phase_at(index))[thread] = load_constant(reinterpret_cast<const uint4*>(params.phases + index) + thread);
}

template <int n8>
QSPEC_DEVICE void run_phase(const StepParams& params, const Phase& phase, RowBlocks blocks, int index, int num_linears) {
  constexpr int warps = step_warps<n8>();
  const int thread = thread_index(), warp = thread / kWarp;
  switch (phase.kind) {
    case PhaseKind::kEmbedding: embed(phase.embedding, step_batch(), warp, warps); break;
    case PhaseKind::kRopeTable: fill_rope_table(phase.rope_table, step_batch(), thread, warps * kWarp); break;
    case PhaseKind::kRows: run_rows<n8>(phase, blocks); break;
    case PhaseKind::kGather: gather_rows(phase, warps); break;
    case PhaseKind::kLinear: run_linear<n8>(params, phase, index, num_linears); break;
    case PhaseKind::kReduce:
      if constexpr (n8 >= 3) run_reduce<n8>(params, phase, blocks);
      break;
    case PhaseKind::kAttention:
      with_attention(params, phase, blocks, index, [](const auto& attention) { attention.run(); });
      break;
  }
}

// What a phase can do before its input is there: attention fetches K and V that are in the cache already. With writes_first
// every row's K and V are put into the cache before that.
template <int n8>
QSPEC_DEVICE void begin_attention(const StepParams& params, const Phase& phase, RowBlocks blocks, GridBarrier& barrier, bool writes_first, int index) {
  constexpr int threads = step_threads<n8>();
  const int thread = thread_index();
  if (writes_first) {
    write_all_kv(phase.attention, step_batch(), step_warps<n8>());
    named_barrier(kBlockBarrier, threads);
    barrier.arrive(thread), barrier.wait(thread);
    named_barrier(kBlockBarrier, threads);
  }
  with_attention(params, phase, blocks, index, [](const auto& attention) { attention.fetch_first(); });
}

// What the warps must know to stream: the block's share of every shape, where every linear's begins.
template <int n8>
QSPEC_DEVICE void load_streams(const StepParams& params, int thread) {
  if (thread % kWarp == 0) {  // one a warp: they wait for different memory
    for (int i = thread / kWarp; i < params.num_shapes; i += step_warps<n8>())
      load_shape<n8>(params.linears[params.shape_linears[i]].linear, block_index(), &stream_shape(i));
  }
  named_barrier(kBlockBarrier, step_threads<n8>());
  for (int i = thread; i < params.num_linears; i += step_threads<n8>()) load_source(params.linears[i], &stream_source(i));
}

template <int n8>
QSPEC_KERNEL(step_threads<n8>(), 1) step_kernel(const QSPEC_GRID_CONSTANT StepParams params) {
  constexpr int threads = step_threads<n8>();
  const int thread = thread_index();
  if (thread < kUnitCounters) shared_store_4(kUnitsAt + thread * 4, 0), shared_store_4(kReducedAt + thread * 4, ~0u), shared_store_4(kStoredAt + thread * 4, 0);
  if (thread < static_cast<int>(sizeof(StepBatch) / 8)) shared_at<uint2>(kBatchAt + thread * 8) = load_constant(reinterpret_cast<const uint2*>(params.batch) + thread);
  fetch_phase(params, 0, thread);
  load_streams<n8>(params, thread);
  const StepBatch& batch = step_batch();
  if (batch.num_items > 0) start_attention(batch, params.attention_groups, thread, threads);
  GridBarrier barrier;
  if (thread == 0) barrier.begin(params.workspace.barrier);
  named_barrier(kBlockBarrier, threads);

  const RowBlocks blocks = params.blocks;
  const bool has_logits = batch.logit_rows > 0, writes_first = batch.writes_first != 0;
  const int num_linears = has_logits ? params.num_linears : params.num_token_linears;
  prefetch_linear<n8>(0, num_linears, thread);
  stamp_clock(params, -1, 0);
  for (int i = 0; i < params.num_phases; ++i) {
    const Phase& phase = phase_at(i);
    const bool is_skipped = phase.rows != Rows::kTokens && !has_logits, is_barrier = phase.barrier_after && !is_skipped;
    if (!is_skipped) run_phase<n8>(params, phase, blocks, i, num_linears);
    stamp_clock(params, i, kStampSteps - 3);
    fetch_phase(params, i + 1, thread);     // into the slot that everybody left at the last barrier
    named_barrier(kBlockBarrier, threads);  // from here on `phase` may change under us
    stamp_clock(params, i, kStampSteps - 2);
    const bool is_attention_next = i + 1 < params.num_phases && phase_at(i + 1).kind == PhaseKind::kAttention;
    if (is_barrier) barrier.arrive(thread);
    if (is_attention_next && !writes_first) begin_attention<n8>(params, phase_at(i + 1), blocks, barrier, false, i + 1);
    if (is_barrier) {
      barrier.wait(thread);
      named_barrier(kBlockBarrier, threads);
    }
    if (is_attention_next && writes_first) begin_attention<n8>(params, phase_at(i + 1), blocks, barrier, true, i + 1);
    stamp_clock(params, i, kStampSteps - 1);
  }
}

}  // namespace qspec::cuda
