#include "rows/row_ops.h"

#include <cmath>
#include <string>

#include "common/fragments.cuh"
#include "common/launch.cuh"

namespace qspec::cuda {

namespace {

constexpr int kThreads = 256;
enum class RowSource { kCopy, kRmsNorm, kSiluMul };

struct RowArgs {
  float* input;
  const float* delta;
  const float* weight;
  float eps;
  int width;
  DeviceSink sink;
};

// Fixed tree over the block: lanes, then warps in order. Every thread gets the result; `shared` is free afterwards.
template <bool is_max>
__device__ float block_reduce(float value, float* shared /* [kThreads / 32] */) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, value, offset);
    value = is_max ? (isnan(value) || isnan(other) ? NAN : fmaxf(value, other)) : value + other;
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float result = shared[0];
  for (int w = 1; w < kThreads / 32; ++w) result = is_max ? (isnan(result) || isnan(shared[w]) ? NAN : fmaxf(result, shared[w])) : result + shared[w];
  __syncthreads();
  return result;
}

__device__ float magnitude(float v) { return isfinite(v) ? fabsf(v) : NAN; }

// y = x · H / sqrt(block) in shared memory, Sylvester order.
__device__ void hadamard_row(float* row, int width, int block) {
  for (int step = 1; step < block; step *= 2) {
    for (int i = threadIdx.x; i < width / 2; i += kThreads) {
      const int at = i / step * 2 * step + i % step;
      const float a = row[at], b = row[at + step];
      row[at] = a + b, row[at + step] = a - b;
    }
    __syncthreads();
  }
  const float norm = 1.0f / sqrtf(static_cast<float>(block));
  for (int i = threadIdx.x; i < width; i += kThreads) row[i] *= norm;
  __syncthreads();
}

// One warp a group.
__device__ void quantize_row(const float* row, int width, const QuantizedRows& out, int64_t row_index, float* shared) {
  const float qmax = static_cast<float>((1 << (out.bits - 1)) - 1);
  float row_max = 0;
  if (out.per_token) {
    for (int i = threadIdx.x; i < width; i += kThreads) {
      const float m = magnitude(row[i]);
      row_max = isnan(m) || isnan(row_max) ? NAN : fmaxf(row_max, m);
    }
    row_max = block_reduce<true>(row_max, shared);
  }
  const int lane = threadIdx.x % 32, groups = width / out.group_size;
  for (int q = threadIdx.x / 32; q < groups; q += kThreads / 32) {
    const float* span = row + q * out.group_size;
    float largest = row_max;
    if (!out.per_token) {
      largest = 0;
      for (int i = lane; i < out.group_size; i += 32) {
        const float m = magnitude(span[i]);
        largest = isnan(m) || isnan(largest) ? NAN : fmaxf(largest, m);
      }
      for (int offset = 16; offset > 0; offset /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, largest, offset);
        largest = isnan(largest) || isnan(other) ? NAN : fmaxf(largest, other);
      }
    }
    const float scale = largest / qmax;
    int sum = 0;
    for (int i = lane; i < out.group_size; i += 32) {
      const int code = isfinite(scale) && scale > 0 ? __float2int_rn(fminf(fmaxf(span[i] / scale, -qmax), qmax)) : 0;
      out.codes[row_index * width + code_place(q * out.group_size + i)] = static_cast<int8_t>(code);
      sum += code;
    }
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0) out.scales[row_index * groups + q] = scale, out.sums[row_index * groups + q] = sum;
  }
}

