// One forward pass in one kernel: a block a multiprocessor, all of them walking the phases together.
//
// Why one kernel: a decode step is bound by the bytes of its weights, and weights depend on nothing. Kernels one after another stop the stream
// at every boundary; here each block's producer warp keeps its ring of stages full across phases, so that memory works on while the grid
// meets at a barrier or computes attention. See docs/architecture.md.
#pragma once
#include "step/attention.cuh"
#include "step/linear.cuh"
#include "step/row_phases.cuh"

namespace qspec::cuda {

// A barrier over the grid's consumers. What any thread wrote before it can be read after it, past L1.
struct GridBarrier {
  unsigned long long* arrivals;
  unsigned long long target;

  QSPEC_DEVICE void begin(unsigned long long* counter) {
    arrivals = counter;
    const unsigned long long blocks = static_cast<unsigned long long>(grid_blocks());
    target = load_acquire(counter) / blocks * blocks;  // fewer than all can have arrived at this launch's first barrier
  }
  QSPEC_DEVICE void sync(int thread, int num_threads) {
    named_barrier(kConsumerBarrier, num_threads);
    if (thread == 0) {
      target += static_cast<unsigned long long>(grid_blocks());
      fence_device();
      add_release(arrivals, 1);
      while (load_acquire(arrivals) < target) pause();
    }
    named_barrier(kConsumerBarrier, num_threads);
  }
};

QSPEC_DEVICE void fetch_phase(const StepParams& params, const StepShared& shared, int index, int thread) {
  if (index >= params.num_phases || thread >= static_cast<int>(sizeof(Phase) / 16)) return;
  reinterpret_cast<uint4*>(phase_slot(shared, index))[thread] = load_constant(reinterpret_cast<const uint4*>(params.phases + index) + thread);
}

QSPEC_DEVICE RowBlocks row_blocks(int n8, int rows) {
  if (n8 > 1) return {n8, 8};
  return {1, rows <= 1 ? 1 : rows <= 2 ? 2 : rows <= 4 ? 4 : 8};
}

template <int n8>
QSPEC_DEVICE void consume(const StepParams& params, const StepShared& shared) {
  constexpr int warps = consumer_warps<n8>(), threads = warps * kWarp;
  const StepBatch& batch = *params.batch;
  const int thread = thread_index(), warp = thread / kWarp;
  const RowBlocks blocks = row_blocks(n8, batch.rows > batch.logit_rows ? batch.rows : batch.logit_rows);
  GridBarrier barrier;
  if (thread == 0) barrier.begin(params.workspace.barrier);
  uint32_t piece = 0;
  const bool is_stamping = params.stamps != nullptr && block_index() == 0 && thread == 0;
  fetch_phase(params, shared, 0, thread);
  named_barrier(kConsumerBarrier, threads);
  if (is_stamping) params.stamps[0] = device_clock();
  for (int i = 0; i < params.num_phases; ++i) {
    const Phase& phase = *phase_slot(shared, i);
    const bool is_skipped = phase.rows != Rows::kTokens && batch.logit_rows == 0;
    if (!is_skipped) {
      switch (phase.kind) {
        case PhaseKind::kEmbedding: embed(phase.embedding, batch, warp, warps); break;
        case PhaseKind::kRopeTable: fill_rope_table(phase.rope_table, batch, thread, threads); break;
        case PhaseKind::kRows: run_rows(phase, batch, blocks, shared, warp, warps); break;
        case PhaseKind::kGather: gather_rows(phase, batch, phase.linear.output, warp, warps); break;
        case PhaseKind::kLinear: piece += run_linear<n8>(params, shared, phase, batch, blocks, piece); break;
        case PhaseKind::kAttention:
          if (batch.has_tree) {
            write_all_kv(phase.attention, batch, reinterpret_cast<float*>(shared.x) + warp * kMaxHeadDim, warp, warps);
            barrier.sync(thread, threads);
          }
          run_attention<warps>(params, shared, phase, batch, blocks);
          break;
      }
    }
    const bool is_barrier = phase.barrier_after && !is_skipped;
    fetch_phase(params, shared, i + 1, thread);  // into the slot that everybody left at the last barrier
    if (is_barrier) barrier.sync(thread, threads);
    else named_barrier(kConsumerBarrier, threads);
    if (is_stamping) params.stamps[i + 1] = device_clock();
  }
}

template <int n8>
constexpr int step_threads() {
  return (consumer_warps<n8>() + 1) * kWarp;
}

template <int n8>
QSPEC_KERNEL(step_threads<n8>(), 1) step_kernel(const QSPEC_GRID_CONSTANT StepParams params) {
  const int slab_bytes = slab_floats(job_tiles<n8>(), n8 == 1 ? row_blocks(1, params.batch->rows > params.batch->logit_rows ? params.batch->rows : params.batch->logit_rows).columns() : 8 * n8) * 4;
  const StepShared shared = carve_shared(params, slab_bytes);
  const int thread = thread_index();
  if (thread < params.num_stages) barrier_init(shared.full + thread, 1), barrier_init(shared.empty + thread, 1);
  if (thread < kUnitCounters) shared.units[thread] = 0;
  if (thread == 0) shared.flags[kIssued] = 0;
  fence_barrier_init();
  named_barrier(2, step_threads<n8>());
  if (thread / kWarp < consumer_warps<n8>()) consume<n8>(params, shared);
  else produce_weights<n8>(params, shared, params.batch->logit_rows > 0);
}

}  // namespace qspec::cuda
