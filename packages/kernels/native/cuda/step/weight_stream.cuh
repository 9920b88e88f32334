// How weights come to a warp. Every warp has a small ring of stages in shared memory and knows its own jobs of all linear phases; as soon as
// it has read a stage it asks for what comes next, whichever phase that belongs to. Weights depend on nothing, so the stream runs on while the
// grid is at a barrier or in attention, and no warp waits for another.
//
// A job is one run of k of one row-tile (n8 <= 2) or of two (n8 >= 3); warps take the jobs of a phase in turn. A stage holds one part of a run:
// all of it for the hi plane, half for both planes, a quarter for dense weights: [row-tile 0: codes and scales, low codes][row-tile 1: …].
#pragma once
#include "step/step_shared.cuh"

namespace qspec::cuda {

QSPEC_HOST_DEVICE constexpr int part_tiles(GemmMode mode) {
  return mode == GemmMode::kDense ? kRunTiles / 4 : mode == GemmMode::kHiLo ? kPieceTiles : kRunTiles;
}
// Bytes of one row-tile's part.
QSPEC_HOST_DEVICE constexpr int part_bytes(GemmMode mode, int group_size) {
  return mode == GemmMode::kDense ? part_tiles(mode) * kDenseTileBytes : part_tiles(mode) / kPieceTiles * full_piece_bytes(group_size);
}
QSPEC_HOST_DEVICE constexpr int low_part_bytes(GemmMode mode) { return mode == GemmMode::kHiLo ? part_tiles(mode) * kTileBytes : 0; }

// One thread: this block's share of a linear's shape.
template <int n8>
QSPEC_DEVICE void load_shape(const LinearSpec& spec, int block, StreamShape* out) {
  const DeviceWeight w = spec.weight;
  StreamShape s;
  s.mode = spec.mode, s.is_pair = spec.epilogue == Epilogue::kSilu;
  int part = 0;
  while (block >= spec.part_block[part + 1]) ++part;
  const int first = spec.part_block[part], blocks = spec.part_block[part + 1] - first, i = block - first;
  s.item_begin = static_cast<int>(static_cast<int64_t>(spec.num_items) * i / blocks);
  s.item_end = static_cast<int>(static_cast<int64_t>(spec.num_items) * (i + 1) / blocks);
  s.run_begin = spec.part_slice[part] * kSliceRuns;
  const int run_end = spec.part_slice[part + 1] * kSliceRuns, runs = num_runs(w.k_tiles);
  s.num_runs = (run_end < runs ? run_end : runs) - s.run_begin;
  const int items = s.item_end - s.item_begin, units = s.is_pair || n8 < 3 ? items : (items + 1) / 2;
  s.unit_jobs = s.num_runs * (s.is_pair && n8 < 3 ? 2 : 1);
  s.num_jobs = units * s.unit_jobs;
  s.second_tile = s.is_pair ? w.n_tiles / 2 : 1;
  s.tiles = (run_end < runs ? run_end * kRunTiles : w.k_tiles) - s.run_begin * kRunTiles;
  s.k = (run_end < runs ? run_end * kRunK : w.k) - s.run_begin * kRunK;
  s.part_tiles = part_tiles(s.mode);
  const bool is_dense = s.mode == GemmMode::kDense;
  s.part_bytes = part_bytes(s.mode, w.group_size), s.low_part_bytes = low_part_bytes(s.mode);
  s.run_bytes = s.part_bytes * (kRunTiles / s.part_tiles), s.low_run_bytes = s.low_part_bytes * (kRunTiles / s.part_tiles);
  s.tile_bytes = is_dense ? static_cast<uint32_t>(w.k_tiles) * kDenseTileBytes : static_cast<uint32_t>(hi_row_tile_bytes(w.k, w.k_tiles, w.group_size));
  s.low_tile_bytes = static_cast<uint32_t>(w.k_tiles) * kTileBytes;
  s.end_bytes = s.tile_bytes - s.run_begin * s.run_bytes;
  s.low_end_bytes = s.low_part_bytes ? s.low_tile_bytes - s.run_begin * s.low_run_bytes : 0;
  *out = s;
}

// One thread a linear, after the shapes.
QSPEC_DEVICE void load_source(const Phase& phase, StreamSource* out) {
  const StreamShape& s = stream_shape(phase.shape_index);
  const DeviceWeight& w = phase.linear.weight;
  out->shape = phase.shape_index;
  out->first = (s.mode == GemmMode::kDense ? w.dense : w.hi) + static_cast<int64_t>(s.item_begin) * s.tile_bytes + static_cast<int64_t>(s.run_begin) * s.run_bytes;
  out->low = w.lo + static_cast<int64_t>(s.item_begin) * s.low_tile_bytes + static_cast<int64_t>(s.run_begin) * s.low_run_bytes;
}

// Which job of a share comes next for a warp.
struct JobCursor {
  int job, unit, within;  // within: job of the unit
  QSPEC_DEVICE void begin(const StreamShape& s, int warp) {
    job = warp, unit = 0, within = warp;
    settle(s);
  }
  QSPEC_DEVICE void advance(const StreamShape& s, int warps) {
    job += warps, within += warps;
    settle(s);
  }
  // Jobs of a unit: the runs of its first row-tile, then (n8 < 3) of its second.
  QSPEC_DEVICE bool is_second(const StreamShape& s) const { return within >= s.num_runs; }
  QSPEC_DEVICE int run(const StreamShape& s) const { return within >= s.num_runs ? within - s.num_runs : within; }

