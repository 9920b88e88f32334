#include "session/device_kv.h"

#include "weights/random_fill.h"

namespace qspec::cuda {

namespace {
size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
}  // namespace

Status DeviceKv::create(const KvShape& shape) {
  if (shape.format == KvFormat::kF32) return {StatusCode::kUnsupported, "Expected `kv.format` to be bf16, int8 or int8-nested on CUDA but received f32; use bf16, or the CPU backend."};
  if (shape.head_dim % 32 != 0 || shape.head_dim > kMaxHeadDim)
    return {StatusCode::kUnsupported, "Expected `kv.headDim` to be 32, 64, 96 or 128 on CUDA but received " + std::to_string(shape.head_dim) + "; use the CPU backend."};
  shape_ = shape;
  const size_t heads = static_cast<size_t>(shape.page_size) * shape.num_kv_heads;
  const bool is_bf16 = shape.format == KvFormat::kBf16, is_nested = shape.format == KvFormat::kInt8Nested;
  const size_t codes = heads * shape.head_dim * (is_bf16 ? 2 : 1) / (is_nested ? 2 : 1), scales = is_bf16 ? 0 : heads * sizeof(float);
  const size_t pages = static_cast<size_t>(shape.num_pages);
  const double per_page = 2.0 * shape.num_layers * (static_cast<double>(codes) * (is_nested ? 2 : 1) + scales);
  const double wanted = per_page * static_cast<double>(pages);
  if (wanted > 1e15) return {StatusCode::kOutOfMemory, "Expected fewer than 10^15 bytes of KV cache; lower `kv.numPages`."};
  const size_t per_layer = 2 * (aligned(codes * pages) * (is_nested ? 2 : 1) + aligned(scales * pages));
  const std::string what = std::to_string(shape.num_pages) + " KV pages of " + std::to_string(static_cast<int64_t>(per_page)) + " bytes";
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(per_layer * shape.num_layers, what.c_str(), &memory_, "lower `kv.numPages` or take a smaller `kv.format`"));
  QSPEC_RETURN_IF_ERROR(memory_.fill(0));
  layers_.resize(shape.num_layers);
  uint8_t* next = memory_.as<uint8_t>();
  const auto take = [&](size_t page_bytes) {
    if (page_bytes == 0) return static_cast<uint8_t*>(nullptr);
    planes_.push_back({next, page_bytes});
    return std::exchange(next, next + aligned(page_bytes * pages));
  };
  for (DeviceKvLayer& layer : layers_) {
    layer = {};
    layer.format = shape.format;
    layer.k = take(codes), layer.v = take(codes);
    if (is_nested) layer.k_low = take(codes), layer.v_low = take(codes);
    layer.k_scales = reinterpret_cast<float*>(take(scales)), layer.v_scales = reinterpret_cast<float*>(take(scales));
  }
  return {};
}

Status DeviceKv::copy_page(int64_t from, int64_t to, cudaStream_t stream) const {
  if (from == to) return {};
  for (const Plane& plane : planes_) {
    const size_t bytes = plane.page_bytes;
    QSPEC_CUDA_CALL(cudaMemcpyAsync(plane.base + to * bytes, plane.base + from * bytes, bytes, cudaMemcpyDeviceToDevice, stream));
  }
  return {};
}

Status DeviceKv::fill_randomly(uint64_t seed) {
  for (const DeviceKvLayer& layer : layers_) {
    const bool is_bf16 = layer.format == KvFormat::kBf16;
    for (const Plane& plane : planes_) {
      const bool is_scale = plane.base == reinterpret_cast<uint8_t*>(layer.k_scales) || plane.base == reinterpret_cast<uint8_t*>(layer.v_scales);
      const bool is_code = plane.base == layer.k || plane.base == layer.v || plane.base == layer.k_low || plane.base == layer.v_low;
      if (!is_scale && !is_code) continue;
      const RandomFill fill = is_scale ? RandomFill::kScales : is_bf16 ? RandomFill::kBf16 : RandomFill::kBits;
      QSPEC_RETURN_IF_ERROR(fill_random(plane.base, plane.page_bytes * static_cast<size_t>(shape_.num_pages), fill, seed++));
    }
  }
  return {};
}

}  // namespace qspec::cuda
