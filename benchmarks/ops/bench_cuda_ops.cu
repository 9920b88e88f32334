// bench_cuda_ops [out.csv] [commit]: what the device reads and copies per second, then each GEMM against that; see benchmarks/README.md.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "common/device.h"
#include "common/launch.cuh"
#include "gemm/gemm.h"

using namespace qspec;
using namespace qspec::cuda;

namespace {

void need(const Status& status) {
  if (status.is_ok()) return;
  std::fprintf(stderr, "%s\n", status.message().c_str());
  std::exit(1);
}
void need(cudaError_t error, const char* what) {
  if (error != cudaSuccess) need(device_error(error, what));
}

__global__ void read_kernel(const uint4* data, size_t count, unsigned* out) {
  unsigned sum = 0;
  const size_t step = size_t{gridDim.x} * blockDim.x;
  size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 7 * step < count; i += 8 * step) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = __ldcs(data + i + j * step);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < count; i += step) sum ^= data[i].x;
  if (sum == 0x12345u) *out = sum;
}

// Random bits; `scale_words`: bfloat16 pairs near 0.01.
__global__ void fill_kernel(uint32_t* data, size_t count, uint32_t seed, bool as_bf16) {
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
    uint32_t z = static_cast<uint32_t>(i) * 2654435761u + seed;
    z ^= z >> 16, z *= 0x85ebca6bu, z ^= z >> 13, z *= 0xc2b2ae35u, z ^= z >> 16;
    data[i] = as_bf16 ? (z & 0x807f807fu) | 0x3c003c00u : z;
  }
}

