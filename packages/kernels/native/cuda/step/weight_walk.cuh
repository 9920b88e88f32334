// Which weights a warp multiplies, and in which order. Weights depend on nothing, so each warp knows its runs of every linear of the launch.
//
// A block's row-tiles of a linear come in waves. Each warp has neighbouring runs of every wave, which mostly lie in memory one behind the other:
// to walk from run to run costs a few instructions, and that is what keeps the tensor cores and the memory busy.
#pragma once
#include "gemm/run_product.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

// One thread: this block's share of a linear's shape.
template <int n8>
QSPEC_DEVICE void load_shape(const LinearSpec& spec, int block, int slabs, StreamShape* out) {
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
  s.unit_runs = s.num_runs * (s.is_pair ? 2 : 1);
  s.units = s.item_end - s.item_begin;
  const int most = slabs / s.unit_runs < kMaxWaveUnits ? slabs / s.unit_runs : kMaxWaveUnits;
  s.num_waves = n8 < 3 ? (s.units + most - 1) / most : 1;
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

// The calling warp's runs of a linear, one after another.
template <int n8>
struct RunWalk {
  static constexpr int kJumpBytes = 16;

  RunPlace place;    // of the run
  int run;           // of its row-tile, from the share's first on
  int tile;          // row-tile, from the share's first on
  int left;          // runs of the wave that are still the warp's, this one included
  int number;        // of the run in the wave
  // From a row-tile's last run to the next row-tile's first; of a pair: to the other's first.
  int num_runs, tile_step, next_tile_step;
  uint32_t run_bytes, low_run_bytes;
  int jump, next_jump, low_jump, next_low_jump;  // in units of 16 bytes

  // Number of the run that job `job` of a wave begins with.
  QSPEC_DEVICE static int first_run(const StreamShape& s, int job) {
    if (n8 < 3 || s.job_runs == 1) return job;
    const int tile_jobs = (s.num_runs + s.job_runs - 1) / s.job_runs, tile = job / tile_jobs;
    return tile * s.num_runs + (job - tile * tile_jobs) * s.job_runs;
  }
  QSPEC_DEVICE void begin(const StreamShape& s, const StreamSource& source) {
    num_runs = s.num_runs, run_bytes = s.run_bytes, low_run_bytes = s.low_run_bytes;
    tile_step = s.is_pair ? s.second_tile : 1, next_tile_step = s.is_pair ? 1 - s.second_tile : 1;
    const int64_t last = static_cast<int64_t>(num_runs - 1) * run_bytes, low_last = static_cast<int64_t>(num_runs - 1) * low_run_bytes;
    const auto units = [](int step, uint32_t tile_bytes, int64_t end) { return static_cast<int>((static_cast<int64_t>(step) * tile_bytes - end) / kJumpBytes); };
    jump = units(tile_step, s.tile_bytes, last), next_jump = units(next_tile_step, s.tile_bytes, last);
    low_jump = units(tile_step, s.low_tile_bytes, low_last), next_low_jump = units(next_tile_step, s.low_tile_bytes, low_last);
  }
  // At this warp's first run of a wave. Where it has none, `place` is still one that can be read.
  QSPEC_DEVICE void begin_wave(const StreamShape& s, const StreamSource& source, int wave, int warp) {
    const int num_waves = s.num_waves;
    const int first = s.units * wave / num_waves, tiles = (s.units * (wave + 1) / num_waves - first) * (s.is_pair ? 2 : 1);
    const int tile_jobs = n8 < 3 ? num_runs : (num_runs + s.job_runs - 1) / s.job_runs, jobs = tiles * tile_jobs;
    number = first_run(s, jobs * warp / kStepWarps), left = first_run(s, jobs * (warp + 1) / kStepWarps) - number;
    const int in_order = number / num_runs;  // row-tile
    run = number - in_order * num_runs;
    const bool is_second = s.is_pair && (in_order & 1) != 0;
    tile = first + (s.is_pair ? in_order / 2 : in_order) + (is_second ? s.second_tile : 0);
    place.high = source.first + static_cast<int64_t>(tile) * s.tile_bytes + run * run_bytes;
    place.low = source.low + static_cast<int64_t>(tile) * s.low_tile_bytes + run * low_run_bytes;
    if (is_second != (tile_step <= 0)) exchange();
    if (left == 0) place = {source.first, source.low};
  }
  // The wave's next run.
  QSPEC_DEVICE void advance() {
    --left, ++number;
    if (++run < num_runs) {
      place.high += run_bytes, place.low += low_run_bytes;
      return;
    }
    run = 0, tile += tile_step;
    place.high += static_cast<int64_t>(jump) * kJumpBytes, place.low += static_cast<int64_t>(low_jump) * kJumpBytes;
    exchange();
  }
  // Where there is something to read: the run's place, or `other` after the last.
  QSPEC_DEVICE RunPlace place_or(const RunPlace& other) const { return {left > 0 ? place.high : other.high, left > 0 ? place.low : other.low}; }

 private:
  template <typename T>
  QSPEC_DEVICE static void exchange(T& a, T& b) {
    const T before = a;
    a = b, b = before;
  }
  QSPEC_DEVICE void exchange() { exchange(tile_step, next_tile_step), exchange(jump, next_jump), exchange(low_jump, next_low_jump); }
};

}  // namespace qspec::cuda
