#include "attention/cache_ops.h"

#include <cmath>
#include <string>

#include "common/fragments.cuh"
#include "common/launch.cuh"

namespace qspec::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kMaxHeadDim = 256;

__device__ int code_of(const uint4* plane, size_t tile, int row16, int k64) {
  const int lane = 4 * (row16 % 8) + k64 % 32 / 8, step = 2 * (k64 / 32) + k64 % 8 / 4;
  const uint32_t word = reinterpret_cast<const uint32_t*>(plane + tile * 32 + lane)[step];
  return static_cast<int>(word >> nibble_bit(row16 / 8, k64 % 4) & 15u) - 8;
}

__global__ void embedding_kernel(const DeviceWeight w, const int32_t* tokens, float* output) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const int token = tokens[blockIdx.x], row16 = token % 16;
  for (int k = threadIdx.x; k < w.k; k += blockDim.x) {
    const size_t tile = static_cast<size_t>(token / 16) * w.k_tiles + k / 64;
    const int k64 = k % 64;
    float value;
    if (w.kind == WeightKind::kDenseBf16) {
      const int lane = 4 * (row16 % 8) + k64 % 32 / 8, step = 2 * (k64 / 32) + k64 % 8 / 4, j = k64 % 4;
      const uint16_t bits = reinterpret_cast<const uint16_t*>(w.dense + (tile * 4 + step) * 32 + lane)[(2 * (j / 2) + row16 / 8) * 2 + j % 2];
      value = __uint_as_float(static_cast<uint32_t>(bits) << 16);
    } else {
      const int groups = w.k / w.group_size;
      const uint32_t pair = w.scales[(static_cast<size_t>(token / 16) * groups + k / w.group_size) * 8 + row16 % 8];
      const float scale = __uint_as_float(row16 < 8 ? pair << 16 : pair & 0xffff0000u);
      int code = code_of(w.hi, tile, row16, k64);
      if (w.kind == WeightKind::kNested8) code = w.radix * code + code_of(w.lo, tile, row16, k64);
      value = scale * static_cast<float>(code) / static_cast<float>(w.radix);
    }
    output[static_cast<int64_t>(blockIdx.x) * w.k + k] = value;
  }
}

__device__ void store_head(const KvLayer& cache, void* data, float* scales, int64_t slot, int head, const float* values, int lane) {
  const int64_t vector = slot * cache.num_kv_heads + head, base = vector * cache.head_dim;
  float largest = 0;
  for (int i = lane; i < cache.head_dim; i += 32) {
    if (cache.format == KvFormat::kF32) static_cast<float*>(data)[base + i] = values[i];
    else if (cache.format == KvFormat::kBf16) static_cast<__nv_bfloat16*>(data)[base + i] = __float2bfloat16(values[i]);
    const float m = isfinite(values[i]) ? fabsf(values[i]) : NAN;
    largest = isnan(m) || isnan(largest) ? NAN : fmaxf(largest, m);
  }
  if (cache.format == KvFormat::kF32 || cache.format == KvFormat::kBf16) return;
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, largest, offset);
    largest = isnan(largest) || isnan(other) ? NAN : fmaxf(largest, other);
  }
  const float scale = largest / 127.0f;
  if (lane == 0) scales[vector] = scale;
  for (int i = lane; i < cache.head_dim; i += 32)
    static_cast<int8_t*>(data)[base + i] = scale > 0 ? static_cast<int8_t>(__float2int_rn(fminf(fmaxf(values[i] / scale, -127.0f), 127.0f))) : 0;
}

