// How weights come to a warp. Every warp has a small ring of stages in shared memory and knows its own jobs of all linear phases; as soon as
// it has read a stage it asks for its next piece, whichever phase that belongs to. Weights depend on nothing, so the stream runs on while the
// grid is at a barrier or in attention, and no warp waits for another.
//
// A job is one run of k of one row-tile (n8 <= 2) or of two (n8 >= 3); warps take the jobs of a phase in turn.
#pragma once
#include "step/step_shared.cuh"

namespace qspec::cuda {

template <int n8>
QSPEC_DEVICE LinearShare share_of(const LinearSpec& spec, int block) {
  LinearShare s;
  s.part = 0;
  while (block >= spec.part_block[s.part + 1]) ++s.part;
  const int first = spec.part_block[s.part], blocks = spec.part_block[s.part + 1] - first, i = block - first;
  s.item_begin = static_cast<int>(static_cast<int64_t>(spec.num_items) * i / blocks);
  s.item_end = static_cast<int>(static_cast<int64_t>(spec.num_items) * (i + 1) / blocks);
  s.run_begin = spec.part_slice[s.part] * kSliceRuns;
  const int run_end = spec.part_slice[s.part + 1] * kSliceRuns, runs = num_runs(spec.weight.k_tiles);
  s.num_runs = (run_end < runs ? run_end : runs) - s.run_begin;
  const int items = s.item_end - s.item_begin;
  const bool is_pair = spec.epilogue == Epilogue::kSilu;
  s.num_units = is_pair || n8 < 3 ? items : (items + 1) / 2;
  s.unit_jobs = s.num_runs * (is_pair && n8 < 3 ? 2 : 1);
  s.num_jobs = s.num_units * s.unit_jobs;
  return s;
}

// One thread: linear phase `index` of the launch into its place in the window.
template <int n8>
QSPEC_DEVICE void load_stream_entry(const StepParams& params, const StepShared& shared, int index) {
  if (index >= params.num_linears) return;
  const LinearSpec& spec = params.linears[index].linear;
  StreamEntry& entry = shared.stream[index % kStreamWindow];
  entry.weight = spec.weight;
  entry.share = share_of<n8>(spec, block_index());
  entry.mode = spec.mode;
  entry.is_pair = spec.epilogue == Epilogue::kSilu;
}

// Which job of a share comes next for a warp.
struct JobCursor {
  int job, unit, within;  // within: job of the unit
  QSPEC_DEVICE void begin(const LinearShare& s, int warp) {
    job = warp, unit = warp / (s.unit_jobs > 0 ? s.unit_jobs : 1), within = warp - unit * s.unit_jobs;
  }
  QSPEC_DEVICE void advance(const LinearShare& s, int warps) {
    job += warps, within += warps;
    while (within >= s.unit_jobs) within -= s.unit_jobs, ++unit;
  }
};

// Row-tiles of a job; tile[1] < 0: there is none.
struct Job {
  int run;  // within the share
  int tile[2];
};
template <int n8>
QSPEC_DEVICE Job job_at(const JobCursor& at, const LinearShare& s, bool is_pair, int n_tiles) {
  Job j;
  j.tile[1] = -1;
  if constexpr (n8 < 3) {
    const bool is_second = at.within >= s.num_runs;
    j.run = is_second ? at.within - s.num_runs : at.within;
    j.tile[0] = s.item_begin + at.unit + (is_second ? n_tiles / 2 : 0);
  } else {
    j.run = at.within;
    j.tile[0] = s.item_begin + (is_pair ? at.unit : 2 * at.unit);
    j.tile[1] = is_pair ? j.tile[0] + n_tiles / 2 : j.tile[0] + 1;
    if (!is_pair && j.tile[1] >= s.item_end) j.tile[1] = -1;
  }
  return j;
}

QSPEC_DEVICE int parts_of_run(GemmMode mode, int tiles) { return mode == GemmMode::kDense ? tiles : (tiles + kPieceTiles - 1) / kPieceTiles; }

template <int n8>
struct WeightStream {
  const StepParams& params;
  const StepShared& shared;
  int warp, lane;
  uint8_t* ring;    // this warp's stages
  uint64_t* full;
  int entry, known; // next linear phase to ask for, and how many may be looked at
  int end;          // linear phases of this launch
  JobCursor cursor;
  int part, plane, which;  // piece within the job: part by part, in each hi then lo, of one or two row-tiles
  int ask_stage, num_asked;
  int take_stage;
  uint32_t take_parity;

