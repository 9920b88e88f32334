// Launcher of the linear op: checks, chooses the kernel by rows, cuts the matrix into blocks.
#include "gemm/gemm.h"

#include <algorithm>
#include <string>

#include "common/launch.cuh"
#include "gemm/decode_gemm_kernel.cuh"
#include "gemm/wide_gemm_kernel.cuh"

namespace qspec::cuda {

namespace {

constexpr int kMaxDecodeRows = 16;  // of decode_gemm_kernel
constexpr int kIntRows = 16;        // integer modes have no wide kernel: rows go in blocks of this many

int num_multiprocessors() {
  static const int count = [] {
    int device = 0, value = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 132;
    return cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device) == cudaSuccess && value > 0 ? value : 132;
  }();
  return count;
}

// Row-tiles a block takes one after the other: the least load of the busiest multiprocessor, two blocks resident; then most blocks.
int choose_units(int n_tiles, int slices, int resident) {
  const int sms = num_multiprocessors();
  int best = 1;
  int64_t best_load = INT64_MAX;
  for (int units = 1; units <= 64 && units <= n_tiles; ++units) {
    const int64_t blocks = static_cast<int64_t>((n_tiles + units - 1) / units) * slices;
    if (blocks > static_cast<int64_t>(sms) * resident && units < 64 && units < n_tiles) continue;
    const int64_t load = (blocks + sms - 1) / sms * units;
    if (load < best_load) best_load = load, best = units;
  }
  return best_load == INT64_MAX ? std::min(64, n_tiles) : best;
}

Status invalid(const std::string& text) { return {StatusCode::kInvalidArgument, "GEMM: " + text}; }

Status check(const GemmParams& p, const GemmWorkspace& workspace) {
  const DeviceWeight& w = *p.weight;
  if (p.rows < 0) return invalid("expected `rows` to be at least 0 but received " + std::to_string(p.rows) + ".");
  if (p.out_column < 0 || p.out_column + w.n > p.out_stride) return invalid("expected the outputs to fit `out_stride` " + std::to_string(p.out_stride) + ".");
  if (w.kind == WeightKind::kDenseBf16 && (p.quantized != nullptr || p.plane == Plane::kHi))
    return {StatusCode::kUnsupported, "GEMM: expected a dense weight to be read whole with float input; quantise the weight for draft modes."};
  if (p.quantized == nullptr) {
    if (p.x == nullptr || reinterpret_cast<uintptr_t>(p.x) % 16 != 0 || p.x_stride % 8 != 0 || p.x_stride < w.k)
      return invalid("expected `x` to be 16-byte aligned rows, a multiple of 8 elements apart and at least k long.");
  } else if (p.quantized->group_size != w.group_size) {
    return invalid("expected the input's groups to be the weight's, of " + std::to_string(w.group_size) + ", but received " + std::to_string(p.quantized->group_size) + ".");
  }
  if (gemm_workspace_floats(w, p.rows) > workspace.num_floats || workspace.counters == nullptr)
    return invalid("expected a workspace of " + std::to_string(gemm_workspace_floats(w, p.rows)) + " floats but received " + std::to_string(workspace.num_floats) + ".");
  return {};
}

template <GemmMode mode, int n8>
Status launch_decode(GemmArgs args, cudaStream_t stream, const LaunchOptions& options) {
  const KPlan plan = k_plan(args.w.k_tiles);
  const int warps = plan.slice_runs;
  const size_t bytes = decode_x_bytes(is_int(mode), n8, plan.slice_runs * kRunTiles, is_int(mode) ? args.w.group_size : 32) + decode_partial_bytes(n8, warps);
  args.units_per_block = options.units_per_block > 0 ? options.units_per_block : choose_units(args.w.n_tiles, plan.slices, n8 == 1 ? 2 : 1);
  const dim3 grid((args.w.n_tiles + args.units_per_block - 1) / args.units_per_block, plan.slices);
  const auto kernel = mode == GemmMode::kDense || args.w.group_size == 128 ? decode_gemm_kernel<mode, n8, 2>
                      : args.w.group_size == 64                            ? decode_gemm_kernel<mode, n8, mode == GemmMode::kDense ? 2 : 1>
                                                                           : decode_gemm_kernel<mode, n8, mode == GemmMode::kDense ? 2 : 0>;
  return launch(kernel, grid, warps * 32, bytes, stream, options.dependent, "decode_gemm", args);
}

template <GemmMode mode, int n8, int warps_n>
Status launch_wide(const GemmArgs& args, cudaStream_t stream, const LaunchOptions& options) {
  const KPlan plan = k_plan(args.w.k_tiles);
  const dim3 grid((args.w.n_tiles + 2 * warps_n - 1) / (2 * warps_n), plan.slices, (args.rows + 8 * n8 - 1) / (8 * n8));
  if (plan.slices > 1 && static_cast<int64_t>(grid.x) * grid.z > kGemmCounters) return invalid("too many rows for one launch; split the batch.");
  return launch(wide_gemm_kernel<mode, n8, warps_n>, grid, 256, wide_shared_bytes<n8, warps_n>(), stream, options.dependent, "wide_gemm", args);
}

template <GemmMode mode>
Status launch_float(const GemmArgs& args, cudaStream_t stream, const LaunchOptions& options) {
  if (args.rows <= 8) return launch_decode<mode, 1>(args, stream, options);
  if (args.rows <= kMaxDecodeRows) return launch_decode<mode, 2>(args, stream, options);
  // Blocks of 256 outputs when they still fill the chip.
  const KPlan plan = k_plan(args.w.k_tiles);
  const bool many = static_cast<int64_t>(args.w.n_tiles) / 16 * plan.slices * ((args.rows + 63) / 64) >= num_multiprocessors() * 3 / 4;
  if (args.rows <= 32) return many ? launch_wide<mode, 4, 8>(args, stream, options) : launch_wide<mode, 4, 2>(args, stream, options);
  return many ? launch_wide<mode, 8, 8>(args, stream, options) : launch_wide<mode, 8, 2>(args, stream, options);
}

template <GemmMode mode>
Status launch_int(const GemmArgs& all, cudaStream_t stream, const LaunchOptions& options) {
  const int64_t groups = all.w.k / all.w.group_size;
  for (int row = 0; row < all.rows; row += kIntRows) {
    GemmArgs args = all;
    args.rows = std::min(kIntRows, all.rows - row);
    args.codes += static_cast<int64_t>(row) * all.w.k;
    args.x_scales += row * groups, args.x_sums += row * groups;
    args.out += row * all.out_stride;
    QSPEC_RETURN_IF_ERROR((args.rows <= 8 ? launch_decode<mode, 1>(args, stream, options) : launch_decode<mode, 2>(args, stream, options)));
  }
  return {};
}

}  // namespace

