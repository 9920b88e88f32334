#include <algorithm>

#include "common/launch.cuh"
#include "gemm/cluster_gemm.cuh"

namespace qspec::cuda {

bool has_cluster_gemm(GemmMode mode, const DeviceWeight& weight) {
  return mode == GemmMode::kDense || ((mode == GemmMode::kHi || mode == GemmMode::kHiLo) && weight.group_size == kGemmGroupSize);
}
int gemm_blocks(int num_blocks) { return std::max(num_blocks / kClusterBlocks, 1) * kClusterBlocks; }
size_t cluster_gemm_shared_bytes() { return std::max({gemm_shared_bytes(GemmMode::kDense), gemm_shared_bytes(GemmMode::kHi), gemm_shared_bytes(GemmMode::kHiLo)}); }

Status launch_cluster_gemm(int num_blocks, const ClusterGemmParams& params, cudaStream_t stream) {
  const auto run = [&](auto kernel, GemmMode mode) {
    LaunchShape shape{gemm_blocks(num_blocks), kGemmThreads, gemm_shared_bytes(mode)};
    shape.cluster_blocks = kClusterBlocks, shape.is_dependent = true;
    return launch(kernel, shape, stream, "cluster gemm", params);
  };
  switch (params.phase.linear.mode) {
    case GemmMode::kDense: return run(cluster_gemm_kernel<GemmMode::kDense>, GemmMode::kDense);
    case GemmMode::kHi: return run(cluster_gemm_kernel<GemmMode::kHi>, GemmMode::kHi);
    default: return run(cluster_gemm_kernel<GemmMode::kHiLo>, GemmMode::kHiLo);
  }
}

}  // namespace qspec::cuda
