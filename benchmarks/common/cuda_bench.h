// What the CUDA benchmarks share: shapes of real models, random weights of a format, the bytes that a pass must read, the device's own ceilings, CSV rows.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "llama_program.h"
#include "session/cuda_backend.h"
#include "session/cuda_session.h"
#include "weights/device_weight.h"

namespace qspec::bench {

using namespace qspec::cuda;
using qspec::test::LlamaMode;
using qspec::test::LlamaShape;

constexpr int kSkipped = 77;     // exit code where there is no device
constexpr int kGroupSize = 128;  // of every quantised weight
constexpr int kPageSize = 16;

[[noreturn]] inline void die(const Status& status, const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, status.message().c_str());
  std::exit(1);
}
inline void must(const Status& status, const char* what) {
  if (!status.is_ok()) die(status, what);
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// ---- Shapes ------------------------------------------------------------------------------------------------------------------------------

struct NamedShape {
  const char* name;
  LlamaShape shape;
};

inline LlamaShape shape_of(int vocab, int hidden, int intermediate, int layers, int heads, int kv_heads, int head_dim) {
  LlamaShape s;
  s.vocab = vocab, s.hidden = hidden, s.intermediate = intermediate, s.layers = layers, s.heads = heads, s.kv_heads = kv_heads, s.head_dim = head_dim;
  return s;
}

inline const std::vector<NamedShape>& named_shapes() {
  static const std::vector<NamedShape> shapes = {{"llama-3-8b", shape_of(128256, 4096, 14336, 32, 32, 8, 128)},
                                                 {"llama-2-7b", shape_of(32000, 4096, 11008, 32, 32, 32, 128)},
                                                 {"llama-3.2-1b", shape_of(128256, 2048, 8192, 16, 32, 8, 64)},
                                                 {"llama-3.2-3b", shape_of(128256, 3072, 8192, 28, 24, 8, 128)},
                                                 {"latency", shape_of(256, 256, 512, 32, 4, 1, 64)}};  // launches and barriers, hardly any bytes
  return shapes;
}
inline bool is_wanted(const std::string& wanted, const std::string& name) { return wanted == "all" ? name != "latency" : wanted == name; }

// ---- Weights -----------------------------------------------------------------------------------------------------------------------------

enum class Weights { kBf16, kNested, kInt4 };

inline WeightShape weight_shape(Weights format, int64_t n, int64_t k) {
  WeightShape shape;
  shape.n = n, shape.k = k;
  shape.kind = format == Weights::kBf16 ? WeightKind::kDenseBf16 : format == Weights::kInt4 ? WeightKind::kInt4 : WeightKind::kNested8;
  if (format != Weights::kBf16) shape.group_size = kGroupSize;
  if (format == Weights::kNested) shape.radix = 12;
  return shape;
}

// Bytes that one product reads of its weight: codes of the planes it uses and their scales.
inline double weight_bytes(const WeightShape& s, Plane plane) {
  const double elements = static_cast<double>(s.n) * static_cast<double>(s.k);
  if (s.kind == WeightKind::kDenseBf16) return 2 * elements;
  return elements * (0.5 + 2.0 / s.group_size + (s.kind == WeightKind::kNested8 && plane == Plane::kFull ? 0.5 : 0));
}

// Random weights of one format by name, one allocation a matrix. Tables that rows are looked up in stay bf16; the head is quantised like the rest.
class WeightSet {
 public:
  explicit WeightSet(Weights format) : format_(format) {}
  WeightRef get(const std::string& name, int64_t n, int64_t k) { return make(name, weight_shape(name == "embedding" ? Weights::kBf16 : format_, n, k)); }
  WeightRef table(const std::string& name, int64_t n, int64_t k) { return make(name, weight_shape(Weights::kBf16, n, k)); }

 private:
  WeightRef make(const std::string& name, const WeightShape& shape) {
    WeightRef& slot = weights_[name];
    if (slot) return slot;
    std::shared_ptr<const ResidentDeviceWeight> weight;
    must(ResidentDeviceWeight::create_random(shape, std::hash<std::string>()(name), &weight), name.c_str());
    return slot = weight;
  }

  const Weights format_;
  std::map<std::string, WeightRef> weights_;
};

// Bytes that one KV head takes of one position, for K or for V.
inline double kv_head_bytes(KvFormat format, int head_dim, bool high_plane_only = false) {
  if (format == KvFormat::kBf16) return 2.0 * head_dim;
  return head_dim * (high_plane_only ? 0.5 : 1.0) + 4;
}

// ---- Rounds ------------------------------------------------------------------------------------------------------------------------------

inline SamplerParams greedy() {
  SamplerParams p{};
  p.top_p = 1, p.repetition_penalty = 1, p.num_logprobs = -1;
  return p;
}

// `batch` sequences, each with `inputs` tokens that end `gamma` positions before the end of `context`. Their pages are interleaved, as pages of
// real batches are. Without `emit` nothing is sampled and no logits are made: the pass ends with the last layer.
inline RoundBatch round_batch(int vocab, int batch, int context, int inputs, int gamma, bool emit) {
  RoundBatch round;
  round.pages.page_offsets = round.token_offsets = {0};
  const int pages = (context + kPageSize - 1) / kPageSize;
  for (int s = 0; s < batch; ++s) {
    for (int p = 0; p < pages; ++p) round.pages.page_ids.push_back(p * batch + s);
    round.pages.page_offsets.push_back(static_cast<int32_t>(round.pages.page_ids.size()));
    for (int i = 0; i < inputs; ++i) round.tokens.push_back((s * 7919 + i * 31 + 13) % vocab);
    round.token_offsets.push_back(static_cast<int32_t>(round.tokens.size()));
    round.start_positions.push_back(context - inputs - gamma);
    round.emit.push_back(emit), round.gammas.push_back(gamma);
    round.samplers.push_back(greedy());
  }
  return round;
}

inline int num_pages(int batch, int context) { return (context + kPageSize - 1) / kPageSize * batch; }

// ---- Device and rows ---------------------------------------------------------------------------------------------------------------------

// Bytes a second of copying up to 1 GiB within the device, read and written counted both; median of several copies.
inline Status measure_device_copy(double* bytes_per_second) {
  size_t free_bytes = 0, total_bytes = 0;
  QSPEC_CUDA_CALL(cudaMemGetInfo(&free_bytes, &total_bytes));
  const size_t bytes = std::min<size_t>(size_t{1} << 30, free_bytes / 4);
  DeviceBuffer from, to;
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(bytes, "measuring bandwidth", &from));
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(bytes, "measuring bandwidth", &to));
  QSPEC_RETURN_IF_ERROR(from.fill(1));
  Event begin, end;
  QSPEC_RETURN_IF_ERROR(begin.create());
  QSPEC_RETURN_IF_ERROR(end.create());
  std::vector<double> times;
  for (int i = 0; i < 11; ++i) {
    double ms = 0;
    QSPEC_RETURN_IF_ERROR(begin.record(nullptr));
    QSPEC_CUDA_CALL(cudaMemcpyAsync(to.as<void>(), from.as<void>(), bytes, cudaMemcpyDeviceToDevice, nullptr));
    QSPEC_RETURN_IF_ERROR(end.record(nullptr));
    QSPEC_CUDA_CALL(cudaStreamSynchronize(nullptr));
    QSPEC_RETURN_IF_ERROR(end.milliseconds_since(begin, &ms));
    if (i >= 2) times.push_back(std::max(ms, 1e-6));
  }
  *bytes_per_second = 2.0 * static_cast<double>(bytes) / (median(times) * 1e-3);
  return {};
}

