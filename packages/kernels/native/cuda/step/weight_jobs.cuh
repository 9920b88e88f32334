// Which weights a warp multiplies. Weights depend on nothing, so each warp knows its jobs of every linear of the launch, and asks memory to
// bring what comes next to L2: during a job the next one's, at a phase's end the next linear's first.
//
// A job is one run of k of one row-tile (from 17 rows on also a whole slice, four runs). Warps take the jobs of a phase in turn.
#pragma once
#include "gemm/run_product.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

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
  s.job_runs = spec.job_runs;
  s.unit_jobs = (s.num_runs + s.job_runs - 1) / s.job_runs * (s.is_pair ? 2 : 1);
  s.num_jobs = (s.item_end - s.item_begin) * s.unit_jobs;
  s.second_tile = s.is_pair ? w.n_tiles / 2 : 0;
  s.tiles = (run_end < runs ? run_end * kRunTiles : w.k_tiles) - s.run_begin * kRunTiles;
  s.k = (run_end < runs ? run_end * kRunK : w.k) - s.run_begin * kRunK;
  const bool is_dense = s.mode == GemmMode::kDense;
  s.run_bytes = is_dense ? kRunTiles * kDenseTileBytes : kRunTiles / kPieceTiles * full_piece_bytes(w.group_size);
  s.low_run_bytes = s.mode == GemmMode::kHiLo ? kRunTiles * kTileBytes : 0;
  s.tile_bytes = is_dense ? static_cast<uint32_t>(w.k_tiles) * kDenseTileBytes : static_cast<uint32_t>(hi_row_tile_bytes(w.k, w.k_tiles, w.group_size));
  s.low_tile_bytes = static_cast<uint32_t>(w.k_tiles) * kTileBytes;
  s.end_bytes = s.tile_bytes - s.run_begin * s.run_bytes;
  s.low_end_bytes = s.low_run_bytes ? s.low_tile_bytes - s.run_begin * s.low_run_bytes : 0;
  *out = s;
}

// One thread a linear, after the shapes.
QSPEC_DEVICE void load_source(const Phase& phase, StreamSource* out) {
  const StreamShape& s = stream_shape(phase.shape_index);
  const DeviceWeight& w = phase.linear.weight;
  const int64_t tile = s.item_begin;
  out->shape = phase.shape_index;
  out->first = (s.mode == GemmMode::kDense ? w.dense : w.hi) + tile * s.tile_bytes + static_cast<int64_t>(s.run_begin) * s.run_bytes;
  out->low = w.lo + tile * s.low_tile_bytes + static_cast<int64_t>(s.run_begin) * s.low_run_bytes;
}

// Brings a run to L2.
QSPEC_DEVICE void prefetch_run(const StreamShape& s, const RunPlace& place, int run, int lane) {
  const uint32_t rest = s.end_bytes - run * s.run_bytes, low_rest = s.low_end_bytes - run * s.low_run_bytes;
  prefetch_l2(place.high, rest < s.run_bytes ? rest : s.run_bytes, lane);
  if (s.low_run_bytes != 0) prefetch_l2(place.low, low_rest < s.low_run_bytes ? low_rest : s.low_run_bytes, lane);
}

// A job of a share: number `within` of its unit. A unit is what becomes one row-tile of output, or a (gate, up) pair.
template <int n8>
struct JobCursor {
  int job, unit, within;

  QSPEC_DEVICE void begin(const StreamShape& s, int warp) {
    job = warp, unit = 0, within = warp;
    settle(s);
  }
  QSPEC_DEVICE void advance(const StreamShape& s) {
    job += step_warps<n8>(), within += step_warps<n8>();
    settle(s);
  }
  QSPEC_DEVICE bool is_there(const StreamShape& s) const { return job < s.num_jobs; }
  // Of a pair: the jobs of gate come first, then those of up.
  QSPEC_DEVICE bool is_second(const StreamShape& s) const { return s.is_pair && 2 * within >= s.unit_jobs; }
  // The first run, of k, from the share's first run on; and how many.
  QSPEC_DEVICE int run(const StreamShape& s) const { return (is_second(s) ? within - s.unit_jobs / 2 : within) * s.job_runs; }
  QSPEC_DEVICE int num_runs(const StreamShape& s) const {
    const int rest = s.num_runs - run(s);
    return rest < s.job_runs ? rest : s.job_runs;
  }
  // Row-tile, from the share's first on.
  QSPEC_DEVICE int tile(const StreamShape& s) const { return unit + (is_second(s) ? s.second_tile : 0); }
  QSPEC_DEVICE RunPlace place(const StreamShape& s, const StreamSource& source) const {
    RunPlace place;
    place.high = source.first + static_cast<uint64_t>(tile(s)) * s.tile_bytes + run(s) * s.run_bytes;
    place.low = source.low + static_cast<uint64_t>(tile(s)) * s.low_tile_bytes + run(s) * s.low_run_bytes;
    return place;
  }
  // Brings the job's first run to L2.
  QSPEC_DEVICE void prefetch(const StreamShape& s, const RunPlace& place, int lane) const { prefetch_run(s, place, run(s), lane); }

 private:
  QSPEC_DEVICE void settle(const StreamShape& s) {
    if (job >= s.num_jobs) return;
    while (within >= s.unit_jobs) within -= s.unit_jobs, ++unit;
  }
};

// At a phase's end: the next linear's first job of this warp.
template <int n8>
QSPEC_DEVICE void prefetch_linear(int linear, int num_linears, int thread) {
  if (linear >= num_linears) return;
  const StreamSource& source = stream_source(linear);
  const StreamShape& s = stream_shape(static_cast<int>(source.shape));
  JobCursor<n8> at;
  at.begin(s, thread / kWarp);
  if (at.is_there(s)) at.prefetch(s, at.place(s, source), thread % kWarp);
}

}  // namespace qspec::cuda
