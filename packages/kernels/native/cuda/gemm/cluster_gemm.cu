#include <algorithm>
#include <utility>

#include "common/launch.cuh"
#include "gemm/cluster_gemm.cuh"

namespace qspec::cuda {

namespace {

// Of tiles of a half and of a quarter of most rows: so much of a tile's time. Fitted to the four linears of an 8B model, 64 to 1024 rows, on an H200.
struct TileTimes {
  double half, quarter;
};
constexpr TileTimes kDenseTimes = {0.65, 0.62}, kCodesTimes = {0.63, 0.49}, kNestedTimes = {0.68, 0.56};

template <GemmMode mode>
Status launch_mode(int num_blocks, int row_blocks, const ClusterGemmParams& params, cudaStream_t stream) {
  const auto run = [&](auto kernel) {
    LaunchShape shape{gemm_blocks(num_blocks), kGemmThreads, gemm_shared_bytes(mode)};
    shape.cluster_blocks = kClusterBlocks, shape.is_dependent = true;
    return launch(kernel, shape, stream, "cluster gemm", params);
  };
  switch (row_blocks) {
    case kGemmRowBlocks: return run(cluster_gemm_kernel<mode, kGemmRowBlocks>);
    case kGemmRowBlocks / 2: return run(cluster_gemm_kernel<mode, kGemmRowBlocks / 2>);
    default: return run(cluster_gemm_kernel<mode, kGemmRowBlocks / 4>);
  }
}

}  // namespace

bool has_cluster_gemm(GemmMode mode, const DeviceWeight& weight) {
  return mode == GemmMode::kDense || ((mode == GemmMode::kHi || mode == GemmMode::kHiLo) && weight.group_size == kGemmGroupSize);
}
int gemm_blocks(int num_blocks) { return std::max(num_blocks / kClusterBlocks, 1) * kClusterBlocks; }
size_t cluster_gemm_shared_bytes() { return std::max({gemm_shared_bytes(GemmMode::kDense), gemm_shared_bytes(GemmMode::kHi), gemm_shared_bytes(GemmMode::kHiLo)}); }

// A tile of fewer rows takes more time a row, but more tiles go more evenly round the grid.
int gemm_row_blocks(int num_blocks, int rows, const LinearSpec& spec) {
  const TileTimes& times = spec.mode == GemmMode::kDense ? kDenseTimes : spec.mode == GemmMode::kHi ? kCodesTimes : kNestedTimes;
  const int clusters = gemm_blocks(num_blocks) / kClusterBlocks;
  int best = 0;
  double least = 0;
  for (const auto& [row_blocks, time] : {std::pair{kGemmRowBlocks, 1.0}, {kGemmRowBlocks / 2, times.half}, {kGemmRowBlocks / 4, times.quarter}}) {
    const double all = time * ((GemmTiles(spec, rows, 8 * row_blocks).tiles + clusters - 1) / clusters);
    if (best == 0 || all < least) best = row_blocks, least = all;
  }
  return best;
}

Status launch_cluster_gemm(int num_blocks, int rows, const ClusterGemmParams& params, cudaStream_t stream) {
  const int row_blocks = gemm_row_blocks(num_blocks, rows, params.phase.linear);
  switch (params.phase.linear.mode) {
    case GemmMode::kDense: return launch_mode<GemmMode::kDense>(num_blocks, row_blocks, params, stream);
    case GemmMode::kHi: return launch_mode<GemmMode::kHi>(num_blocks, row_blocks, params, stream);
    default: return launch_mode<GemmMode::kHiLo>(num_blocks, row_blocks, params, stream);
  }
}

}  // namespace qspec::cuda
