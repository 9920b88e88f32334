// The ring of stages through which a wide linear's activations come to shared memory, a piece of k (4 tiles) of a pass's rows at a time.
//
// On sm_90a one thread has the copy engine do it, and warps wait for, and hand back, each stage by counters; elsewhere all threads copy, and meet.
#pragma once
#include "common/bulk_copy.cuh"
#include "common/wide_mma.cuh"
#include "step/wide_shares.cuh"

namespace qspec::cuda {

template <int n8>
struct WideStages {
  static constexpr int kStages = kWideStages, kStageBytes = wide_stage_bytes(n8), kTileBytesOfPass = n8 * kWideBlockBytes;

  int stage, parity;   // that is read next; of its round through the ring
  uint32_t region;

  QSPEC_DEVICE WideStages() : stage(wide_state().stage), parity(wide_state().parity), region(step_params().region_at) {}
  // Where the stage that is read begins.
  QSPEC_DEVICE uint32_t place() const { return region + stage * kStageBytes; }
  QSPEC_DEVICE static uint32_t at(int stage) { return step_params().region_at + stage * kStageBytes; }

  // Starts copying the next piece, if there is one, into a stage.
  QSPEC_DEVICE static void copy(const LinearSpec& spec, const XForm& x, int to) {
    PieceCursor& next = wide_state().input;
    const WideShares& shares = wide_state().shares;
    const bool is_done = next.is_done();
    if (!is_done) {
      const int all_bytes = x_tile_bytes(step_params().blocks), tiles = piece_tiles(spec.weight.k_tiles, next.piece * kPieceTiles);
      copy_tiles(x.data + static_cast<int64_t>(next.piece * kPieceTiles) * all_bytes + shares.pass(next.tile) * kTileBytesOfPass, all_bytes, tiles, to);
    }
    end_copy();
    if (!is_done && thread_index() == 0) next.advance(shares, spec, wide_state().job_end);
  }

#if defined(QSPEC_HAS_WGMMA)
  QSPEC_DEVICE static uint32_t full_at(int stage) { return kWideCountersAt + stage * 16; }
  QSPEC_DEVICE static uint32_t empty_at(int stage) { return full_at(stage) + 8; }

  // At the launch's beginning, one thread.
  QSPEC_DEVICE static void begin_launch() {
    for (int i = 0; i < kStages; ++i) begin_counter(full_at(i), 1), begin_counter(empty_at(i), step_warps<n8>());
    publish_counters();
    wide_state().next_stage = wide_state().next_parity = 0;
  }
  QSPEC_DEVICE static void copy_tiles(const uint8_t* from, int all_bytes, int tiles, int to) {
    expect_bytes(full_at(to), tiles * kTileBytesOfPass);
    QSPEC_NO_UNROLL
    for (int i = 0; i < tiles; ++i) copy_bulk(at(to) + i * kTileBytesOfPass, from + static_cast<int64_t>(i) * all_bytes, kTileBytesOfPass, full_at(to));
  }
  QSPEC_DEVICE static void end_copy() {}
  // One thread, when the state is there: all stages but one.
  QSPEC_DEVICE static void fill(const LinearSpec& spec, const XForm& x) {
    fence_bulk_copies();
    QSPEC_NO_UNROLL
    for (int i = 0, to = wide_state().stage; i < kStages - 1; ++i, to = to + 1 < kStages ? to + 1 : 0) copy(spec, x, to);
  }
  QSPEC_DEVICE static void begin(const LinearSpec&, const XForm&) {}
  // Until the stage is full. Refills the one that was read before it, when all warps are done with it; in the first round they are.
  QSPEC_DEVICE void wait(const LinearSpec& spec, const XForm& x) {
    if (thread_index() == 0 && !wide_state().input.is_done()) {
      const int before = stage == 0 ? kStages - 1 : stage - 1;
      wait_for_counter(empty_at(before), stage == 0 ? parity ^ 1 : parity);
      copy(spec, x, before);
    }
    sync_warp();
    wait_for_counter(full_at(stage), parity);
  }
  // The warp is done with the stage.
  QSPEC_DEVICE void release(int lane) {
    if (lane == 0) arrive_at_counter(empty_at(stage));
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
  // Before the block's next barrier.
  QSPEC_DEVICE void end() const {
    if (thread_index() == 0) wide_state().next_stage = stage, wide_state().next_parity = parity;
  }
#else
  QSPEC_DEVICE static void begin_launch() { wide_state().next_stage = wide_state().next_parity = 0; }
  QSPEC_DEVICE static void copy_tiles(const uint8_t* from, int all_bytes, int tiles, int to) {
    constexpr int kUnits = kTileBytesOfPass / 16;
    for (int i = thread_index(); i < tiles * kUnits; i += step_threads<n8>()) copy_async<16>(at(to) + i * 16, from + static_cast<int64_t>(i / kUnits) * all_bytes + i % kUnits * 16);
  }
  QSPEC_DEVICE static void end_copy() {
    commit_async();
    named_barrier(kBlockBarrier, step_threads<n8>());  // all have seen which piece it was
  }
  QSPEC_DEVICE static void fill(const LinearSpec&, const XForm&) {}
  // All threads.
  QSPEC_DEVICE void begin(const LinearSpec& spec, const XForm& x) const {
    for (int i = 0, to = stage; i < kStages - 1; ++i, to = to + 1 < kStages ? to + 1 : 0) {
      copy(spec, x, to);
      named_barrier(kBlockBarrier, step_threads<n8>());
    }
  }
  QSPEC_DEVICE void wait(const LinearSpec& spec, const XForm& x) {
    wait_async<kStages - 2>();
    named_barrier(kBlockBarrier, step_threads<n8>());  // the piece is there for all, and everybody is done with the one before
    copy(spec, x, stage == 0 ? kStages - 1 : stage - 1);
  }
  QSPEC_DEVICE void release(int) { stage = stage + 1 < kStages ? stage + 1 : 0; }
  QSPEC_DEVICE void end() const {
    wait_async<0>();
    if (thread_index() == 0) wide_state().next_stage = stage;
  }
#endif
};

}  // namespace qspec::cuda
