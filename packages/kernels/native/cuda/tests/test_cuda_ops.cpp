// Conformance of the CUDA ops: every format and mode on odd shapes against sums in double made from the storage layout alone,
// row invariance bit for bit, resident bytes, and bad input. Exits 77 without a GPU.
#include <cstdio>
#include <memory>
#include <vector>

#include "attention/cache_ops.h"
#include "common/device.h"
#include "common/device_weight.h"
#include "gemm/gemm.h"
#include "paged_cache.h"
#include "random_weight.h"
#include "reference/common.h"
#include "row_buffers.h"
#include "rows/row_ops.h"
#include "testkit.h"

namespace qspec::cuda {
namespace {

using namespace qspec::test;

#define EXPECT_OK(expr)                                                                                      \
  do {                                                                                                       \
    const ::qspec::Status status_ = (expr);                                                                  \
    if (!status_.is_ok()) ::qspec::test::fail(__FILE__, __LINE__, "%s: %s", #expr, status_.message().c_str()); \
  } while (0)

template <typename T>
DeviceBuffer to_device(const std::vector<T>& host) {
  DeviceBuffer buffer;
  EXPECT_OK(DeviceBuffer::create(host.size() * sizeof(T), "test", &buffer));
  EXPECT_OK(buffer.upload(host.data(), host.size() * sizeof(T)));
  return buffer;
}
template <typename T>
std::vector<T> to_host(const DeviceBuffer& buffer, size_t count) {
  std::vector<T> host(count);
  EXPECT_OK(device_error(cudaDeviceSynchronize(), "synchronize").code() == StatusCode::kDevice && cudaPeekAtLastError() != cudaSuccess
                ? device_error(cudaPeekAtLastError(), "kernel")
                : Status::ok());
  EXPECT_OK(buffer.download(host.data(), count * sizeof(T)));
  return host;
}

struct Workspace {
  DeviceBuffer partials, counters;
  GemmWorkspace view;
  explicit Workspace(int64_t floats) {
    EXPECT_OK(DeviceBuffer::create(floats * 4, "workspace", &partials));
    counters = to_device(std::vector<unsigned>(kGemmCounters, 0u));
    view = {partials.as<float>(), floats, counters.as<unsigned>()};
  }
};

struct Shape {
  int64_t n, k;
};
constexpr float kPoison = -777.0f;

// Rows of bfloat16 activations with a stride beyond k; what lies past k is NaN.
struct Inputs {
  int64_t rows, k, stride;
  std::vector<uint16_t> bits;
  Inputs(int64_t num_rows, int64_t width, uint64_t seed) : rows(num_rows), k(width), stride((width + 7) / 8 * 8 + 8), bits(rows * stride, 0x7fc0) {
    Rng rng(seed);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < k; ++i) bits[r * stride + i] = float_to_bf16(rng.normal());
  }
};

std::vector<float> run_float(const DeviceWeight& w, Plane plane, const Inputs& x, int64_t row0, int64_t rows, const Workspace& workspace, int units = 0) {
  const DeviceBuffer input = to_device(x.bits);
  const int64_t stride = w.n + 3;
  DeviceBuffer output = to_device(std::vector<float>(rows * stride, kPoison));
  GemmParams p = {};
  p.weight = &w, p.plane = plane, p.x = input.as<__nv_bfloat16>() + row0 * x.stride, p.x_stride = x.stride;
  p.out = output.as<float>(), p.out_stride = stride, p.out_column = 2, p.rows = rows;
  LaunchOptions options;
  options.units_per_block = units;
  EXPECT_OK(launch_gemm(p, workspace.view, nullptr, options));
  return to_host<float>(output, rows * stride);
}

std::vector<WeightSpec> all_specs() {
  return {dense_spec(DenseType::kBf16), int4_spec(32), int4_spec(64), int4_spec(128), nested_spec(32, 8), nested_spec(64, 15), nested_spec(128, 12)};
}
std::vector<Shape> shapes_of(const WeightSpec& spec) {
  if (spec.group_size == 0) return {{1, 1}, {17, 63}, {33, 100}, {48, 515}, {40, 4160}};
  if (spec.group_size == 32) return {{5, 32}, {40, 96}, {33, 544}, {17, 4128}};
  if (spec.group_size == 64) return {{16, 64}, {31, 192}, {50, 1088}, {40, 4160}};
  return {{16, 128}, {65, 640}, {40, 4096}, {34, 6528}};
}

std::vector<float> expected_float(const RandomWeight& weight, Plane plane, const Inputs& x) {
  const int64_t stride = weight.n() + 3;
  std::vector<float> out(x.rows * stride, kPoison);
  std::vector<double> column(weight.k());
  for (int64_t n = 0; n < weight.n(); ++n) {
    for (int64_t k = 0; k < weight.k(); ++k) column[k] = weight.value(plane, n, k);
    for (int64_t r = 0; r < x.rows; ++r) {
      double sum = 0;
      for (int64_t k = 0; k < weight.k(); ++k) sum += column[k] * bf16_to_float(x.bits[r * x.stride + k]);
      out[r * stride + 2 + n] = static_cast<float>(sum);
    }
  }
  return out;
}

void check_float(const WeightSpec& spec, Plane plane) {
  for (const Shape& shape : shapes_of(spec)) {
    const RandomWeight weight(spec, shape.n, shape.k, 7 + shape.n);
    std::unique_ptr<ResidentDeviceWeight> resident;
    EXPECT_OK(ResidentDeviceWeight::create({weight.source()}, &resident));
    if (!resident) return;
    const Inputs x(70, shape.k, 3);
    const Workspace workspace(gemm_workspace_floats(resident->view(), 70) + 1);
    const std::string context = text("%s %s %lld x %lld", spec.name().c_str(), plane == Plane::kHi ? "hi" : "full", (long long)shape.n, (long long)shape.k);
    const std::vector<float> all = run_float(resident->view(), plane, x, 0, 70, workspace);
    const std::vector<float> truth = expected_float(weight, plane, x);
    const Tolerance tolerance{2e-5 * std::sqrt(static_cast<double>(shape.k)), 2e-5, 1e-9};
    QSPEC_EXPECT_CLOSE(all.data(), truth.data(), truth.size(), tolerance, context);
    // Any number of rows, from any first row, gives the bits of the 70-row product; so does any cut into blocks.
    const int64_t stride = shape.n + 3;
    for (int64_t rows : {1, 2, 5, 8, 9, 16, 17, 31, 32, 33, 63, 64}) {
      const int64_t row0 = (rows * 5) % (71 - rows);
      const std::vector<float> some = run_float(resident->view(), plane, x, row0, rows, workspace, rows % 2 ? 0 : 3);
      QSPEC_EXPECT_BITS(some.data(), all.data() + row0 * stride, some.size(), context + text(", %lld rows", (long long)rows));
    }
  }
}

QSPEC_TEST(gemm_float_matches_double_and_is_row_invariant) {
  for (const WeightSpec& spec : all_specs()) {
    check_float(spec, Plane::kFull);
    if (spec.kind == WeightKind::kNested8) check_float(spec, Plane::kHi);
  }
}

QSPEC_TEST(gemm_is_row_invariant_for_every_count_to_64) {
  for (const WeightSpec& spec : {dense_spec(DenseType::kBf16), int4_spec(128), nested_spec(64, 8)}) {
    const RandomWeight weight(spec, 80, 4224, 5);
    std::unique_ptr<ResidentDeviceWeight> resident;
    EXPECT_OK(ResidentDeviceWeight::create({weight.source()}, &resident));
    const Inputs x(64, 4224, 8);
    const Workspace workspace(gemm_workspace_floats(resident->view(), 64) + 1);
    const std::vector<float> all = run_float(resident->view(), Plane::kFull, x, 0, 64, workspace);
    for (int64_t rows = 1; rows < 64; ++rows) {
      const std::vector<float> some = run_float(resident->view(), Plane::kFull, x, 64 - rows, rows, workspace);
      QSPEC_EXPECT_BITS(some.data(), all.data() + (64 - rows) * 83, some.size(), text("%s, %lld rows", spec.name().c_str(), (long long)rows));
    }
  }
}

QSPEC_TEST(gemm_of_integer_activations_matches_double) {
  for (const WeightSpec& spec : all_specs()) {
    if (spec.group_size == 0) continue;
    for (const Shape& shape : shapes_of(spec)) {
      for (int bits : {4, 8}) {
        for (int64_t rows : {1, 7, 16, 37}) {
          const RandomWeight weight(spec, shape.n, shape.k, 11);
          std::unique_ptr<ResidentDeviceWeight> resident;
          EXPECT_OK(ResidentDeviceWeight::create({weight.source()}, &resident));
          Rng rng(13);
          const int64_t groups = shape.k / spec.group_size;
          const int qmax = bits == 4 ? 7 : 127;
          std::vector<int8_t> codes(rows * shape.k), placed(codes.size());
          std::vector<int32_t> sums(rows * groups, 0);
          std::vector<float> scales(rows * groups);
          for (float& scale : scales) scale = rng.uniform(0.001f, 0.1f);
          for (int64_t i = 0; i < rows * shape.k; ++i) {
            codes[i] = static_cast<int8_t>(rng.integer(-qmax, qmax));
            placed[i / shape.k * shape.k + code_place(i % shape.k)] = codes[i];
            sums[i / spec.group_size] += codes[i];
          }
          const DeviceBuffer d_codes = to_device(placed), d_scales = to_device(scales), d_sums = to_device(sums);
          const QuantizedRows q{d_codes.as<int8_t>(), d_scales.as<float>(), d_sums.as<int32_t>(), bits, spec.group_size, false};
          const Workspace workspace(gemm_workspace_floats(resident->view(), rows) + 1);
          for (Plane plane : {Plane::kFull, Plane::kHi}) {
            DeviceBuffer output = to_device(std::vector<float>(rows * shape.n, kPoison));
            GemmParams p = {};
            p.weight = &resident->view(), p.plane = plane, p.quantized = &q;
            p.out = output.as<float>(), p.out_stride = shape.n, p.rows = rows;
            EXPECT_OK(launch_gemm(p, workspace.view, nullptr));
            const std::vector<float> actual = to_host<float>(output, rows * shape.n);
            std::vector<double> truth(actual.size(), 0.0);
            for (int64_t n = 0; n < shape.n; ++n)
              for (int64_t k = 0; k < shape.k; ++k) {
                const double value = weight.value(plane, n, k);
                for (int64_t r = 0; r < rows; ++r) truth[r * shape.n + n] += value * scales[(r * shape.k + k) / spec.group_size] * codes[r * shape.k + k];
              }
            const double size = std::sqrt(static_cast<double>(shape.k)) * qmax * 0.1;
            QSPEC_EXPECT_CLOSE(actual.data(), truth.data(), truth.size(), (Tolerance{1e-6 * size, 2e-5, 1e-9}),
                               text("%s int%d %lld x %lld rows %lld", spec.name().c_str(), bits, (long long)shape.n, (long long)shape.k, (long long)rows));
          }
        }
      }
    }
  }
}

QSPEC_TEST(resident_bytes_are_one_copy_and_stacking_works) {
  const RandomWeight a(nested_spec(128, 8), 24, 256, 1), b(nested_spec(128, 8), 40, 256, 2);
  std::unique_ptr<ResidentDeviceWeight> resident;
  EXPECT_OK(ResidentDeviceWeight::create({a.source("a"), b.source("b")}, &resident));
  QSPEC_EXPECT(resident->bytes() == size_t{2 * 64 * 256 / 2 + 64 * 2 * 2});
  const Inputs x(3, 256, 4);
  const Workspace workspace(1);
  const std::vector<float> actual = run_float(resident->view(), Plane::kFull, x, 0, 3, workspace);
  const std::vector<float> ea = expected_float(a, Plane::kFull, x), eb = expected_float(b, Plane::kFull, x);
  for (int r = 0; r < 3; ++r) {
    QSPEC_EXPECT_CLOSE(actual.data() + r * 67 + 2, ea.data() + r * 27 + 2, 24, (Tolerance{1e-3, 1e-4, 1e-9}), "a");
    QSPEC_EXPECT_CLOSE(actual.data() + r * 67 + 26, eb.data() + r * 43 + 2, 40, (Tolerance{1e-3, 1e-4, 1e-9}), "b");
  }
}

// Device sink and its read-back into the CPU tests' buffer.
struct DeviceSinkBuffer {
  SinkBuffer host;
  DeviceBuffer values, codes, scales, sums;
  DeviceSinkBuffer(const SinkSpec& spec, int64_t rows, int64_t width) : host(spec, rows, width) {
    values = to_device(std::vector<uint16_t>(rows * width, 0x7fc0));
    codes = to_device(std::vector<int8_t>(rows * width, 99));
    scales = to_device(std::vector<float>(rows * width, kPoison));
    sums = to_device(std::vector<int32_t>(rows * width, -777));
  }
  DeviceSink sink() const {
    DeviceSink s = {};
    s.hadamard_block = host.spec.hadamard_block;
    if (host.spec.bits == 0) s.values = values.as<__nv_bfloat16>(), s.values_stride = host.width;
    else s.quantized = {codes.as<int8_t>(), scales.as<float>(), sums.as<int32_t>(), host.spec.bits, host.spec.group_size, host.spec.per_token};
    return s;
  }
  void read() {
    const size_t count = host.rows * host.width;
    if (host.spec.bits == 0) {
      const std::vector<uint16_t> bits = to_host<uint16_t>(values, count);
      for (size_t i = 0; i < count; ++i) host.values[i] = bf16_to_float(bits[i]);
      return;
    }
    const std::vector<int8_t> placed = to_host<int8_t>(codes, count);
    for (size_t i = 0; i < count; ++i) host.codes[i] = placed[i / host.width * host.width + code_place(i % host.width)];
    host.scales = to_host<float>(scales, count / host.spec.group_size);
    host.sums = to_host<int32_t>(sums, count / host.spec.group_size);
  }
};

QSPEC_TEST(row_ops_match_the_reference) {
  for (const SinkSpec& spec : sink_specs()) {
    for (int64_t width : {1, 7, 32, 100, 128, 1024, 4096, 14336}) {
      if (!spec.fits(width)) continue;
      const int64_t rows = 3;
      const Tolerance tolerance = spec.bits == 0 ? Tolerance{1e-4, 4.1e-3, 1e-4} : Tolerance{1e-5, 1e-4, 1e-6};  // bfloat16 store: 2^-8
      Rng rng(width);
      const std::vector<float> input = rng.normals(rows * 2 * width), delta = rng.normals(rows * width), weight = rng.normals(width);
      const std::string context = text("width %lld, %s", (long long)width, spec.name().c_str());
      const DeviceBuffer d_input = to_device(input), d_delta = to_device(delta), d_weight = to_device(weight);
      {
        DeviceSinkBuffer actual(spec, rows, width);
        SinkBuffer expected(spec, rows, width);
        EXPECT_OK(launch_silu_mul(d_input.as<float>(), rows, width, actual.sink(), nullptr));
        reference::silu_mul({input.data(), expected.sink(), rows, width}, {0, 1});
        actual.read();
        QSPEC_EXPECT_SAME(sink_difference(actual.host, expected, tolerance), "silu_mul " + context);
      }
      {
        DeviceSinkBuffer actual(spec, rows, width);
        SinkBuffer expected(spec, rows, width);
        EXPECT_OK(launch_transform(d_input.as<float>(), rows, width, actual.sink(), nullptr));
        reference::transform({input.data(), expected.sink(), rows, width}, {0, 1});
        actual.read();
        QSPEC_EXPECT_SAME(sink_difference(actual.host, expected, tolerance), "transform " + context);
      }
      {
        DeviceSinkBuffer actual(spec, rows, width);
        SinkBuffer expected(spec, rows, width);
        std::vector<float> residual(input.begin(), input.begin() + rows * width);
        EXPECT_OK(launch_rms_norm(d_input.as<float>(), d_delta.as<float>(), d_weight.as<float>(), 1e-5f, rows, width, actual.sink(), nullptr));
        reference::rms_norm({residual.data(), delta.data(), weight.data(), expected.sink(), rows, width, 1e-5f}, {0, 1});
        actual.read();
        QSPEC_EXPECT_SAME(sink_difference(actual.host, expected, tolerance), "rms_norm " + context);
        const std::vector<float> after = to_host<float>(d_input, rows * width);
        QSPEC_EXPECT_BITS(after.data(), residual.data(), residual.size(), "residual " + context);
      }
    }
  }
}

QSPEC_TEST(embedding_reads_the_resident_layout) {
  for (const WeightSpec& spec : all_specs()) {
    const RandomWeight weight(spec, 37, 192 * 2, 3);
    std::unique_ptr<ResidentDeviceWeight> resident;
    EXPECT_OK(ResidentDeviceWeight::create({weight.source()}, &resident));
    const std::vector<int32_t> tokens = {0, 36, 7, 8, 15, 16};
    const DeviceBuffer d_tokens = to_device(tokens);
    DeviceBuffer output = to_device(std::vector<float>(6 * 384, kPoison));
    EXPECT_OK(launch_embedding(resident->view(), d_tokens.as<int32_t>(), output.as<float>(), 6, nullptr));
    std::vector<double> truth;
    for (int32_t token : tokens)
      for (int k = 0; k < 384; ++k) truth.push_back(weight.value(Plane::kFull, token, k));
    QSPEC_EXPECT_CLOSE(to_host<float>(output, 6 * 384).data(), truth.data(), truth.size(), (Tolerance{1e-9, 1e-6, 1e-9}), spec.name());
  }
}

// A batch and its cache layer on the device.
struct DeviceBatch {
  std::vector<DeviceBuffer> memory;
  BatchRows rows;
  KvLayer layer;
  template <typename T>
  const T* put(const std::vector<T>& host) {
    memory.push_back(to_device(host));
    return memory.back().as<T>();
  }
  DeviceBatch(const BatchBuilder& batch, const PagedCache& cache) : rows(batch.view()), layer(cache.layer) {
    rows.positions = put(batch.positions), rows.sequences = put(batch.sequences), rows.slots = put(batch.slots);
    rows.page_offsets = put(batch.page_offsets), rows.page_ids = put(batch.page_ids);
    if (rows.ancestor_starts) rows.ancestor_starts = put(batch.ancestor_starts), rows.ancestor_slots = put(batch.ancestor_slots);
    void* data[2];
    for (int i = 0; i < 2; ++i) {
      data[i] = layer.format == KvFormat::kF32 ? (void*)put(cache.f32[i]) : layer.format == KvFormat::kBf16 ? (void*)put(cache.bf16[i]) : (void*)put(cache.int8[i]);
    }
    layer.k = data[0], layer.v = data[1];
    layer.k_scales = const_cast<float*>(put(cache.scales[0])), layer.v_scales = const_cast<float*>(put(cache.scales[1]));
  }
};

QSPEC_TEST(attention_matches_the_reference_on_scattered_pages) {
  for (KvFormat format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}) {
    for (int head_dim : {32, 64, 80, 128, 256}) {
      for (int window : {0, 50}) {
        Rng rng(head_dim);
        PagedCache cache(format, 2, head_dim, 16, 64, rng);
        BatchBuilder batch;
        for (int64_t length : {1, 127, 128, 129, 300}) {
          const int32_t sequence = batch.add_sequence(cache, length, [&](int64_t position) { return length * 1000 + position; });
          batch.add_row(cache, sequence, length - 1);
          if (length > 2) batch.add_row(cache, sequence, length - 2);
        }
        // A tree: positions from ancestor_starts on come from slots of their own (here: the page's, in another order of rows).
        batch.max_ancestors = 3;
        for (size_t r = 0; r < batch.positions.size(); ++r) {
          const int start = std::max(0, batch.positions[r] - 2);
          batch.ancestor_starts.push_back(start);
          for (int i = 0; i < 3; ++i) batch.ancestor_slots.push_back(batch.slot(cache, batch.sequences[r], std::min(batch.positions[r], (start + i) ^ (r % 2 && start + i + 1 <= batch.positions[r] && (start + i) % 2 == 0 ? 1 : 0))));
        }
        const int64_t rows = batch.view().rows, width = 6 * head_dim, stride = width + 4 * head_dim;
        const std::vector<float> qkv = rng.normals(rows * stride);
        AttentionParams p = {};
        p.qkv = qkv.data(), p.qkv_stride = stride, p.batch = batch.view(), p.cache = cache.layer, p.num_heads = 6;
        p.scale = 1 / std::sqrt(static_cast<float>(head_dim)), p.sliding_window = window;
        std::vector<float> truth(rows * width);
        p.sink.values = truth.data();
        reference::attention(p, {0, 1});
        const DeviceBatch device(batch, cache);
        const DeviceBuffer d_qkv = to_device(qkv);
        DeviceBuffer output = to_device(std::vector<float>(rows * width, kPoison));
        p.qkv = d_qkv.as<float>(), p.batch = device.rows, p.cache = device.layer;
        EXPECT_OK(launch_attention(p, output.as<float>(), nullptr));
        const std::vector<float> all = to_host<float>(output, rows * width);
        QSPEC_EXPECT_CLOSE(all.data(), truth.data(), truth.size(), (Tolerance{2e-5, 2e-4, 1e-8}), text("%s head_dim %d window %d", format_name(format), head_dim, window));
        p.batch.rows = 3;  // fewer neighbours: the same bits
        EXPECT_OK(launch_attention(p, output.as<float>(), nullptr));
        QSPEC_EXPECT_BITS(to_host<float>(output, 3 * width).data(), all.data(), 3 * width, "rows alone");
      }
    }
  }
}

QSPEC_TEST(rope_kv_write_matches_the_reference) {
  for (KvFormat format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}) {
    for (bool has_norm : {false, true}) {
      const int head_dim = 64, num_heads = 4, width = (num_heads + 4) * head_dim;
      Rng rng(9);
      PagedCache cache(format, 2, head_dim, 16, 300, rng);
      BatchBuilder batch;
      const int32_t sequence = batch.add_sequence(cache, 4000, [](int64_t position) { return position; });
      for (int64_t position : {0, 1, 17, 3999}) batch.add_row(cache, sequence, position);
      const std::vector<float> norm = rng.normals(head_dim);
      std::vector<float> frequencies, qkv = rng.normals(4 * width);
      for (int i = 0; i < head_dim / 2; ++i) frequencies.push_back(std::pow(10000.0f, -2.0f * i / head_dim));
      DeviceBatch device(batch, cache);
      const DeviceBuffer d_qkv = to_device(qkv), d_norm = to_device(norm), d_frequencies = to_device(frequencies);
      RopeKvWriteParams p = {};
      p.num_heads = num_heads, p.attention_factor = 1.1f, p.eps = 1e-6f;
      RopeKvWriteParams d = p;
      p.qkv = qkv.data(), p.batch = batch.view(), p.cache = cache.layer, p.inverse_frequencies = frequencies.data();
      d.qkv = d_qkv.as<float>(), d.batch = device.rows, d.cache = device.layer, d.inverse_frequencies = d_frequencies.as<float>();
      if (has_norm) p.q_norm = p.k_norm = norm.data(), d.q_norm = d.k_norm = d_norm.as<float>();
      reference::rope_kv_write(p, {0, 1});
      EXPECT_OK(launch_rope_kv_write(d, nullptr));
      QSPEC_EXPECT_CLOSE(to_host<float>(d_qkv, qkv.size()).data(), qkv.data(), qkv.size(), (Tolerance{1e-5, 1e-5, 1e-8}), "qkv");
      // The cache is read through attention-independent means: what each row's slot stands for.
      for (int i = 0; i < 2; ++i) {
        const size_t elements = cache.layer.num_slots * 2 * head_dim;
        std::vector<float> scales(cache.layer.num_slots * 2), f32(elements);
        std::vector<uint16_t> bf16(elements);
        std::vector<int8_t> int8(elements);
        KvLayer read = device.layer;
        void* from = i ? read.v : read.k;
        const size_t size = format == KvFormat::kF32 ? 4 : format == KvFormat::kBf16 ? 2 : 1;
        void* to = format == KvFormat::kF32 ? (void*)f32.data() : format == KvFormat::kBf16 ? (void*)bf16.data() : (void*)int8.data();
        QSPEC_EXPECT(cudaMemcpy(to, from, elements * size, cudaMemcpyDeviceToHost) == cudaSuccess);
        if (size == 1) QSPEC_EXPECT(cudaMemcpy(scales.data(), i ? read.v_scales : read.k_scales, scales.size() * 4, cudaMemcpyDeviceToHost) == cudaSuccess);
        for (int32_t slot : batch.slots)
          for (int head = 0; head < 2; ++head)
            for (int e = 0; e < head_dim; ++e) {
              const double expected = reference::kv_at(cache.layer, i ? cache.layer.v : cache.layer.k, i ? cache.layer.v_scales : cache.layer.k_scales, slot, head, e);
              const double actual = reference::kv_at(cache.layer, to, scales.data(), slot, head, e);
              QSPEC_EXPECT(std::fabs(actual - expected) <= (size == 1 ? 0.06 : size == 2 ? 0.01 * std::fabs(expected) + 1e-5 : 1e-5 + 1e-5 * std::fabs(expected)));
            }
      }
    }
  }
}

