#include "session/device_bandwidth.h"

#include <algorithm>
#include <vector>

#include "common/launch.cuh"

namespace qspec::cuda {

namespace {

constexpr int kThreads = 512, kUnroll = 8;

struct ReadParams {
  const uint4* data;
  int64_t count;
  uint32_t* sink;
};

QSPEC_KERNEL(kThreads, 1) read_kernel(const QSPEC_GRID_CONSTANT ReadParams p) {
  const int64_t stride = static_cast<int64_t>(grid_blocks()) * kThreads, first = static_cast<int64_t>(block_index()) * kThreads + thread_index();
  uint32_t sum = 0;
  for (int64_t base = first; base < p.count; base += stride * kUnroll) {
    uint4 v[kUnroll];
    QSPEC_UNROLL
    for (int i = 0; i < kUnroll; ++i) {
      const int64_t at = base + i * stride;
      v[i] = at < p.count ? load_l2(p.data + at) : uint4{0, 0, 0, 0};
    }
    QSPEC_UNROLL
    for (int i = 0; i < kUnroll; ++i) sum ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  if (sum == 0x12345678u) *p.sink = sum;  // keeps the loads
}

}  // namespace

Status measure_device_read(double* bytes_per_second) {
  size_t free_bytes = 0, total_bytes = 0;
  QSPEC_CUDA_CALL(cudaMemGetInfo(&free_bytes, &total_bytes));
  const size_t bytes = std::min<size_t>(size_t{1} << 30, free_bytes / 2) / 4096 * 4096;
  DeviceBuffer buffer, sink;
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(bytes, "measuring bandwidth", &buffer));
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(4, "measuring bandwidth", &sink));
  QSPEC_RETURN_IF_ERROR(buffer.fill(1));
  const ReadParams params{buffer.as<uint4>(), static_cast<int64_t>(bytes / 16), sink.as<uint32_t>()};
  cudaEvent_t begin, end;
  QSPEC_CUDA_CALL(cudaEventCreate(&begin));
  QSPEC_CUDA_CALL(cudaEventCreate(&end));
  std::vector<float> times;
  Status status;
  for (int i = 0; i < 11 && status.is_ok(); ++i) {
    (void)cudaEventRecord(begin, nullptr);
    status = launch(read_kernel, {132 * 4, kThreads}, nullptr, "bandwidth", params);
    (void)cudaEventRecord(end, nullptr);
    float ms = 0;
    if (cudaEventSynchronize(end) == cudaSuccess && cudaEventElapsedTime(&ms, begin, end) == cudaSuccess && i >= 2) times.push_back(ms);
  }
  (void)cudaEventDestroy(begin), (void)cudaEventDestroy(end);
  QSPEC_RETURN_IF_ERROR(status);
  if (times.empty()) return {StatusCode::kDevice, "Expected the bandwidth measurement to run but no pass finished; check `nvidia-smi`."};
  std::sort(times.begin(), times.end());
  *bytes_per_second = static_cast<double>(bytes) / (std::max(times[times.size() / 2], 1e-6f) * 1e-3);
  return {};
}

}  // namespace qspec::cuda
