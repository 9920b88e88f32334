// How the step kernel's shared memory is divided, for one number of rows.
#pragma once
#include <algorithm>
#include <cstddef>

#include "step/step_program.h"

namespace qspec::cuda {

// Rows of a launch come in classes: each has its own kernel or row layout, and its own phases.
constexpr int kNumRowClasses = 14;
struct RowClass {
  int n8;        // row blocks, kOneRow, kFewRows or kFiveRows: which kernel
  int max_rows;
  bool is_long = false;  // its linears are kernels of their own, and so is what lies between them
};
constexpr RowClass kRowClasses[kNumRowClasses] = {{kOneRow, 1}, {kFewRows, kMostFewRows}, {kFiveRows, kPostedRows}, {1, 8}, {2, 16}, {3, 24}, {4, 32}, {8, 64}, {8, 128}, {8, kMaxStepRows}, {4, 32, true}, {8, 256, true}, {8, 1024, true}, {8, kMaxLongRows, true}};
inline int row_class_of(int rows, bool is_long) {
  int c = 0;
  while (c + 1 < kNumRowClasses && (kRowClasses[c].max_rows < rows || kRowClasses[c].is_long != is_long)) ++c;
  return c;
}
inline RowBlocks blocks_of(const RowClass& c) { return c.n8 > 1 ? RowBlocks{c.max_rows / 8, 8} : kernel_blocks(c.n8); }
inline bool is_wide(const RowClass& c) { return c.n8 >= kWideRowBlocks; }
// Columns of activations that a block has in shared memory at once, unless the linear is wide.
inline int pass_columns(const RowClass& c) { return std::min(blocks_of(c).columns(), kPassRows); }

// Of slabs: so many and so many bytes (twice as many for 9 to 16 rows); from 17 rows on, for the runs of slices that don't go round.
constexpr int kMaxSlabs = 256, kRestSlabs = 2 * kStepWarps;
constexpr size_t kSlabBytes = 32 << 10;
// Shared memory comes in steps, and what a launch doesn't take is L1. Slabs leave the last step, where a unit fits without: the weights that are on their way
// pass through L1, 50 KB of a block at once.
constexpr size_t kLastStep = 32 << 10;

struct StepConfig {
  int region_at = 0;
  size_t linear_end = 0;  // behind the slabs
  size_t room = 0;        // for attention's teams

  // What a launch doesn't take is L1, through which the weights come.
  size_t shared_bytes(const TeamShare& share) const { return std::max<size_t>(region_at + static_cast<size_t>(share.num_teams) * share.team_bytes, linear_end); }
};

// What a program asks of it.
struct StepDemand {
  int x_bytes = 0;          // largest share of activations
  int attention_bytes = 0;  // of the largest team with the shortest ring
  int unit_runs = 1;        // most runs of a unit
};

// Slabs for the runs of a wave (up to 16 rows): so many that most linears have one wave, or as many as fit; or (17 to 32 rows) for those of slices that don't
// go round. A linear with fewer activations than the widest has more. False when a unit doesn't fit.
inline bool configure_step(const RowClass& c, const StepDemand& demand, size_t fixed_bytes, size_t available, StepConfig* out) {
  const size_t slab = is_wide(c) ? 0 : static_cast<size_t>(pass_columns(c)) * kTileN * 4;
  StepConfig config;
  config.region_at = static_cast<int>(fixed_bytes);
  const size_t slabs_at = config.region_at + (demand.x_bytes + 127) / 128 * 128;
  const int least = c.n8 >= 3 ? 0 : demand.unit_runs;
  if (slabs_at + least * slab > available) return false;
  int num_slabs = 0;
  if (slab > 0) {
    const int wanted = c.n8 >= 3 ? kRestSlabs : std::min<int>(kMaxSlabs, static_cast<int>((c.n8 <= 1 ? kSlabBytes : 2 * kSlabBytes) / slab));
    const bool has_room = c.n8 < 3 || slabs_at + kStepWarps * slab <= available - kLastStep;  // for a run of each warp: with less most slices would not go round
    const size_t most = has_room ? std::max(available - kLastStep, slabs_at + least * slab) : available;
    num_slabs = std::min(std::max(wanted, least), static_cast<int>((most - slabs_at) / slab));
  }
  config.linear_end = slabs_at + num_slabs * slab, config.room = available - config.region_at;
  if (config.linear_end > available || config.room < static_cast<size_t>(demand.attention_bytes)) return false;
  *out = config;
  return true;
}

}  // namespace qspec::cuda
