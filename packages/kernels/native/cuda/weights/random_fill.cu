#include "weights/random_fill.h"

#include "common/launch.cuh"

namespace qspec::cuda {

namespace {

constexpr int kThreads = 256, kBlocks = 528;

struct FillParams {
  uint32_t* words;
  int64_t count;
  int fill;
  float spread;  // of bf16 values
  uint64_t seed;
};

QSPEC_DEVICE uint32_t mixed(uint64_t x) {
  x ^= x >> 33, x *= 0xff51afd7ed558ccdull, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ull, x ^= x >> 33;
  return static_cast<uint32_t>(x);
}
QSPEC_DEVICE int64_t first_index() { return static_cast<int64_t>(block_index()) * kThreads + thread_index(); }
QSPEC_DEVICE int64_t stride() { return static_cast<int64_t>(grid_blocks()) * kThreads; }

QSPEC_KERNEL(kThreads, 1) fill_kernel(const QSPEC_GRID_CONSTANT FillParams p) {
  for (int64_t i = first_index(); i < p.count; i += stride()) {
    const uint32_t bits = mixed(p.seed * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(i));
    uint32_t word = bits;
    if (p.fill == static_cast<int>(RandomFill::kBf16)) {
      const float a = (static_cast<float>(bits & 0xffff) - 32768.0f) / 19000.0f, b = (static_cast<float>(bits >> 16) - 32768.0f) / 19000.0f;
      word = pack_bf16(a * p.spread, b * p.spread);
    } else if (p.fill == static_cast<int>(RandomFill::kScales)) {
      word = bits_of_float((0.75f + static_cast<float>(bits & 1023u) / 2048.0f) / 64.0f);
    }
    p.words[i] = word;
  }
}

struct ScaleParams {
  DeviceWeight weight;
  uint8_t* memory;
  uint64_t seed;
};

QSPEC_KERNEL(kThreads, 1) scales_kernel(const QSPEC_GRID_CONSTANT ScaleParams p) {
  const DeviceWeight& w = p.weight;
  const int groups = w.k / w.group_size;
  const float scale = 1.0f / (4.6f * sqrtf(static_cast<float>(w.k)));
  const int64_t count = static_cast<int64_t>(w.n_tiles) * groups * 8;
  for (int64_t i = first_index(); i < count; i += stride()) {
    const int row_tile = static_cast<int>(i / (groups * 8)), q = static_cast<int>(i / 8 % groups);
    uint8_t* scales = p.memory + row_tile * hi_row_tile_bytes(w.k, w.k_tiles, w.group_size) + scales_offset(w.k_tiles, w.group_size, q);
    const float jitter = 0.75f + static_cast<float>(mixed(p.seed ^ static_cast<uint64_t>(i)) & 1023u) / 2048.0f;
    reinterpret_cast<uint32_t*>(scales)[i % 8] = pack_bf16(scale * jitter, scale * jitter);
  }
}

Status fill(uint8_t* memory, size_t bytes, RandomFill fill, float spread, uint64_t seed) {
  const FillParams params{reinterpret_cast<uint32_t*>(memory), static_cast<int64_t>(bytes / 4), static_cast<int>(fill), spread, seed};
  QSPEC_RETURN_IF_ERROR(launch(fill_kernel, {kBlocks, kThreads}, nullptr, "random fill", params));
  QSPEC_CUDA_CALL(cudaStreamSynchronize(nullptr));
  return {};
}

}  // namespace

Status fill_random(uint8_t* memory, size_t bytes, RandomFill what, uint64_t seed) { return fill(memory, bytes, what, 1.0f, seed); }

Status fill_random_weight(const DeviceWeight& weight, uint8_t* memory, size_t bytes, uint64_t seed) {
  const bool is_dense = weight.kind == WeightKind::kDenseBf16;
  QSPEC_RETURN_IF_ERROR(fill(memory, bytes, is_dense ? RandomFill::kBf16 : RandomFill::kBits, 1.0f / sqrtf(static_cast<float>(weight.k)), seed));
  if (is_dense) return {};
  QSPEC_RETURN_IF_ERROR(launch(scales_kernel, {kBlocks, kThreads}, nullptr, "random scales", ScaleParams{weight, memory, seed}));
  QSPEC_CUDA_CALL(cudaStreamSynchronize(nullptr));
  return {};
}

}  // namespace qspec::cuda
