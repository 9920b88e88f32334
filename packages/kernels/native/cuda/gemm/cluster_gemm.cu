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

// Of a tile that blocks share: what waiting for each other takes, and handing on its sums, as so much more of k.
constexpr double kWaitingK = 256, kRowBlockK = 48;

template <GemmMode mode, bool is_shared>
Status launch_mode(int num_blocks, int row_blocks, const ClusterGemmParams& params, cudaStream_t stream) {
  const auto run = [&](auto kernel) {
    LaunchShape shape{num_blocks, kGemmThreads, gemm_shared_bytes(mode)};
    shape.cluster_blocks = is_shared ? 1 : kClusterBlocks, shape.is_dependent = true, shape.waits = is_shared;
    return launch(kernel, shape, stream, "cluster gemm", params);
  };
  switch (row_blocks) {
    case kGemmRowBlocks: return run(cluster_gemm_kernel<mode, kGemmRowBlocks, is_shared>);
    case kGemmRowBlocks / 2: return run(cluster_gemm_kernel<mode, kGemmRowBlocks / 2, is_shared>);
    default: return run(cluster_gemm_kernel<mode, kGemmRowBlocks / 4, is_shared>);
  }
}
template <GemmMode mode>
Status launch_mode(int num_blocks, int rows, const GemmShape& shape, const ClusterGemmParams& params, cudaStream_t stream) {
  if (shape.parts == 1) return launch_mode<mode, false>(gemm_blocks(num_blocks), shape.row_blocks, params, stream);
  const int tiles = GemmTiles<true>(params.phase.linear, rows, 8 * shape.row_blocks, shape.parts).tiles;
  return launch_mode<mode, true>(tiles * shape.parts, shape.row_blocks, params, stream);
}

}  // namespace

bool has_cluster_gemm(GemmMode mode, const DeviceWeight& weight) {
  return mode == GemmMode::kDense || ((mode == GemmMode::kHi || mode == GemmMode::kHiLo) && weight.group_size == kGemmGroupSize);
}
int gemm_blocks(int num_blocks) { return std::max(num_blocks / kClusterBlocks, 1) * kClusterBlocks; }
size_t cluster_gemm_shared_bytes() { return std::max({gemm_shared_bytes(GemmMode::kDense), gemm_shared_bytes(GemmMode::kHi), gemm_shared_bytes(GemmMode::kHiLo)}); }

// A tile of fewer rows takes more time a row, but more tiles go more evenly round the grid. Where there are fewer tiles than blocks, some can share each.
GemmShape gemm_shape(int num_blocks, int rows, const LinearSpec& spec) {
  const TileTimes& times = spec.mode == GemmMode::kDense ? kDenseTimes : spec.mode == GemmMode::kHi ? kCodesTimes : kNestedTimes;
  const int clusters = gemm_blocks(num_blocks) / kClusterBlocks, slices = num_slices(spec.weight.k_tiles);
  GemmShape best{};
  double least = 0;
  const auto consider = [&](const GemmShape& shape, double time) {
    if (best.parts == 0 || time < least) best = shape, least = time;
  };
  for (const auto& [row_blocks, time] : {std::pair{kGemmRowBlocks, 1.0}, {kGemmRowBlocks / 2, times.half}, {kGemmRowBlocks / 4, times.quarter}}) {
    consider({row_blocks, 1}, time * ((GemmTiles<false>(spec, rows, 8 * row_blocks, 1).tiles + clusters - 1) / clusters));
    const int tiles = GemmTiles<true>(spec, rows, 8 * row_blocks, 1).tiles, parts = std::min(slices, num_blocks / tiles);
    if (parts > 1) consider({row_blocks, parts}, time * ((slices + parts - 1) / parts) / slices + (kWaitingK + kRowBlockK * row_blocks) / spec.weight.k);
  }
  return best;
}

Status launch_cluster_gemm(int num_blocks, int rows, const ClusterGemmParams& uncut, cudaStream_t stream) {
  const GemmShape shape = gemm_shape(num_blocks, rows, uncut.phase.linear);
  ClusterGemmParams params = uncut;
  params.parts = shape.parts;
  switch (params.phase.linear.mode) {
    case GemmMode::kDense: return launch_mode<GemmMode::kDense>(num_blocks, rows, shape, params, stream);
    case GemmMode::kHi: return launch_mode<GemmMode::kHi>(num_blocks, rows, shape, params, stream);
    default: return launch_mode<GemmMode::kHiLo>(num_blocks, rows, shape, params, stream);
  }
}

}  // namespace qspec::cuda
