// How weights come to a warp. Every warp has a small ring of stages in shared memory and knows its own jobs of all linear phases; as soon as
// it has read a stage it asks for its next piece, whichever phase that belongs to. Weights depend on nothing, so the stream runs on while the
// grid is at a barrier or in attention, and no warp waits for another.
//
// A job is one run of k of one row-tile (n8 <= 2) or of two (n8 >= 3); warps take the jobs of a phase in turn.
#pragma once
#include "step/step_shared.cuh"

namespace qspec::cuda {

// One thread: this block's share of a linear's shape.
template <int n8>
QSPEC_DEVICE void load_shape(const LinearSpec& spec, int block, StreamShape* out) {
  const DeviceWeight w = spec.weight;
  StreamShape s;
  s.mode = spec.mode, s.is_pair = spec.epilogue == Epilogue::kSilu;
  s.part = 0;
  while (block >= spec.part_block[s.part + 1]) ++s.part;
  const int first = spec.part_block[s.part], blocks = spec.part_block[s.part + 1] - first, i = block - first;
  s.item_begin = static_cast<int>(static_cast<int64_t>(spec.num_items) * i / blocks);
  s.item_end = static_cast<int>(static_cast<int64_t>(spec.num_items) * (i + 1) / blocks);
  s.run_begin = spec.part_slice[s.part] * kSliceRuns;
  const int run_end = spec.part_slice[s.part + 1] * kSliceRuns, runs = num_runs(w.k_tiles);
  s.num_runs = (run_end < runs ? run_end : runs) - s.run_begin;
  const int items = s.item_end - s.item_begin, units = s.is_pair || n8 < 3 ? items : (items + 1) / 2;
  s.unit_jobs = s.num_runs * (s.is_pair && n8 < 3 ? 2 : 1);
  s.num_jobs = units * s.unit_jobs;
  const int last_tiles = run_tiles(w.k_tiles, runs - 1), last_parts = (last_tiles + kPieceTiles - 1) / kPieceTiles;
  const int last_first = (runs - 1) * kRunTiles + (last_parts - 1) * kPieceTiles;  // tile that the last piece begins with
  s.last_run = run_end >= runs ? runs - 1 - s.run_begin : -1;
  s.second_tile = s.is_pair ? w.n_tiles / 2 : 1;
  if (s.mode == GemmMode::kDense) {
    s.full_parts = kRunTiles, s.last_parts = last_tiles;
    s.piece_bytes = s.last_piece_bytes = kDenseTileBytes, s.last_low_bytes = 0;
    s.run_bytes = kRunTiles * kDenseTileBytes, s.tile_bytes = static_cast<uint32_t>(w.k_tiles) * kDenseTileBytes, s.low_tile_bytes = 0;
  } else {
    s.full_parts = kRunTiles / kPieceTiles, s.last_parts = last_parts;
    s.piece_bytes = static_cast<uint32_t>(full_piece_bytes(w.group_size));
    s.last_low_bytes = static_cast<uint32_t>(piece_tiles(w.k_tiles, last_first)) * kTileBytes;
    s.last_piece_bytes = s.last_low_bytes + static_cast<uint32_t>(piece_groups(w.k, w.group_size, last_first)) * kScaleBytes;
    s.run_bytes = s.piece_bytes * (kRunTiles / kPieceTiles);
    s.tile_bytes = static_cast<uint32_t>(hi_row_tile_bytes(w.k, w.k_tiles, w.group_size)), s.low_tile_bytes = static_cast<uint32_t>(w.k_tiles) * kTileBytes;
  }
  *out = s;
}

// One thread a linear, after the shapes.
QSPEC_DEVICE void load_source(const Phase& phase, const StreamShape* shapes, StreamSource* out) {
  const StreamShape& s = shapes[phase.shape_index];
  const DeviceWeight& w = phase.linear.weight;
  out->shape = phase.shape_index;
  const uint8_t* first = s.mode == GemmMode::kDense ? w.dense : w.hi;
  out->first = first + static_cast<int64_t>(s.item_begin) * s.tile_bytes + static_cast<int64_t>(s.run_begin) * s.run_bytes;
  out->low = w.lo + static_cast<int64_t>(s.item_begin) * s.low_tile_bytes + static_cast<int64_t>(s.run_begin) * kRunTiles * kTileBytes;
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
  const StepShared& shared;
  int lane, warp, stages, stage_bytes;
  uint32_t ring, full;      // this warp's
  int linear, end;          // to ask for next; of this launch
  JobCursor cursor;
  int part, plane, which;   // piece within the job: part by part, in each hi then lo, of one or two row-tiles
  int ask_stage, num_asked, take_stage;
  uint32_t take_parity;

  QSPEC_DEVICE void begin(const StepParams& params, int thread, int num_linears) {
    lane = thread % kWarp, warp = thread / kWarp, stages = params.warp_stages, stage_bytes = params.stage_bytes;
    ring = shared.ring + warp * stages * stage_bytes, full = shared.full + warp * stages * 8;
    end = num_linears, linear = -1;
    part = plane = which = 0;
    ask_stage = num_asked = take_stage = 0, take_parity = 0;
    next_linear();
    top_up();
  }
  // The next piece of the current job; waits until it is there.
  QSPEC_DEVICE uint32_t take() {
    while (!barrier_test(full + take_stage * 8, take_parity)) pause();
    const uint32_t stage = ring + take_stage * stage_bytes;
    if (++take_stage == stages) take_stage = 0, take_parity ^= 1;
    return stage;
  }
  // All lanes are done with the `count` pieces taken last.
  QSPEC_DEVICE void give_back(int count) {
    sync_warp();
    num_asked -= count;
    top_up();
  }

 private:
  QSPEC_DEVICE const StreamShape& shape() const { return shared.shapes[shared.sources[linear].shape]; }

  // The first linear from the next on in which this warp has a job.
  QSPEC_DEVICE void next_linear() {
    while (++linear < end) {
      cursor.begin(shape(), warp);
      if (cursor.job < shape().num_jobs) return;
    }
  }
  QSPEC_DEVICE void top_up() {
    while (num_asked < stages && linear < end) ask();
  }

  QSPEC_DEVICE void ask() {
    const StreamShape& s = shape();
    const int run = n8 < 3 ? cursor.run(s) : cursor.within;
    const bool is_last = run == s.last_run;
    const int parts = is_last ? s.last_parts : s.full_parts;
    const int tile = n8 < 3 ? cursor.unit + (cursor.is_second(s) ? s.second_tile : 0) : cursor.unit * (s.is_pair ? 1 : 2) + (which ? s.second_tile : 0);
    if (lane == 0) {
      const bool is_short = is_last && part == parts - 1;
      const StreamSource& source = shared.sources[linear];
      const uint8_t* from;
      uint32_t bytes;
      if (plane == 0) {
        bytes = is_short ? s.last_piece_bytes : s.piece_bytes;
        from = source.first + static_cast<uint64_t>(static_cast<uint32_t>(tile)) * s.tile_bytes + run * s.run_bytes + part * s.piece_bytes;
      } else {
        bytes = is_short ? s.last_low_bytes : kPieceTiles * kTileBytes;
        from = source.low + static_cast<uint64_t>(static_cast<uint32_t>(tile)) * s.low_tile_bytes + (run * kRunTiles + part * kPieceTiles) * kTileBytes;
      }
      barrier_expect(full + ask_stage * 8, bytes);
      bulk_copy(ring + ask_stage * stage_bytes, from, bytes, full + ask_stage * 8);
    }
    ++num_asked;
    if (++ask_stage == stages) ask_stage = 0;
    // On to the next piece.
    if (job_tiles<n8>() == 2) {
      if (which == 0 && has_second_tile(s, cursor.unit)) {
        which = 1;
        return;
      }
      which = 0;
    }
    if (s.mode == GemmMode::kHiLo) {
      plane ^= 1;
      if (plane == 1) return;
    }
    if (++part < parts) return;
    part = 0;
    cursor.advance(s, step_warps<n8>());
    if (cursor.job >= s.num_jobs) next_linear();
  }
};

}  // namespace qspec::cuda
