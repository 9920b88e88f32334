// A linear of a long launch as a kernel of its own.
#pragma once
#include "common/device.h"
#include "step/step_program.h"

namespace qspec::cuda {

constexpr int kGemmRowBlocks = 16, kGemmRows = 8 * kGemmRowBlocks;  // of a tile, or a half or a quarter as many (gemm_shape())
constexpr int kGemmGroups = 2, kGemmWarps = kGemmGroups * kGroupWarps, kGemmMultipliers = 32 * kGemmWarps;  // warpgroups that multiply, a row-tile a warp
constexpr int kGemmThreads = kGemmMultipliers + 128;  // and one that brings activations
// What a block keeps of a tile whose k is more than a slice, in memory.
constexpr size_t kGemmTotalBytes = size_t{kGemmRowBlocks} * kGemmMultipliers * 16, kGemmTurnBytes = kGemmWarps * sizeof(unsigned long long);

struct ClusterGemmParams {
  Phase phase;              // kLinear, of Rows::kTokens
  const StepBatch* batch;
  RowBlocks blocks;         // of the x-forms in memory
  uint8_t* totals;          // [blocks of the grid][kGemmTotalBytes], or [shared tiles]
  unsigned long long* turns;  // [shared tiles][kGemmWarps] slices that were added so far; zero before and after a launch
  int parts = 1;            // see GemmShape; launch_cluster_gemm() finds it
};

// How a launch's linear is cut: row blocks of a tile, and how many blocks share one's k, a slice each in turn. With one part blocks of a cluster have neighbouring tiles.
struct GemmShape {
  int row_blocks, parts;
};

// Can it multiply these weights? Dense ones, or codes in groups of 128.
bool has_cluster_gemm(GemmMode mode, const DeviceWeight& weight);
size_t cluster_gemm_shared_bytes();
// Of the grid, where there may be so many: whole clusters.
int gemm_blocks(int num_blocks);
// What is soonest done of a launch of so many rows.
GemmShape gemm_shape(int num_blocks, int rows, const LinearSpec& spec);
// `num_blocks`: at most one a multiprocessor. `rows`: of the launch.
Status launch_cluster_gemm(int num_blocks, int rows, const ClusterGemmParams& params, cudaStream_t stream);

}  // namespace qspec::cuda
