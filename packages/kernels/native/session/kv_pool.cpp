#include "session/kv_pool.h"

#include <cstring>

namespace qspec {

namespace {
int64_t element_bytes(KvFormat format) { return format == KvFormat::kF32 ? 4 : format == KvFormat::kBf16 ? 2 : 1; }
bool has_scales(KvFormat format) { return format == KvFormat::kInt8; }
}  // namespace

Status KvPool::create(const KvShape& shape) {
  QSPEC_RETURN_IF_ERROR(validate_kv_shape(shape));
  shape_ = shape;
  // In double first: the sizes are a caller's and may overflow.
  const double wanted = 2.0 * shape.num_layers * static_cast<double>(shape.num_slots()) * shape.num_kv_heads * (shape.head_dim * 4.0 + 4);
  const size_t plane = align_up(static_cast<size_t>(shape.num_slots()) * shape.num_kv_heads * shape.head_dim * element_bytes(shape.format));
  const size_t scales = has_scales(shape.format) ? align_up(static_cast<size_t>(shape.num_slots()) * shape.num_kv_heads * sizeof(float)) : 0;
  const size_t per_layer = 2 * (plane + scales);
  if (wanted > 1e15 || !memory_.allocate(per_layer * shape.num_layers)) {
    return {StatusCode::kOutOfMemory, "Expected room for " + std::to_string(shape.num_pages) + " KV pages (" +
                                          std::to_string(per_layer * shape.num_layers >> 20) + " MiB) but the system has not: lower `kv.numPages`."};
  }
  layers_.resize(shape.num_layers);
  char* next = memory_.data();
  const auto take = [&next](size_t bytes) { return std::exchange(next, next + bytes); };
  for (KvLayer& layer : layers_) {
    layer = {};
    layer.format = shape.format;
    layer.num_kv_heads = shape.num_kv_heads;
    layer.head_dim = shape.head_dim;
    layer.page_size = shape.page_size;
    layer.num_slots = shape.num_slots();
    layer.k = take(plane);
    layer.v = take(plane);
    if (!scales) continue;
    layer.k_scales = reinterpret_cast<float*>(take(scales));
    layer.v_scales = reinterpret_cast<float*>(take(scales));
  }
  return Status::ok();
}

void KvPool::copy_page(int64_t from, int64_t to) {
  const size_t heads = static_cast<size_t>(shape_.page_size) * shape_.num_kv_heads;
  const size_t bytes = heads * shape_.head_dim * element_bytes(shape_.format);
  for (const KvLayer& layer : layers_) {
    for (void* plane : {layer.k, layer.v}) {
      std::memmove(static_cast<char*>(plane) + to * bytes, static_cast<char*>(plane) + from * bytes, bytes);
    }
    if (!has_scales(shape_.format)) continue;
    for (float* scales : {layer.k_scales, layer.v_scales}) std::memmove(scales + to * heads, scales + from * heads, heads * sizeof(float));
  }
}

}  // namespace qspec