QSPEC_TEST(bad_input_is_a_typed_error) {
  DeviceBuffer huge;
  const Status status = DeviceBuffer::create(size_t{1} << 46, "cache", &huge);
  QSPEC_EXPECT(status.code() == StatusCode::kOutOfMemory && status.message().find("are free") != std::string::npos);
  DeviceInfo info;
  QSPEC_EXPECT(query_device(99, &info).code() == StatusCode::kInvalidArgument);
  std::unique_ptr<ResidentDeviceWeight> resident;
  QSPEC_EXPECT(ResidentDeviceWeight::create({RandomWeight(dense_spec(DenseType::kF32), 4, 8, 1).source()}, &resident).code() == StatusCode::kUnsupported);
  QSPEC_EXPECT(ResidentDeviceWeight::create({}, &resident).code() == StatusCode::kInvalidArgument);
  const RandomWeight weight(int4_spec(32), 16, 64, 1);
  EXPECT_OK(ResidentDeviceWeight::create({weight.source()}, &resident));
  GemmParams p = {};
  p.weight = &resident->view(), p.rows = 1, p.out_stride = 15;
  QSPEC_EXPECT(launch_gemm(p, {}, nullptr).code() == StatusCode::kInvalidArgument);
  // The device still works.
  const Inputs x(1, 64, 2);
  const Workspace workspace(1);
  const std::vector<float> actual = run_float(resident->view(), Plane::kFull, x, 0, 1, workspace), truth = expected_float(weight, Plane::kFull, x);
  QSPEC_EXPECT_CLOSE(actual.data(), truth.data(), truth.size(), (Tolerance{1e-3, 1e-4, 1e-9}), "after errors");
}

}  // namespace
}  // namespace qspec::cuda

int main(int argc, char** argv) {
  qspec::cuda::DeviceInfo info;
  const qspec::Status status = qspec::cuda::query_device(0, &info);
  if (!status.is_ok()) {
    std::printf("skipped: %s\n", status.message().c_str());
    return 77;
  }
  return qspec::test::run_all(argc, argv);
}