struct BenchDevice {
  DeviceInfo info;
  double read = 0, copy = 0;  // bytes a second

  // False, after one sentence, where there is no device.
  bool open() {
    const Status status = query_device(0, &info);
    if (!status.is_ok()) {
      std::printf("skipped: %s\n", status.message().c_str());
      return false;
    }
    std::shared_ptr<Backend> backend;
    must(create_cuda_backend(0, &backend), "backend");
    must(backend->measure_read_bandwidth(&read), "read bandwidth");
    must(measure_device_copy(&copy), "copy bandwidth");
    std::printf("%s, driver %d.%d, read %.3f TB/s, copy %.3f TB/s\n", info.name.c_str(), info.driver_version / 1000, info.driver_version % 1000 / 10, read / 1e12, copy / 1e12);
    return true;
  }
};

// A file that rows are appended to; a new one begins with the names of the columns. Null where it can't be opened.
inline FILE* open_csv(const char* path, const char* columns) {
  FILE* file = std::fopen(path, "a");
  if (file == nullptr || std::fseek(file, 0, SEEK_END) != 0) {
    std::fprintf(stderr, "Expected to append to %s but it can't be opened.\n", path);
    return nullptr;
  }
  if (std::ftell(file) == 0) std::fprintf(file, "%s\n", columns);
  return file;
}

}  // namespace qspec::bench