 private:
  QSPEC_DEVICE void settle(const StreamShape& s) {
    if (job >= s.num_jobs) return;
    while (within >= s.unit_jobs) within -= s.unit_jobs, ++unit;
  }
};

// n8 >= 3: does the unit have two row-tiles?
QSPEC_DEVICE bool has_second_tile(const StreamShape& s, int unit) { return s.is_pair || s.item_begin + 2 * unit + 1 < s.item_end; }

template <int n8>
struct WeightStream {
  int warp, stages, stage_bytes;
  bool is_asking;           // one lane a warp
  uint32_t ring, full;      // this warp's
  int linear, end;          // to ask for next; of this launch
  JobCursor cursor;
  int part;                 // of the job's run
  int ask_stage, num_asked, take_stage;
  uint32_t take_parity;

  QSPEC_DEVICE void begin(const StepParams& params, int thread, int num_linears) {
    warp = thread / kWarp, is_asking = thread % kWarp == 0, stages = params.warp_stages, stage_bytes = params.stage_bytes;
    ring = params.ring_at + warp * stages * stage_bytes, full = kFullAt + warp * stages * 8;
    end = num_linears, linear = -1;
    part = 0;
    ask_stage = num_asked = take_stage = 0, take_parity = 0;
    next_linear();
    while (num_asked < stages && linear < end) ask();
  }
  // The next part of the current job; waits until it is there.
  QSPEC_DEVICE uint32_t take() {
    while (!barrier_test(full + take_stage * 8, take_parity)) pause();
    const uint32_t stage = ring + take_stage * stage_bytes;
    if (++take_stage == stages) take_stage = 0, take_parity ^= 1;
    return stage;
  }
  // All lanes are done with the part taken last.
  QSPEC_DEVICE void give_back() {
    sync_warp();
    --num_asked;
    if (linear < end) ask();
  }

 private:
  QSPEC_DEVICE const StreamShape& shape() const { return stream_shape(static_cast<int>(stream_source(linear).shape)); }

  // The first linear from the next on in which this warp has a job.
  QSPEC_DEVICE void next_linear() {
    while (++linear < end) {
      cursor.begin(shape(), warp);
      if (cursor.job < shape().num_jobs) return;
    }
  }

  QSPEC_DEVICE void ask() {
    const StreamShape& s = shape();
    const int run = n8 < 3 ? cursor.run(s) : cursor.within;
    if (is_asking) {
      const StreamSource& source = stream_source(linear);
      const int first = n8 < 3 ? cursor.unit + (cursor.is_second(s) ? s.second_tile : 0) : cursor.unit * (s.is_pair ? 1 : 2);
      const int tiles = n8 >= 3 && has_second_tile(s, cursor.unit) ? 2 : 1;
      const uint32_t at = run * s.run_bytes + part * s.part_bytes, low_at = run * s.low_run_bytes + part * s.low_part_bytes;
      const uint32_t bytes = s.end_bytes - at < s.part_bytes ? s.end_bytes - at : s.part_bytes;
      const uint32_t low_bytes = s.low_end_bytes - low_at < s.low_part_bytes ? s.low_end_bytes - low_at : s.low_part_bytes;
      const uint32_t barrier = full + ask_stage * 8;
      uint32_t to = ring + ask_stage * stage_bytes;
      barrier_expect(barrier, (bytes + low_bytes) * tiles);
      QSPEC_UNROLL
      for (int j = 0; j < job_tiles<n8>(); ++j) {
        if (j >= tiles) break;
        const uint32_t tile = first + j * s.second_tile;
        bulk_copy(to, source.first + static_cast<uint64_t>(tile) * s.tile_bytes + at, bytes, barrier);
        if (low_bytes != 0) bulk_copy(to + s.part_bytes, source.low + static_cast<uint64_t>(tile) * s.low_tile_bytes + low_at, low_bytes, barrier);
        to += s.part_bytes + s.low_part_bytes;
      }
    }
    ++num_asked;
    if (++ask_stage == stages) ask_stage = 0;
    ++part;
    if (part * s.part_tiles < kRunTiles && run * kRunTiles + part * s.part_tiles < s.tiles) return;
    part = 0;
    cursor.advance(s, step_warps<n8>());
    if (cursor.job >= s.num_jobs) next_linear();
  }
};

}  // namespace qspec::cuda
