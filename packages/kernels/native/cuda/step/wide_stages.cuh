// The ring of stages through which a wide linear's activations come to shared memory: a unit (128 k of a pass's 64 rows) at a time. A run of k
// goes once through the ring.
//
// On sm_90a the copy engine does it, warps in turn tell it to, and all wait for, and hand back, each stage by counters; elsewhere all threads copy,
// and meet.
#pragma once
#include "common/bulk_copy.cuh"
#include "common/wide_mma.cuh"
#include "step/wide_shares.cuh"

namespace qspec::cuda {

struct WideStages {
  static constexpr int kTileBytesOfPass = kWideRowBlocks * kWideBlockBytes;
  static constexpr int kAhead = 2;  // units that are copied before they are read. Fewer than stages: a warp that is late holds nobody up

  uint32_t region;
  int parity;           // of the round through the ring
  RunCursor at;         // the run whose units are copied next
  const uint8_t* from;  // and its activations
  int turn;             // the unit of a run during which this warp starts a copy, or -1. Kept: a thread's number is slow to come by

  QSPEC_DEVICE explicit WideStages(uint32_t region_at) : region(region_at), parity(wide_state().parity), at(wide_state().first), turn(find_turn()) {}
  QSPEC_DEVICE static int find_turn() {
    constexpr int kEach = kStepWarps / kWideStages;
    const int warp = thread_index() / kWarp;
    return not_hoisted(warp % kEach == 0 ? warp / kEach : -1);
  }
  // Where a unit is.
  QSPEC_DEVICE uint32_t place(int unit) const { return region + unit * kWideStageBytes; }

  QSPEC_DEVICE static int tile_bytes() { return x_tile_bytes(step_params().blocks); }
  QSPEC_DEVICE void find(const XForm& x) {
    from = x.data + wide_state().shares.pass(at.tile) * kTileBytesOfPass + static_cast<int64_t>(at.run) * kRunTiles * tile_bytes();
  }
  // On to the next run.
  QSPEC_DEVICE void advance(const XForm& x) {
    if (!at.advance()) from += kRunTiles * tile_bytes();
    else if (!at.is_done()) find(x);
  }
  // Of tile `i` of a unit. Behind the last tile of k it is that again: to be multiplied by zeros, or added to nothing.
  QSPEC_DEVICE const uint8_t* source(int unit, int i, int last, int bytes) const {
    const int tile = unit * kWideUnitTiles + i;
    return from + (tile < last ? tile : last) * bytes;
  }
  QSPEC_DEVICE int last_tile(const LinearSpec& spec) const { return spec.weight.k_tiles - 1 - at.run * kRunTiles; }

#if defined(QSPEC_HAS_WGMMA)
  static constexpr int kCopyGroups = 0;
  QSPEC_DEVICE static uint32_t full_at(int stage) { return kWideCountersAt + stage * 16; }
  QSPEC_DEVICE static uint32_t empty_at(int stage) { return full_at(stage) + 8; }

  // At the launch's beginning, one thread.
  QSPEC_DEVICE static void begin_launch() {
    for (int i = 0; i < kWideStages; ++i) begin_counter(full_at(i), 1), begin_counter(empty_at(i), kStepWarps);
    publish_counters();
    wide_state().next_parity = 0;
  }
  // Starts copying a unit of the run `at`. One lane.
  QSPEC_DEVICE void copy(const LinearSpec& spec, int unit) const {
    const uint32_t full = full_at(unit);
    const int last = last_tile(spec), bytes = tile_bytes();
    expect_bytes(full, kWideStageBytes);
    QSPEC_UNROLL
    for (int i = 0; i < kWideUnitTiles; ++i) copy_bulk(place(unit) + i * kTileBytesOfPass, source(unit, i, last, bytes), kTileBytesOfPass, full);
  }
  // One thread, when the state is there: the first units.
  QSPEC_DEVICE void fill(const LinearSpec& spec, const XForm& x) {
    if (at.is_done()) return;
    fence_bulk_copies();
    find(x);
    for (int unit = 0; unit < kAhead; ++unit) copy(spec, unit);
  }
  // All threads.
  QSPEC_DEVICE void begin(const LinearSpec&, const XForm& x) { find(x); }
  // Until a unit is there.
  QSPEC_DEVICE void wait(const LinearSpec&, const XForm&, int unit) const { wait_for_counter(full_at(unit), parity); }
  // While a unit is multiplied: copies a later one, when all warps are done with what its stage held; in the first round they are. Warps take turns, so
  // that none is always late.
  QSPEC_DEVICE void refill(const LinearSpec& spec, const XForm& x, int unit) {
    const int to = (unit + kAhead) % kWideRunUnits;
    if (to == 0) advance(x);
    if (turn == unit && !at.is_done()) {
      wait_for_counter(empty_at(to), unit + kAhead < kWideStages ? parity ^ 1 : parity);
      if (elect_lane()) copy(spec, to);
      sync_warp();
    }
  }
  // The warp is done with a unit.
  QSPEC_DEVICE void release(int unit) const { arrive_of_warp(empty_at(unit)); }
#else
  static constexpr int kCopyGroups = 1;  // of asynchronous copies, every thread's, a unit
  QSPEC_DEVICE static void begin_launch() { wide_state().next_parity = 0; }
  QSPEC_DEVICE void copy(const LinearSpec& spec, int unit) const {
    constexpr int kParts = kTileBytesOfPass / 16;
    const int last = last_tile(spec), bytes = tile_bytes();
    if (!at.is_done())
      for (int i = thread_index(); i < kWideUnitTiles * kParts; i += kStepThreads) copy_async<16>(place(unit) + i * 16, source(unit, i / kParts, last, bytes) + i % kParts * 16);
    commit_async();
  }
  QSPEC_DEVICE void fill(const LinearSpec&, const XForm&) const {}
  QSPEC_DEVICE void begin(const LinearSpec& spec, const XForm& x) {
    find(x);
    for (int unit = 0; unit < kAhead; ++unit) copy(spec, unit);
  }
  // Behind the unit's copies are those of the next and, mostly, weights.
  QSPEC_DEVICE void wait(const LinearSpec& spec, const XForm& x, int unit) {
    wait_async<kAhead - 1>();
    named_barrier(kBlockBarrier, kStepThreads);  // the unit is there for all, and everybody is done with the one before
    const int to = (unit + kAhead) % kWideRunUnits;
    if (to == 0) advance(x);
    copy(spec, to);
  }
  QSPEC_DEVICE void refill(const LinearSpec&, const XForm&, int) const {}
  QSPEC_DEVICE void release(int) const {}
#endif
  QSPEC_DEVICE void end_run() { parity ^= 1; }
  // Before the block's next barrier.
  QSPEC_DEVICE void end() const {
    if (kCopyGroups > 0) wait_async<0>();
    if (thread_index() == 0) wide_state().next_parity = parity;
  }
};

}  // namespace qspec::cuda
