// A linear of a long launch as a kernel of its own.
#pragma once
#include "common/device.h"
#include "step/step_program.h"

namespace qspec::cuda {

constexpr int kGemmRowBlocks = 16, kGemmRows = 8 * kGemmRowBlocks;  // of a tile, or a half or a quarter as many (gemm_shape())
constexpr int kGemmGroups = 2, kGemmMoreGroups = 4;  // warpgroups that multiply a tile, a row-tile a warp: of 128 outputs, or of 256 and a quarter of the rows
// What a block keeps of a tile whose k is more than a slice, in memory: at most.
constexpr size_t gemm_total_bytes(int row_blocks, int groups) { return size_t{16} * 32 * kGroupWarps * row_blocks * groups; }
constexpr size_t kGemmTotalBytes = gemm_total_bytes(kGemmRowBlocks, kGemmGroups), kGemmTurnBytes = kGemmGroups * kGroupWarps * sizeof(unsigned long long);

struct ClusterGemmParams {
  Phase phase;              // kLinear, of Rows::kTokens
  const StepBatch* batch;
  RowBlocks blocks;         // of the x-forms in memory
  uint8_t* totals;          // [blocks of the grid, or shared tiles][gemm_total_bytes()]
  unsigned long long* turns;  // [shared tiles][warps that multiply] slices that were added so far; zero before and after a launch
  int parts = 1;            // see GemmShape; launch_cluster_gemm() finds it
};

// How a launch's linear is cut: row blocks and warpgroups of a tile, and how many blocks share one's k, a slice each in turn. With one part blocks of a cluster have neighbouring tiles.
struct GemmShape {
  int row_blocks, groups, parts;
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