float median_us(int repeats, const std::function<void()>& body) {
  cudaEvent_t begin, end;
  need(cudaEventCreate(&begin), "event"), need(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < repeats + 2; ++i) {
    need(cudaEventRecord(begin, nullptr), "record");
    body();
    need(cudaEventRecord(end, nullptr), "record");
    need(cudaEventSynchronize(end), "synchronize");
    float ms = 0;
    need(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (i >= 2) times.push_back(ms * 1000);
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

struct Mode {
  const char* name;
  WeightKind kind;
  Plane plane;
  int bits;  // of the activations; 16 = bfloat16
};
struct Matrix {
  const char* model;
  const char* name;
  int n, k;
};
struct Matrices {  // as many copies as push each other out of L2
  std::vector<DeviceBuffer> memory;
  std::vector<DeviceWeight> views;
  size_t read_bytes;
};

Matrices make(const Matrix& m, const Mode& mode, size_t l2_bytes) {
  DeviceWeight w = {};
  w.kind = mode.kind, w.n = m.n, w.k = m.k, w.n_tiles = m.n / 16, w.k_tiles = m.k / 64, w.radix = mode.kind == WeightKind::kNested8 ? 8 : 1;
  w.group_size = mode.kind == WeightKind::kDenseBf16 ? 0 : 128;
  const size_t elements = size_t(m.n) * m.k, plane = mode.kind == WeightKind::kDenseBf16 ? elements * 2 : elements / 2;
  const size_t scales = w.group_size ? elements / 128 * 2 : 0;
  const int planes = mode.kind == WeightKind::kNested8 ? 2 : 1;
  Matrices result;
  result.read_bytes = plane * (mode.plane == Plane::kHi ? 1 : planes) + scales;
  const int copies = static_cast<int>(std::max<size_t>(2, 3 * l2_bytes / result.read_bytes + 1));
  for (int i = 0; i < copies; ++i) {
    DeviceBuffer b;
    need(DeviceBuffer::create(planes * plane + scales, m.name, &b));
    fill_kernel<<<1024, 256>>>(b.as<uint32_t>(), planes * plane / 4, i * 77, mode.kind == WeightKind::kDenseBf16);
    if (scales) fill_kernel<<<64, 256>>>(b.as<uint32_t>() + planes * plane / 4, scales / 4, i, true);
    need(cudaGetLastError(), "fill");
    uint8_t* base = b.as<uint8_t>();
    if (mode.kind == WeightKind::kDenseBf16) w.dense = reinterpret_cast<uint4*>(base);
    else w.hi = reinterpret_cast<uint4*>(base), w.lo = planes == 2 ? reinterpret_cast<uint4*>(base + plane) : nullptr, w.scales = reinterpret_cast<uint32_t*>(base + planes * plane);
    result.views.push_back(w);
    result.memory.push_back(std::move(b));
  }
  return result;
}

// Time of one product in a captured graph of `chain` dependent launches over rotating copies.
float time_graph(int chain, const std::function<Status(int, cudaStream_t)>& enqueue) {
  cudaStream_t stream;
  need(cudaStreamCreate(&stream), "stream");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  need(enqueue(0, stream));  // loads the module outside the capture
  need(cudaStreamSynchronize(stream), "warm-up");
  need(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < chain; ++i) need(enqueue(i, stream));
  need(cudaStreamEndCapture(stream, &graph), "capture");
  need(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  const float us = median_us(15, [&] { need(cudaGraphLaunch(exec, nullptr), "graph"); }) / chain;
  need(cudaGraphExecDestroy(exec), "destroy"), need(cudaGraphDestroy(graph), "destroy"), need(cudaStreamDestroy(stream), "destroy");
  return us;
}

}  // namespace

int main(int argc, char** argv) {
  DeviceInfo info;
  const Status status = query_device(0, &info);
  if (!status.is_ok()) {
    std::printf("skipped: %s\n", status.message().c_str());
    return 77;
  }
  FILE* csv = argc > 1 ? std::fopen(argv[1], "w") : nullptr;
  const char* commit = argc > 2 ? argv[2] : "unknown";
  DeviceBuffer a, b, x, out, partials, counters, x_scales;
  const size_t big = size_t{2} << 30;
  need(DeviceBuffer::create(big, "bandwidth", &a)), need(DeviceBuffer::create(big, "bandwidth", &b));
  fill_kernel<<<1024, 256>>>(a.as<uint32_t>(), big / 4, 1, false);
  const float read_us = median_us(9, [&] { read_kernel<<<info.num_multiprocessors * 8, 256>>>(a.as<uint4>(), big / 16, b.as<unsigned>()); });
  const float copy_us = median_us(9, [&] { need(cudaMemcpyAsync(b.as<void>(), a.as<void>(), big, cudaMemcpyDeviceToDevice), "copy"); });
  const double read = big / read_us * 1e-6, copy = 2 * big / copy_us * 1e-6;  // TB/s
  std::printf("%s, %d multiprocessors, driver CUDA %d.%d; read %.2f TB/s, copy %.2f TB/s\n", info.name.c_str(), info.num_multiprocessors, info.driver_version / 1000,
              info.driver_version % 1000 / 10, read, copy);
  a.reset(), b.reset();
  if (csv) std::fprintf(csv, "device,driver,commit,read_tb_s,copy_tb_s,model,matrix,n,k,mode,rows,us,bytes,tb_s,share_of_read,us_over_floor\n");

  need(DeviceBuffer::create(size_t{64} * 16384 * 4, "x", &x)), need(DeviceBuffer::create(size_t{64} * 131072 * 4, "out", &out));
  need(DeviceBuffer::create(size_t{64} << 20, "partials", &partials)), need(DeviceBuffer::create(kGemmCounters * 4, "counters", &counters));
  need(DeviceBuffer::create(size_t{64} * 16384, "scales", &x_scales));
  need(cudaMemset(counters.as<void>(), 0, kGemmCounters * 4), "memset");
  fill_kernel<<<64, 256>>>(x.as<uint32_t>(), x.bytes() / 4, 5, true);
  fill_kernel<<<64, 256>>>(x_scales.as<uint32_t>(), x_scales.bytes() / 4, 6, true);
  const GemmWorkspace workspace{partials.as<float>(), static_cast<int64_t>(partials.bytes() / 4), counters.as<unsigned>()};

  const std::vector<Matrix> matrices = {{"Llama-3-8B", "qkv", 6144, 4096}, {"Llama-3-8B", "o", 4096, 4096}, {"Llama-3-8B", "gate_up", 28672, 4096}, {"Llama-3-8B", "down", 4096, 14336}, {"Llama-3-8B", "head", 128256, 4096},
                                        {"Llama-2-7B", "gate_up", 22016, 4096}, {"Llama-2-7B", "down", 4096, 11008}, {"Llama-3.2-1B", "qkv", 3072, 2048}, {"Llama-3.2-1B", "gate_up", 16384, 2048}, {"Llama-3.2-3B", "qkv", 5120, 3072}};
  const std::vector<Mode> modes = {{"W4A16", WeightKind::kInt4, Plane::kFull, 16}, {"W8A16", WeightKind::kNested8, Plane::kFull, 16}, {"nested-hi-A16", WeightKind::kNested8, Plane::kHi, 16},
                                   {"bf16", WeightKind::kDenseBf16, Plane::kFull, 16}, {"W4A8", WeightKind::kInt4, Plane::kFull, 8}};
  const int row_counts[] = {1, 2, 4, 8, 16, 32, 64};
  for (const Mode& mode : modes) {
    std::printf("\n%-14s us (us over bytes/read)   rows: 1 2 4 8 16 32 64\n", mode.name);
    for (const Matrix& m : matrices) {
      const bool main_model = std::strcmp(m.model, "Llama-3-8B") == 0;
      if (!main_model && mode.bits == 8) continue;
      const Matrices copies = make(m, mode, info.l2_bytes);
      const double floor_us = copies.read_bytes / read * 1e-6;
      std::printf("%-12s %-8s floor %6.2f:", m.model, m.name, floor_us);
      for (int rows : row_counts) {
        const QuantizedRows q{x.as<int8_t>(), x_scales.as<float>(), x_scales.as<int32_t>(), mode.bits, 128, false};
        GemmParams p = {};
        p.plane = mode.plane, p.x_stride = m.k, p.out = out.as<float>(), p.out_stride = m.n, p.rows = rows;
        if (mode.bits == 16) p.x = x.as<__nv_bfloat16>();
        else p.quantized = &q;
        const int chain = static_cast<int>(std::max<size_t>(copies.views.size(), 40));
        const float us = time_graph(chain, [&](int i, cudaStream_t stream) {
          p.weight = &copies.views[i % copies.views.size()];
          return launch_gemm(p, workspace, stream);
        });
        std::printf(" %6.2f(%+.1f)", us, us - floor_us);
        if (csv)
          std::fprintf(csv, "%s,%d.%d,%s,%.3f,%.3f,%s,%s,%d,%d,%s,%d,%.3f,%zu,%.3f,%.3f,%.3f\n", info.name.c_str(), info.driver_version / 1000, info.driver_version % 1000 / 10, commit, read, copy, m.model, m.name, m.n, m.k,
                       mode.name, rows, us, copies.read_bytes, copies.read_bytes / us * 1e-6, floor_us / us, us - floor_us);
      }
      std::printf("\n");
      if (argc > 3 && mode.bits == 16 && main_model) {  // any third argument: how the cut into blocks matters, one row
        std::printf("   row-tiles a block:");
        for (int units : {1, 2, 3, 4, 6, 7, 8, 14, 16, 32}) {
          GemmParams p = {};
          p.plane = mode.plane, p.x_stride = m.k, p.out = out.as<float>(), p.out_stride = m.n, p.rows = 1, p.x = x.as<__nv_bfloat16>();
          LaunchOptions options;
          options.units_per_block = units;
          std::printf(" %d: %.2f", units, time_graph(static_cast<int>(std::max<size_t>(copies.views.size(), 40)), [&](int i, cudaStream_t stream) {
            p.weight = &copies.views[i % copies.views.size()];
            return launch_gemm(p, workspace, stream, options);
          }));
        }
        std::printf("\n");
      }
    }
  }
  if (csv) std::fclose(csv);
  return 0;
}
