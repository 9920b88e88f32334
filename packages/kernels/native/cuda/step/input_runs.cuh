// The activations of a block's share of a linear on their way to shared memory, run by run of k, so that products begin when the first run is there.
//
// From sm_90 on the copy engine brings them and a counter for each run says that it is there; elsewhere all threads copy all, and meet. Not where words are
// waited for, nor for integers, whose scales come with them.
#pragma once
#include "common/bulk_copy.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

#if defined(QSPEC_HAS_BULK_COPY)
constexpr bool kHasInputRuns = true;
#else
constexpr bool kHasInputRuns = false;
#endif
template <int n8>
constexpr bool has_input_runs(GemmMode mode) {
  return kHasInputRuns && !may_post<n8>() && n8 < kWideRowBlocks && !is_integer(mode);
}

struct InputRuns {
#if defined(QSPEC_HAS_BULK_COPY)
  QSPEC_DEVICE static uint32_t counter_at(int run) { return kRunCountersAt + run * 8; }

  // At the launch's beginning, one thread.
  QSPEC_DEVICE static void begin_launch() {
    for (int run = 0; run < kMaxShareRuns; ++run) begin_counter(counter_at(run), 1);
    publish_counters();
    shared_store_4(kRunParityAt, 1);
  }
  // One warp, before the block's barrier: `tiles` tiles of k of `tile_bytes` each. Every counter has a round, whether there is such a run or not.
  QSPEC_DEVICE static void copy(uint32_t to, const uint8_t* from, int tiles, int tile_bytes) {
    const int run = lane_index(), left = tiles - run * kRunTiles, at = run * kRunTiles * tile_bytes;
    if (run == 0) shared_store_4(kRunParityAt, parity() ^ 1);
    if (run >= kMaxShareRuns) return;
    const int bytes = (left < 0 ? 0 : left < kRunTiles ? left : kRunTiles) * tile_bytes;
    fence_bulk_copies();
    expect_bytes(counter_at(run), bytes);
    if (bytes > 0) copy_bulk(to + at, from + at, bytes, counter_at(run));
  }
  // Behind that barrier: what to wait with.
  QSPEC_DEVICE static uint32_t parity() { return shared_load_4(kRunParityAt); }
  // Until a run's are there.
  QSPEC_DEVICE static void wait(int run, uint32_t parity) { wait_for_counter(counter_at(run), parity); }
#else
  QSPEC_DEVICE static void begin_launch() {}
  QSPEC_DEVICE static void copy(uint32_t, const uint8_t*, int, int) {}
  QSPEC_DEVICE static uint32_t parity() { return 0; }
  QSPEC_DEVICE static void wait(int, uint32_t) {}
#endif
};

}  // namespace qspec::cuda
