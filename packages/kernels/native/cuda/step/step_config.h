// How the step kernel's shared memory is divided, for one number of rows.
#pragma once
#include <algorithm>
#include <cstddef>

#include "step/step_program.h"

namespace qspec::cuda {

// Rows of a launch come in classes: each has its own kernel or row layout, and its own phases.
constexpr int kNumRowClasses = 7;
struct RowClass {
  int n8;        // row blocks: which kernel
  int max_rows;
};
constexpr RowClass kRowClasses[kNumRowClasses] = {{1, 1}, {1, 2}, {1, 4}, {1, 8}, {2, 16}, {3, 24}, {4, 32}};
inline int row_class_of(int rows) {
  int c = 0;
  while (c + 1 < kNumRowClasses && kRowClasses[c].max_rows < rows) ++c;
  return c;
}
inline RowBlocks blocks_of(const RowClass& c) { return c.n8 > 1 ? RowBlocks{c.n8, 8} : RowBlocks{1, c.max_rows}; }

inline int warps_of(const RowClass& c) { return c.n8 <= 2 ? 12 : 8; }

struct StepConfig {
  int warp_stages = 0, stage_bytes = 0;
  int region_at = 0, slabs_at = 0, ring_at = 0, slab_jobs = 0;
  size_t shared_bytes = 0;
};

// What a program asks of it.
struct StepDemand {
  int stage_bytes = 16;               // largest part of a run
  int x_bytes = 0;                    // largest share of activations
  int attention_bytes = 0;            // attention's tiles
  int unit_jobs = 1;                  // most jobs of a unit
};

// Slabs for the jobs that can be under way, then as many stages as fit beside the rest. False when a warp's least don't fit.
inline bool configure_step(const RowClass& c, const StepDemand& demand, size_t fixed_bytes, size_t available, int most_stages, StepConfig* out) {
  const int tiles = c.n8 >= 3 ? 2 : 1, warps = warps_of(c);
  const size_t slab = static_cast<size_t>(tiles) * blocks_of(c).columns() * kTileN * 4;
  StepConfig config;
  config.stage_bytes = (demand.stage_bytes + 127) / 128 * 128;
  config.region_at = static_cast<int>(fixed_bytes), config.slabs_at = config.region_at + (demand.x_bytes + 127) / 128 * 128;
  // Three units: one under way, one complete, one being stored; fewer only make warps wait for each other. Never less than a unit and a job.
  for (int spare = 2 * demand.unit_jobs; spare >= 1; spare = spare > 4 ? spare / 2 : spare - 1) {
    config.slab_jobs = demand.unit_jobs + spare;
    const size_t end = std::max<size_t>(config.region_at + demand.attention_bytes, config.slabs_at + config.slab_jobs * slab);
    config.ring_at = static_cast<int>(end + 127) / 128 * 128;
    for (int stages = most_stages; stages >= 1; --stages) {
      config.warp_stages = stages;
      config.shared_bytes = config.ring_at + static_cast<size_t>(warps) * stages * config.stage_bytes;
      const bool is_deep = stages >= std::min(2, most_stages) || spare == 1;
      if (config.shared_bytes > available || !is_deep) continue;
      *out = config;
      return true;
    }
  }
  return false;
}

}  // namespace qspec::cuda
