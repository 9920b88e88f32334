// Which weights a warp multiplies, and in which order. Weights depend on nothing, so each warp knows its runs of every linear of the launch.
//
// A block's row-tiles of a linear come in waves. Each warp has neighbouring runs of every wave, which mostly lie in memory one behind the other:
// to walk from run to run costs a few instructions, and that is what keeps the tensor cores and the memory busy.
#pragma once
#include "gemm/run_product.cuh"
#include "step/step_shared.cuh"

namespace qspec::cuda {

// Activations of a share in the region, from run 0 of the share: offsets; integer scales and sums behind the codes.
struct ShareInput {
  uint32_t x, scales, sums;
};
QSPEC_DEVICE ShareInput share_input(const StreamShape& s, int group_size, uint32_t region, RowBlocks blocks) {
  if (!is_integer(s.mode)) return {region, 0, 0};
  const uint32_t scales = region + s.num_runs * kRunTiles * code_tile_bytes(blocks);
  return {region, scales, scales + s.num_runs * (kRunK / group_size) * blocks.columns() * 4};
}
// Behind them.
QSPEC_DEVICE uint32_t share_end(const StreamShape& s, int group_size, uint32_t region, RowBlocks blocks) {
  const ShareInput input = share_input(s, group_size, region, blocks);
  const uint32_t end = is_integer(s.mode) ? input.sums + s.num_runs * (kRunK / group_size) * blocks.columns() * 4 : input.x + s.num_runs * kRunTiles * x_tile_bytes(blocks);
  return (end + 127) / 128 * 128;
}

constexpr int kJumpBytes = 16;

// Sums of one run of a row-tile in its slab: [column][16 outputs]; every second pair of columns has its halves exchanged, against bank conflicts.
QSPEC_HOST_DEVICE constexpr int slab_bytes(int columns) { return columns * kTileN * 4; }
QSPEC_DEVICE int slab_place(int column, int out) { return (column * kTileN + (out ^ (column << 2 & 8))) * 4; }

// Who multiplies a job: a warp or a warpgroup.
QSPEC_DEVICE int num_workers(const StreamShape& s) { return kStepWarps / s.members; }
// Row-tiles, or groups of them, that take a job's worth of weights each.
QSPEC_DEVICE int job_tiles(const StreamShape& s) { return s.units * (s.is_pair && s.members == 1 ? 2 : 1); }
// Row-tile `in_order` of the share, counted from its first; of a group's, a member's. -1: a group's last warps may have none.
QSPEC_DEVICE int tile_in_order(const StreamShape& s, int in_order, int member) {
  if (s.members == 1) return s.is_pair ? in_order / 2 + (in_order & 1) * s.second_tile : in_order;
  const bool is_second = s.is_pair && member >= kUpWarp;
  const int item = in_order * group_items(s.is_pair) + (s.is_pair ? member % kUpWarp : member);
  return item < s.item_end - s.item_begin ? item + (is_second ? s.second_tile : 0) : -1;
}
// Slices of k of the share's row-tiles, one after another.
QSPEC_DEVICE int tile_slices(const StreamShape& s) { return (s.num_runs + kSliceRuns - 1) / kSliceRuns; }
QSPEC_DEVICE int all_slices(const StreamShape& s) { return job_tiles(s) * tile_slices(s); }
// Number of the run that a slice begins with.
QSPEC_DEVICE int first_run(const StreamShape& s, int slice) {
  const int in_order = slice / tile_slices(s);  // row-tile, or group of them
  return in_order * s.num_runs + (slice - in_order * tile_slices(s)) * kSliceRuns;
}
// What is left over when each worker has had as many slices as all can have is shared out run by run, if that takes less time and the sums have room.
QSPEC_DEVICE void find_rest(StreamShape* s, int slabs) {
  const int slices = all_slices(*s), workers = num_workers(*s), rest = slices % workers;
  s->rest_begin = first_run(*s, slices - rest);
  const int runs = first_run(*s, slices) - s->rest_begin;
  if (runs > (kSliceRuns - 1) * workers || runs * s->members > slabs) s->rest_begin += runs;
  else s->num_rest = rest;
}
// Of so many jobs, the first that worker `worker` has.
QSPEC_DEVICE int first_of_worker(const StreamShape& s, int jobs, int worker) { return jobs * worker / num_workers(s); }
// One thread: this block's share of a linear's shape.
template <int n8>
QSPEC_DEVICE void load_shape(const StepParams& params, const LinearSpec& spec, int block, StreamShape* out) {
  const DeviceWeight w = spec.weight;
  StreamShape s;
  s.mode = spec.mode, s.is_pair = spec.epilogue == Epilogue::kSilu;
  int part = 0;
  while (block >= spec.part_block[part + 1]) ++part;
  const int first = spec.part_block[part], blocks = spec.part_block[part + 1] - first, i = block - first;
  s.members = is_by_groups<n8>(s.mode) ? kGroupWarps : 1;
  const int together = s.members == 1 ? 1 : group_items(s.is_pair), units = (spec.num_items + together - 1) / together;
  const auto first_item = [&](int of) {
    const int item = static_cast<int>(static_cast<int64_t>(units) * of / blocks) * together;
    return item < spec.num_items ? item : spec.num_items;
  };
  s.item_begin = first_item(i), s.item_end = first_item(i + 1);
  s.run_begin = spec.part_slice[part] * kSliceRuns;
  const int run_end = spec.part_slice[part + 1] * kSliceRuns, runs = num_runs(w.k_tiles);
  s.num_runs = (run_end < runs ? run_end : runs) - s.run_begin;
  s.unit_runs = s.num_runs * (s.is_pair ? 2 : 1);
  s.units = (s.item_end - s.item_begin + together - 1) / together;
  const RowBlocks blocks_at_once = n8 > 4 ? RowBlocks{kPassRows / 8, 8} : kernel_blocks(n8);
  s.slabs_at = share_end(s, w.group_size, params.region_at, blocks_at_once);
  const int slabs = (params.region_end - static_cast<int>(s.slabs_at)) / slab_bytes(blocks_at_once.columns());
  s.num_waves = 1, s.num_rest = s.rest_begin = 0;
  if constexpr (n8 < 3) {
    const int fit = slabs / s.unit_runs, most = fit < kMaxWaveUnits ? fit : kMaxWaveUnits;
    s.num_waves = (s.units + most - 1) / most;
  } else {
    find_rest(&s, slabs);
  }
  s.second_tile = s.is_pair ? w.n_tiles / 2 : 0;
  s.tiles = (run_end < runs ? run_end * kRunTiles : w.k_tiles) - s.run_begin * kRunTiles;
  s.k = (run_end < runs ? run_end * kRunK : w.k) - s.run_begin * kRunK;
  const bool is_dense = s.mode == GemmMode::kDense;
  s.run_bytes = is_dense ? kRunTiles * kDenseTileBytes : kRunTiles / kPieceTiles * full_piece_bytes(w.group_size);
  s.low_run_bytes = s.mode == GemmMode::kHiLo ? kRunTiles * kTileBytes : 0;
  s.tile_bytes = is_dense ? static_cast<uint32_t>(w.k_tiles) * kDenseTileBytes : static_cast<uint32_t>(hi_row_tile_bytes(w.k, w.k_tiles, w.group_size));
  s.low_tile_bytes = static_cast<uint32_t>(w.k_tiles) * kTileBytes;
  const int64_t last = s.num_runs - 1;
  for (int i = 0; i < 2; ++i) {
    s.tile_steps[i] = !s.is_pair ? 1 : i == 0 ? s.second_tile : 1 - s.second_tile;
    s.jumps[i] = static_cast<int>((static_cast<int64_t>(s.tile_steps[i]) * s.tile_bytes - last * s.run_bytes) / kJumpBytes);
    s.low_jumps[i] = static_cast<int>((static_cast<int64_t>(s.tile_steps[i]) * s.low_tile_bytes - last * s.low_run_bytes) / kJumpBytes);
  }
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
  RunPlace place;    // of the run
  int run;           // of its row-tile, from the share's first on
  int tile;          // row-tile, from the share's first on; -1: a warpgroup's that isn't there
  int group;         // of row-tiles, of a warpgroup
  int left;          // runs of the wave that are still the warp's, this one included
  int number;        // of the run in the wave
  int num_runs, tile_step, next_tile_step;
  uint32_t run_bytes, low_run_bytes;
  int jump, next_jump, low_jump, next_low_jump;  // see StreamShape

  // A warp's first run of a wave; from 17 rows on of whole slices, or if it has none, of the rest. Where it has none, its place is still one that can be read.
  QSPEC_DEVICE static WarpStart find_start(const StreamShape& s, int wave, int warp) {
    if (s.units == 0) return {};
    const int first = s.units * wave / s.num_waves, tiles = (s.units * (wave + 1) / s.num_waves - first) * (s.is_pair ? 2 : 1);
    const int jobs = n8 < 3 ? tiles * s.num_runs : all_slices(s) - s.num_rest;
    const int worker = warp / s.members, begin = first_of_worker(s, jobs, worker), end = first_of_worker(s, jobs, worker + 1);
    if constexpr (n8 < 3) return start_at(s, first, begin, end - begin, warp);
    return begin == end ? find_rest_start(s, warp) : start_at(s, first, first_run(s, begin), first_run(s, end) - first_run(s, begin), warp);
  }
  QSPEC_DEVICE static WarpStart find_rest_start(const StreamShape& s, int warp) {
    const int runs = first_run(s, all_slices(s)) - s.rest_begin, worker = warp / s.members, begin = first_of_worker(s, runs, worker);
    return start_at(s, 0, s.rest_begin + begin, first_of_worker(s, runs, worker + 1) - begin, warp);
  }
  // At run `number` of a wave whose first unit is `first`.
  QSPEC_DEVICE static WarpStart start_at(const StreamShape& s, int first, int number, int left, int warp) {
    WarpStart start{};
    start.number = number, start.left = left;
    if (left == 0) return start;
    const int in_order = start.number / s.num_runs;  // row-tile, or group of them
    start.run = start.number - in_order * s.num_runs;
    start.step = s.members == 1 ? (s.is_pair ? in_order & 1 : 0) : in_order;
    start.tile = tile_in_order(s, in_order, warp % s.members);
    if (start.tile >= 0) start.tile += first;
    const int tile = start.tile < 0 ? 0 : start.tile;
    start.high = static_cast<uint32_t>((static_cast<int64_t>(tile) * s.tile_bytes + start.run * s.run_bytes) / kJumpBytes);
    start.low = static_cast<uint32_t>((static_cast<int64_t>(tile) * s.low_tile_bytes + start.run * s.low_run_bytes) / kJumpBytes);
    return start;
  }

  QSPEC_DEVICE void begin(const StreamShape& s, const StreamSource& source, const WarpStart& start) {
    place = {source.first + static_cast<int64_t>(start.high) * kJumpBytes, source.low + static_cast<int64_t>(start.low) * kJumpBytes};
    run = start.run, tile = start.tile, left = start.left, number = start.number;
    num_runs = s.num_runs, run_bytes = s.run_bytes, low_run_bytes = s.low_run_bytes;
    const int step = s.members == 1 ? start.step : 0;
    group = start.step;
    tile_step = s.tile_steps[step], jump = s.jumps[step], low_jump = s.low_jumps[step];
    next_tile_step = s.tile_steps[step ^ 1], next_jump = s.jumps[step ^ 1], next_low_jump = s.low_jumps[step ^ 1];
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
    exchange(tile_step, next_tile_step), exchange(jump, next_jump), exchange(low_jump, next_low_jump);
  }
  // The same of a warpgroup, whose row-tiles are `group`'s. A warp that has none reads the share's first.
  QSPEC_DEVICE void advance_group(const StreamShape& s, const StreamSource& source) {
    --left, ++number;
    if (++run < num_runs) {
      place.high += run_bytes, place.low += low_run_bytes;
      return;
    }
    run = 0, tile = tile_in_order(s, ++group, thread_index() / kWarp % kGroupWarps);
    const int from = tile < 0 ? 0 : tile;
    place = {source.first + static_cast<int64_t>(from) * s.tile_bytes, source.low + static_cast<int64_t>(from) * s.low_tile_bytes};
  }
  // Where there is something to read: the run's place, or `other` after the last.
  QSPEC_DEVICE RunPlace place_or(const RunPlace& other) const { return {left > 0 ? place.high : other.high, left > 0 ? place.low : other.low}; }

 private:
  template <typename T>
  QSPEC_DEVICE static void exchange(T& a, T& b) {
    const T before = a;
    a = b, b = before;
  }
};

}  // namespace qspec::cuda