template <RowSource source>
__global__ void __launch_bounds__(kThreads) row_kernel(const __grid_constant__ RowArgs args) {
  extern __shared__ float row[];  // [width]
  __shared__ float shared[kThreads / 32];
  allow_next_kernel();
  wait_for_previous_kernel();
  const int64_t index = blockIdx.x;
  const int width = args.width;
  float* input = args.input + index * width * (source == RowSource::kSiluMul ? 2 : 1);
  float squares = 0;
  for (int i = threadIdx.x; i < width; i += kThreads) {
    float value = input[i];
    if constexpr (source == RowSource::kRmsNorm) {
      if (args.delta) input[i] = value += args.delta[index * width + i];
      squares = fmaf(value, value, squares);
    }
    if constexpr (source == RowSource::kSiluMul) value = value / (1.0f + expf(-value)) * input[width + i];
    row[i] = value;
  }
  __syncthreads();
  if constexpr (source == RowSource::kRmsNorm) {
    const float factor = 1.0f / sqrtf(block_reduce<false>(squares, shared) / static_cast<float>(width) + args.eps);
    for (int i = threadIdx.x; i < width; i += kThreads) row[i] = row[i] * factor * args.weight[i];
    __syncthreads();
  }
  if (args.sink.hadamard_block > 1) hadamard_row(row, width, args.sink.hadamard_block);
  if (args.sink.quantized.codes) {
    quantize_row(row, width, args.sink.quantized, index, shared);
  } else {
    for (int i = threadIdx.x; i < width; i += kThreads) args.sink.values[index * args.sink.values_stride + i] = __float2bfloat16(row[i]);
  }
}

__global__ void gather_kernel(const float* input, const int32_t* row_index, float* output, int64_t width) {
  allow_next_kernel();
  wait_for_previous_kernel();
  const float* from = input + row_index[blockIdx.x] * width;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) output[blockIdx.x * width + i] = from[i];
}

Status check_sink(const DeviceSink& sink, int64_t rows, int64_t width) {
  const auto bad = [](const std::string& text) { return Status(StatusCode::kInvalidArgument, "Row op: " + text); };
  if (rows < 0 || width < 1 || width > kMaxRowWidth) return bad("expected a width in 1.." + std::to_string(kMaxRowWidth) + " but received " + std::to_string(width) + ".");
  const int block = sink.hadamard_block;
  if (block < 0 || (block & (block - 1)) != 0 || (block > 0 && width % block != 0)) return bad("expected `hadamard_block` to be 0 or a power of two dividing the width but received " + std::to_string(block) + ".");
  const QuantizedRows& q = sink.quantized;
  if (q.codes == nullptr) return sink.values != nullptr && sink.values_stride >= width ? Status::ok() : bad("expected `values` with a stride of at least the width.");
  if ((q.bits != 4 && q.bits != 8) || (q.group_size != 32 && q.group_size != 64 && q.group_size != 128) || width % q.group_size != 0)
    return bad("expected 4 or 8 bits and a group of 32, 64 or 128 that divides the width.");
  return {};
}

template <RowSource source>
Status launch_rows(const RowArgs& args, int64_t rows, cudaStream_t stream) {
  QSPEC_RETURN_IF_ERROR(check_sink(args.sink, rows, args.width));
  if (rows == 0) return {};
  return launch(row_kernel<source>, dim3(static_cast<unsigned>(rows)), kThreads, args.width * sizeof(float), stream, true, "row op", args);
}

}  // namespace

Status launch_rms_norm(float* input, const float* delta, const float* weight, float eps, int64_t rows, int64_t width, const DeviceSink& sink, cudaStream_t stream) {
  return launch_rows<RowSource::kRmsNorm>(RowArgs{input, delta, weight, eps, static_cast<int>(width), sink}, rows, stream);
}
Status launch_transform(const float* input, int64_t rows, int64_t width, const DeviceSink& sink, cudaStream_t stream) {
  return launch_rows<RowSource::kCopy>(RowArgs{const_cast<float*>(input), nullptr, nullptr, 0, static_cast<int>(width), sink}, rows, stream);
}
Status launch_silu_mul(const float* input, int64_t rows, int64_t width, const DeviceSink& sink, cudaStream_t stream) {
  return launch_rows<RowSource::kSiluMul>(RowArgs{const_cast<float*>(input), nullptr, nullptr, 0, static_cast<int>(width), sink}, rows, stream);
}
Status launch_gather_rows(const float* input, const int32_t* row_index, float* output, int64_t rows, int64_t width, cudaStream_t stream) {
  if (rows == 0) return {};
  return launch(gather_kernel, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, true, "gather_rows", input, row_index, output, width);
}

}  // namespace qspec::cuda
