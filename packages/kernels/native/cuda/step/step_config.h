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

struct StepConfig {
  int num_stages = 0, stage_bytes = 0;
  int x_bytes = 0, slab_jobs = 0;
  size_t shared_bytes = 0;
};

// What a program asks of it.
struct StepDemand {
  int stage_bytes = kRunCodeBytes;  // largest piece
  int x_bytes = 0;                  // largest share of activations, attention's tiles
  int unit_jobs = 1;                // most jobs of a unit
};

// As many stages as fit beside the rest; slabs for every job that can be under way (step/linear.cuh says why). False when fewer than eight do.
inline bool configure_step(const RowClass& c, const StepDemand& demand, size_t fixed_bytes, size_t available, StepConfig* out) {
  const int tiles = c.n8 >= 3 ? 2 : 1;
  const size_t slab = static_cast<size_t>(tiles) * blocks_of(c).columns() * kTileN * 4;
  StepConfig config;
  config.stage_bytes = (demand.stage_bytes + 127) / 128 * 128;
  config.x_bytes = (demand.x_bytes + 127) / 128 * 128;
  for (int stages = 64; stages >= 8; --stages) {
    config.num_stages = stages;
    config.slab_jobs = (stages + tiles - 1) / tiles + demand.unit_jobs;
    config.shared_bytes = fixed_bytes + config.x_bytes + config.slab_jobs * slab + static_cast<size_t>(stages) * config.stage_bytes;
    if (config.shared_bytes > available) continue;
    *out = config;
    return true;
  }
  return false;
}

}  // namespace qspec::cuda