int64_t gemm_workspace_floats(const DeviceWeight& weight, int64_t rows) {
  const KPlan plan = k_plan(weight.k_tiles);
  return plan.slices > 1 ? rows * plan.slices * weight.n_tiles * kTileN : 0;
}

Status launch_gemm(const GemmParams& p, const GemmWorkspace& workspace, cudaStream_t stream, const LaunchOptions& options) {
  QSPEC_RETURN_IF_ERROR(check(p, workspace));
  if (p.rows == 0) return {};
  GemmArgs args = {};
  args.w = *p.weight;
  args.x = p.x, args.x_stride = p.x_stride;
  if (p.quantized) args.codes = p.quantized->codes, args.x_scales = p.quantized->scales, args.x_sums = p.quantized->sums;
  args.bias = p.bias, args.out = p.out, args.out_stride = p.out_stride, args.out_column = p.out_column;
  args.partials = workspace.partials, args.counters = workspace.counters;
  args.rows = static_cast<int>(p.rows), args.add = p.add;
  const bool full = args.w.kind == WeightKind::kNested8 && p.plane == Plane::kFull;
  if (p.quantized) return full ? launch_int<GemmMode::kHiLoInt>(args, stream, options) : launch_int<GemmMode::kHiInt>(args, stream, options);
  if (args.w.kind == WeightKind::kDenseBf16) return launch_float<GemmMode::kDense>(args, stream, options);
  return full ? launch_float<GemmMode::kHiLo>(args, stream, options) : launch_float<GemmMode::kHi>(args, stream, options);
}

}  // namespace qspec::cuda
