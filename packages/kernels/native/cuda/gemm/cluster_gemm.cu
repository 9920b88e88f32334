#include <algorithm>
#include <type_traits>

#include "common/launch.cuh"
#include "gemm/cluster_gemm.cuh"

namespace qspec::cuda {

namespace {

// The tiles that there are kernels for, and how long each takes, of what one of 128 outputs and 128 rows does. Fitted to the four linears of an 8B model, 32 to 1024 rows, on an H200.
struct TileKind {
  int row_blocks, groups;
  double time;
};
constexpr TileKind kDenseKinds[] = {{16, 2, 1.0}, {8, 2, 0.65}, {4, 2, 0.62}};
constexpr TileKind kCodesKinds[] = {{16, 2, 1.0}, {8, 2, 0.63}, {4, 2, 0.49}, {4, 4, 0.84}};
constexpr TileKind kNestedKinds[] = {{16, 2, 1.0}, {8, 2, 0.68}, {4, 2, 0.56}, {4, 4, 1.0}};

// Of a tile that blocks share: what waiting for each other takes, and handing on its sums, as so much more of k.
constexpr double kWaitingK = 256, kRowBlockK = 48;

template <GemmMode mode, int n8, int groups, bool is_shared>
Status launch_tiles(int num_blocks, int rows, const ClusterGemmParams& params, cudaStream_t stream) {
  using Tile = GemmTile<mode, n8, groups>;
  const int blocks = is_shared ? GemmTiles<groups, true>(params.phase.linear, rows, Tile::kRows, params.parts).tiles * params.parts : gemm_blocks(num_blocks);
  LaunchShape shape{blocks, Tile::kThreads, Tile::kSharedBytes};
  shape.cluster_blocks = is_shared ? 1 : kClusterBlocks, shape.is_dependent = true, shape.waits = is_shared;
  return launch(cluster_gemm_kernel<mode, n8, groups, is_shared>, shape, stream, "cluster gemm", params);
}
template <GemmMode mode>
Status launch_mode(int num_blocks, int rows, const GemmShape& shape, const ClusterGemmParams& params, cudaStream_t stream) {
  constexpr int kQuarter = kGemmRowBlocks / 4;
  if constexpr (mode != GemmMode::kDense)
    if (shape.groups == kGemmMoreGroups) return launch_tiles<mode, kQuarter, kGemmMoreGroups, false>(num_blocks, rows, params, stream);
  const auto run = [&](auto row_blocks) {
    constexpr int n8 = decltype(row_blocks)::value;
    return shape.parts == 1 ? launch_tiles<mode, n8, kGemmGroups, false>(num_blocks, rows, params, stream) : launch_tiles<mode, n8, kGemmGroups, true>(num_blocks, rows, params, stream);
  };
  switch (shape.row_blocks) {
    case kGemmRowBlocks: return run(std::integral_constant<int, kGemmRowBlocks>());
    case 2 * kQuarter: return run(std::integral_constant<int, 2 * kQuarter>());
    default: return run(std::integral_constant<int, kQuarter>());
  }
}

// Tiles of a linear that blocks have by themselves, or share.
int num_tiles(const LinearSpec& spec, int rows, const TileKind& kind, bool is_shared) {
  const auto count = [&](auto groups) {
    constexpr int kGroups = decltype(groups)::value;
    return is_shared ? GemmTiles<kGroups, true>(spec, rows, 8 * kind.row_blocks, 1).tiles : GemmTiles<kGroups, false>(spec, rows, 8 * kind.row_blocks, 1).tiles;
  };
  return kind.groups == kGemmGroups ? count(std::integral_constant<int, kGemmGroups>()) : count(std::integral_constant<int, kGemmMoreGroups>());
}

template <GemmMode mode>
constexpr int most_shared_bytes() {
  constexpr int kHalf = kGemmRowBlocks / 2, kQuarter = kGemmRowBlocks / 4;
  constexpr int kMost = std::max({GemmTile<mode, kGemmRowBlocks, kGemmGroups>::kSharedBytes, GemmTile<mode, kHalf, kGemmGroups>::kSharedBytes, GemmTile<mode, kQuarter, kGemmGroups>::kSharedBytes});
  if (mode == GemmMode::kDense) return kMost;  // has no tiles of more groups
  return std::max(kMost, GemmTile<mode, kQuarter, kGemmMoreGroups>::kSharedBytes);
}

}  // namespace

bool has_cluster_gemm(GemmMode mode, const DeviceWeight& weight) {
  return mode == GemmMode::kDense || ((mode == GemmMode::kHi || mode == GemmMode::kHiLo) && weight.group_size == kGemmGroupSize);
}
int gemm_blocks(int num_blocks) { return std::max(num_blocks / kClusterBlocks, 1) * kClusterBlocks; }
size_t cluster_gemm_shared_bytes() {
  constexpr int kBytes = std::max({most_shared_bytes<GemmMode::kDense>(), most_shared_bytes<GemmMode::kHi>(), most_shared_bytes<GemmMode::kHiLo>()});
  static_assert(kBytes <= 227 * 1024, "what a block of compute capability 9.0 can have");
  return kBytes;
}

// A tile of fewer rows takes more time a row, but more tiles go more evenly round the grid. Where there are fewer tiles than blocks, some can share each.
GemmShape gemm_shape(int num_blocks, int rows, const LinearSpec& spec) {
  const int clusters = gemm_blocks(num_blocks) / kClusterBlocks, slices = num_slices(spec.weight.k_tiles);
  GemmShape best{};
  double least = 0;
  const auto consider = [&](const TileKind& kind, int parts, double time) {
    if (best.parts == 0 || time < least) best = {kind.row_blocks, kind.groups, parts}, least = time;
  };
  const auto consider_all = [&](const auto& kinds) {
    for (const TileKind& kind : kinds) {
      if (rows <= kPassRows && !has_few_rows(kind.row_blocks)) continue;
      consider(kind, 1, kind.time * ((num_tiles(spec, rows, kind, false) + clusters - 1) / clusters));
      const int parts = std::min(slices, num_blocks / num_tiles(spec, rows, kind, true));
      if (parts > 1 && kind.groups == kGemmGroups) consider(kind, parts, kind.time * ((slices + parts - 1) / parts) / slices + (kWaitingK + kRowBlockK * kind.row_blocks) / spec.weight.k);
    }
  };
  if (spec.mode == GemmMode::kDense) consider_all(kDenseKinds);
  else if (spec.mode == GemmMode::kHi) consider_all(kCodesKinds);
  else consider_all(kNestedKinds);
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