// One block a row, a warp a head.
__global__ void rope_kernel(const __grid_constant__ RopeKvWriteParams p) {
  __shared__ float cosine[kMaxHeadDim / 2], sine[kMaxHeadDim / 2];
  allow_next_kernel();
  wait_for_previous_kernel();
  const int64_t row = blockIdx.x;
  const int head_dim = p.cache.head_dim, half = head_dim / 2, num_kv = p.cache.num_kv_heads, lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    double s, c;  // float angles lose the fraction at long contexts
    sincos(static_cast<double>(p.batch.positions[row]) * p.inverse_frequencies[i], &s, &c);
    cosine[i] = static_cast<float>(c * p.attention_factor), sine[i] = static_cast<float>(s * p.attention_factor);
  }
  __syncthreads();
  float* q = p.qkv + row * (p.num_heads + 2 * num_kv) * head_dim;
  for (int head = threadIdx.x / 32; head < p.num_heads + 2 * num_kv; head += blockDim.x / 32) {
    float* x = q + head * head_dim;
    const bool is_q = head < p.num_heads, is_v = head >= p.num_heads + num_kv;
    const float* weight = is_v ? nullptr : is_q ? p.q_norm : p.k_norm;
    float factor = 1;
    if (weight) {
      float squares = 0;
      for (int i = lane; i < head_dim; i += 32) squares = fmaf(x[i], x[i], squares);
      for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
      factor = 1.0f / sqrtf(squares / static_cast<float>(head_dim) + p.eps);
    }
    for (int i = lane; i < half && !is_v; i += 32) {
      float a = x[i], b = x[half + i];
      if (weight) a = a * factor * weight[i], b = b * factor * weight[half + i];
      x[i] = a * cosine[i] - b * sine[i];
      x[half + i] = b * cosine[i] + a * sine[i];
    }
    __syncwarp();
    if (is_v) store_head(p.cache, p.cache.v, p.cache.v_scales, p.batch.slots[row], head - p.num_heads - num_kv, x, lane);
    else if (!is_q) store_head(p.cache, p.cache.k, p.cache.k_scales, p.batch.slots[row], head - p.num_heads, x, lane);
  }
}

__device__ int64_t slot_of(const BatchRows& batch, int page_size, int64_t row, int position) {
  if (batch.ancestor_starts != nullptr && position >= batch.ancestor_starts[row])
    return batch.ancestor_slots[row * batch.max_ancestors + position - batch.ancestor_starts[row]];
  return static_cast<int64_t>(batch.page_ids[batch.page_offsets[batch.sequences[row]] + position / page_size]) * page_size + position % page_size;
}

__device__ float kv_element(const KvLayer& cache, const void* data, int64_t index) {
  if (cache.format == KvFormat::kF32) return static_cast<const float*>(data)[index];
  if (cache.format == KvFormat::kBf16) return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
  return static_cast<float>(static_cast<const int8_t*>(data)[index]);
}

