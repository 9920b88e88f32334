// How a wide linear is shared out. A block works on tiles of the product: a row-tile a warp times the rows of a pass, over all of k. Every block has
// as many whole tiles as each can have; those that are left are several jobs along k each, and every block takes as many neighbouring jobs: where its
// share begins or ends within a tile, blocks leave the tile's sums in memory. Where nearly every block could have one, they are whole tiles, too. The passes
// of a row-tile are neighbours, so that blocks which read the same weights do so at the same time.
#pragma once
#include "step/step_shared.cuh"

namespace qspec::cuda {

struct WideShares {
  int32_t is_pair;
  int32_t passes;
  int32_t jobs;         // of a tile
  int32_t group_items;  // items (row-tiles or pairs of them) of a tile
  int32_t tiles;        // passes of the first group of row-tiles, of the second, …
  int32_t whole;        // of these the first so many are done by one block each

  QSPEC_DEVICE WideShares(const LinearSpec& spec, int rows)
      : is_pair(spec.epilogue == Epilogue::kSilu),
        passes((rows + kWideRows - 1) / kWideRows),
        jobs((num_runs(spec.weight.k_tiles) + spec.job_runs - 1) / spec.job_runs),
        group_items(wide_group_items(is_pair)),
        tiles(wide_tiles(spec.num_items, is_pair, passes)),
        whole(tiles - wide_tiles_left(tiles, num_runs(spec.weight.k_tiles), grid_blocks())) {}

  // Jobs are those of the tiles that are left.
  QSPEC_DEVICE int first_job(int block) const { return (tiles - whole) * jobs * block / grid_blocks(); }
  QSPEC_DEVICE int block_of(int job) const { return (grid_blocks() * (job + 1) - 1) / ((tiles - whole) * jobs); }
  QSPEC_DEVICE int tile_job(int tile) const { return (tile - whole) * jobs; }
  // Blocks that have jobs of a tile that is left: of neighbours, those that have any.
  QSPEC_DEVICE int num_blocks(int tile) const {
    const int neighbours = block_of(tile_job(tile) + jobs - 1) - block_of(tile_job(tile)) + 1;
    return neighbours < jobs ? neighbours : jobs;
  }
  // Of a tile that is left: so many runs, whole slices, has the block added that begins with the first.
  QSPEC_DEVICE int runs_added(int tile, int job_runs) const { return jobs_together(tile, 0) * job_runs / kSliceRuns * kSliceRuns; }
  // And so many from the slice on that begins with run `first`, at least, are of one share: their sum was left. Runs of the slice behind them were left one by one.
  QSPEC_DEVICE int runs_together(int tile, int first, int job_runs) const { return job_runs > 1 ? kSliceRuns : jobs_together(tile, first); }
  QSPEC_DEVICE int pass(int tile) const { return tile % passes; }
  QSPEC_DEVICE int first_item(int tile) const { return tile / passes * group_items; }
  // Of a group's item: the warp that has it, or its gate.
  QSPEC_DEVICE int first_warp(int in_group) const { return is_pair ? in_group / kUpWarp * kGroupWarps + in_group % kUpWarp : in_group; }
  // A warp's item in a tile, maybe past the last, and its row-tile.
  QSPEC_DEVICE int item(int tile, int warp) const { return first_item(tile) + (is_pair ? warp / kGroupWarps * kUpWarp + warp % kUpWarp : warp); }
  QSPEC_DEVICE int row_tile(const LinearSpec& spec, int item, int warp) const { return is_pair && warp % kGroupWarps >= kUpWarp ? item + spec.num_items : item; }
  // Where the calling thread leaves its sums of a job of a tile that is left, of the first row block; the next row block's lie kStepThreads further, the next
  // job's kJobSums.
  static constexpr int kJobSums = kWideRowBlocks * kStepThreads;
  QSPEC_DEVICE float4* own_sums(const StepWorkspace& workspace, int tile, int job) const {
    return reinterpret_cast<float4*>(workspace.partials) + static_cast<int64_t>(tile_job(tile) + job) * kJobSums + thread_index();
  }

 private:
  // Jobs of a tile that is left, from `job` on, of the block that has it.
  QSPEC_DEVICE int jobs_together(int tile, int job) const { return first_job(block_of(tile_job(tile) + job) + 1) - tile_job(tile) - job; }
};

// Walks the runs of a block's share: those of its whole tiles, then of its part of what is left.
struct RunCursor {
  int32_t tile, run, left;  // `left`: runs of the tile that are the share's and still to come, this one included

  // On to the next run, if there is one. True when another tile begins.
  QSPEC_DEVICE bool advance();
  QSPEC_DEVICE bool is_done() const { return left == 0; }
};

// What every thread needs now and then: not in registers, which products need.
struct WideState {
  WideShares shares;
  RunCursor first, rest;  // of the share; of its part that isn't whole tiles
  int32_t rest_end;       // of that part: runs, from the first tile that is left
  int32_t tile_runs;
  int32_t parity;         // of the ring's round (WideStages) that the linear begins with
  int32_t next_parity;    // and of the one behind it: others may not have read the former yet

  // One thread, before the block's barrier.
  QSPEC_DEVICE void begin(const LinearSpec& spec, int rows) {
    shares = WideShares(spec, rows);
    tile_runs = num_runs(spec.weight.k_tiles);
    const int block = block_index(), begin = first_run(spec, shares.first_job(block));
    rest_end = first_run(spec, shares.first_job(block + 1));
    rest = {shares.whole + begin / tile_runs, begin % tile_runs, 0};
    rest.left = runs_of_rest(rest.tile, rest.run);
    first = block < shares.whole ? RunCursor{block, 0, tile_runs} : rest;
    parity = next_parity;
  }
  // Where the share goes on behind a tile.
  QSPEC_DEVICE RunCursor behind(int tile) const {
    if (tile >= shares.whole) return {tile + 1, 0, runs_of_rest(tile + 1, 0)};
    const int next = tile + grid_blocks();
    return next < shares.whole ? RunCursor{next, 0, tile_runs} : rest;
  }

 private:
  // Number of the run that a job begins with.
  QSPEC_DEVICE int first_run(const LinearSpec& spec, int job) const {
    const int tile = job / shares.jobs, within = (job - tile * shares.jobs) * spec.job_runs;
    return tile * tile_runs + (within < tile_runs ? within : tile_runs);
  }
  // Runs of a tile that is left, from one on, that are the share's.
  QSPEC_DEVICE int runs_of_rest(int tile, int run) const {
    const int share = rest_end - (tile - shares.whole) * tile_runs, end = share < tile_runs ? share : tile_runs;
    return end > run ? end - run : 0;
  }
};
static_assert(sizeof(WideState) <= kWideStateBytes, "its place in shared memory");
QSPEC_DEVICE WideState& wide_state() { return shared_at<WideState>(kWideAt); }

QSPEC_DEVICE bool RunCursor::advance() {
  ++run;
  if (--left > 0) return false;
  *this = wide_state().behind(tile);
  return true;
}

}  // namespace qspec::cuda