  QSPEC_DEVICE void begin(int num_linears) {
    const int stages = params.warp_stages;
    ring = shared.ring + warp * stages * params.stage_bytes, full = shared.full + warp * stages;
    entry = -1, known = kStreamWindow, end = num_linears;
    part = plane = which = 0;
    ask_stage = num_asked = take_stage = 0, take_parity = 0;
    next_entry();
    top_up();
  }
  // A linear phase is over, and the window has moved on by one.
  QSPEC_DEVICE void grow() {
    ++known;
    if (cursor.job < 0) next_entry_here();
    top_up();
  }
  // The next piece of the current job; blocks until it is there.
  QSPEC_DEVICE const uint8_t* take() {
    while (!barrier_test(full + take_stage, take_parity)) pause();
    const uint8_t* stage = ring + take_stage * params.stage_bytes;
    if (++take_stage == params.warp_stages) take_stage = 0, take_parity ^= 1;
    return stage;
  }
  // All lanes are done with the `count` pieces taken last.
  QSPEC_DEVICE void give_back(int count) {
    sync_warp();
    num_asked -= count;
    top_up();
  }

 private:
  QSPEC_DEVICE const StreamEntry& current() const { return shared.stream[entry % kStreamWindow]; }
  QSPEC_DEVICE void next_entry() {
    ++entry;
    next_entry_here();
  }
  // The first phase from `entry` on in which this warp has a job; job < 0: none in the window.
  QSPEC_DEVICE void next_entry_here() {
    const int limit = known < end ? known : end;
    for (; entry < limit; ++entry) {
      cursor.begin(current().share, warp);
      if (cursor.job < current().share.num_jobs) return;
    }
    cursor.job = -1;
  }

  QSPEC_DEVICE void top_up() {
    while (num_asked < params.warp_stages && cursor.job >= 0) ask();
  }

  QSPEC_DEVICE void ask() {
    const StreamEntry& e = current();
    const DeviceWeight& w = e.weight;
    const Job job = job_at<n8>(cursor, e.share, e.is_pair, w.n_tiles);
    const int run = e.share.run_begin + job.run, tile = which == 0 ? job.tile[0] : job.tile[1];
    const int tiles = run_tiles(w.k_tiles, run), parts = parts_of_run(e.mode, tiles);
    const uint8_t* from;
    int bytes;
    if (e.mode == GemmMode::kDense) {
      from = w.dense + (static_cast<int64_t>(tile) * w.k_tiles + run * kRunTiles + part) * kDenseTileBytes, bytes = kDenseTileBytes;
    } else {
      const int first = run * kRunTiles + part * kPieceTiles, count = piece_tiles(w.k_tiles, first);
      bytes = count * kTileBytes;
      if (plane == 0) {
        from = w.hi + tile * hi_row_tile_bytes(w.k, w.k_tiles, w.group_size) + codes_offset(w.group_size, first);
        bytes += piece_groups(w.k, w.group_size, first) * kScaleBytes;
      } else {
        from = w.lo + (static_cast<int64_t>(tile) * w.k_tiles + first) * kTileBytes;
      }
    }
    if (lane == 0) {
      barrier_expect(full + ask_stage, static_cast<uint32_t>(bytes));
      bulk_copy(ring + ask_stage * params.stage_bytes, from, static_cast<uint32_t>(bytes), full + ask_stage);
    }
    ++num_asked;
    if (++ask_stage == params.warp_stages) ask_stage = 0;
    // On to the next piece.
    if (job_tiles<n8>() == 2 && which == 0 && job.tile[1] >= 0) {
      which = 1;
      return;
    }
    which = 0;
    if (e.mode == GemmMode::kHiLo && plane == 0) {
      plane = 1;
      return;
    }
    plane = 0;
    if (++part < parts) return;
    part = 0;
    cursor.advance(e.share, step_warps<n8>());
    if (cursor.job >= e.share.num_jobs) next_entry();
  }
};

}  // namespace qspec::cuda