// Online softmax over chunks of kThreads positions that begin at multiples of kThreads: a thread scores one position, then owns elements of V.
__global__ void __launch_bounds__(kThreads) attention_kernel(const __grid_constant__ AttentionParams p, float* output) {
  __shared__ float q[kMaxHeadDim], weights[kThreads];
  __shared__ int64_t vectors[kThreads];
  allow_next_kernel();
  wait_for_previous_kernel();
  const KvLayer& cache = p.cache;
  const bool has_scales = cache.format != KvFormat::kF32 && cache.format != KvFormat::kBf16;
  const int64_t row = blockIdx.y;
  const int head = blockIdx.x, head_dim = cache.head_dim, kv_head = head / (p.num_heads / cache.num_kv_heads);
  const int own = p.batch.positions[row], first = p.sliding_window > 0 ? max(0, own + 1 - p.sliding_window) : 0;
  for (int i = threadIdx.x; i < head_dim; i += kThreads) q[i] = p.qkv[row * p.qkv_stride + head * head_dim + i];
  float largest = -INFINITY, sum = 0, acc[kMaxHeadDim / kThreads] = {};
  for (int base = first / kThreads * kThreads; base <= own; base += kThreads) {
    const int position = base + threadIdx.x;
    const bool is_seen = position >= first && position <= own;
    float score = -INFINITY;
    __syncthreads();  // q is there; the last chunk was read
    if (is_seen) {
      const int64_t vector = slot_of(p.batch, cache.page_size, row, position) * cache.num_kv_heads + kv_head;
      vectors[threadIdx.x] = vector;
      float dot = 0;
      for (int i = 0; i < head_dim; ++i) dot = fmaf(q[i], kv_element(cache, cache.k, vector * head_dim + i), dot);
      score = dot * (has_scales ? cache.k_scales[vector] : 1.0f) * p.scale;
    }
    weights[threadIdx.x] = score;
    __syncthreads();
    const int begin = max(first - base, 0), end = min(own - base + 1, kThreads);
    float chunk_largest = largest;
    for (int j = begin; j < end; ++j) chunk_largest = fmaxf(chunk_largest, weights[j]);
    const float shrink = largest == -INFINITY ? 0.0f : expf(largest - chunk_largest);
    __syncthreads();
    if (is_seen) weights[threadIdx.x] = expf(score - chunk_largest);
    __syncthreads();
    sum *= shrink;
#pragma unroll
    for (int e = 0; e < kMaxHeadDim / kThreads; ++e) acc[e] *= shrink;
    for (int j = begin; j < end; ++j) {
      sum += weights[j];
      const float weight = weights[j] * (has_scales ? cache.v_scales[vectors[j]] : 1.0f);
#pragma unroll
      for (int e = 0; e < kMaxHeadDim / kThreads; ++e) {
        const int i = threadIdx.x + e * kThreads;
        if (i < head_dim) acc[e] = fmaf(weight, kv_element(cache, cache.v, vectors[j] * head_dim + i), acc[e]);
      }
    }
    largest = chunk_largest;
  }
#pragma unroll
  for (int e = 0; e < kMaxHeadDim / kThreads; ++e) {
    const int i = threadIdx.x + e * kThreads;
    if (i < head_dim) output[(row * p.num_heads + head) * head_dim + i] = acc[e] / sum;
  }
}

Status check_heads(const KvLayer& cache, int num_heads) {
  if (cache.head_dim < 2 || cache.head_dim % 2 != 0 || cache.head_dim > kMaxHeadDim)
    return {StatusCode::kUnsupported, "Expected `head_dim` to be even and at most 256 on CUDA but received " + std::to_string(cache.head_dim) + "; use the CPU backend."};
  if (cache.num_kv_heads < 1 || num_heads % cache.num_kv_heads != 0)
    return {StatusCode::kShapeMismatch, "Expected `num_heads` to be a multiple of " + std::to_string(cache.num_kv_heads) + " but received " + std::to_string(num_heads) + "."};
  return {};
}

}  // namespace

Status launch_embedding(const DeviceWeight& table, const int32_t* tokens, float* output, int64_t rows, cudaStream_t stream) {
  if (rows == 0) return {};
  return launch(embedding_kernel, dim3(static_cast<unsigned>(rows)), 256, 0, stream, true, "embedding", table, tokens, output);
}
Status launch_rope_kv_write(const RopeKvWriteParams& params, cudaStream_t stream) {
  QSPEC_RETURN_IF_ERROR(check_heads(params.cache, params.num_heads));
  if (params.batch.rows == 0) return {};
  return launch(rope_kernel, dim3(static_cast<unsigned>(params.batch.rows)), 256, 0, stream, true, "rope_kv_write", params);
}
Status launch_attention(const AttentionParams& params, float* output, cudaStream_t stream) {
  QSPEC_RETURN_IF_ERROR(check_heads(params.cache, params.num_heads));
  if (params.batch.rows == 0) return {};
  if (params.batch.rows > 65535) return {StatusCode::kInvalidArgument, "Expected at most 65535 rows of attention in one launch; split the batch."};
  return launch(attention_kernel, dim3(params.num_heads, static_cast<unsigned>(params.batch.rows)), kThreads, 0, stream, true, "attention", params, output);
}

}  // namespace qspec::cuda
