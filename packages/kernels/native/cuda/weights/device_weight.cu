#include "weights/device_weight.h"

#include <algorithm>
#include <limits>
#include <string>

#include "common/launch.cuh"
#include "weights/random_fill.h"
#include "weights/repack.cuh"

namespace qspec::cuda {

namespace {

constexpr int kRepackBlocks = 528;
constexpr int64_t kStripBytes = int64_t{32} << 20;  // of source uploaded at a time

bool is_dense(const WeightSource& s) { return s.kind == WeightKind::kDenseF32 || s.kind == WeightKind::kDenseBf16; }

Status bad(StatusCode code, const WeightSource& s, const std::string& what) { return {code, "Weight `" + s.name + "`: " + what}; }

Status check_quantized(const WeightSource& s) {
  if (s.group_size != 32 && s.group_size != 64 && s.group_size != 128)
    return bad(StatusCode::kUnsupported, s, "expected `group_size` to be 32, 64 or 128 but received " + std::to_string(s.group_size) + ".");
  if (s.k % s.group_size != 0)
    return bad(StatusCode::kShapeMismatch, s, "expected `group_size` to divide " + std::to_string(s.k) + " but received " + std::to_string(s.group_size) + ".");
  if (s.hadamard_block > kRunK)
    return bad(StatusCode::kUnsupported, s, "expected `hadamard_block` to be at most 512 on CUDA but received " + std::to_string(s.hadamard_block) + "; use the CPU backend, or quantise with a smaller block.");
  if (s.hi == nullptr || s.scales == nullptr) return bad(StatusCode::kInvalidArgument, s, "expected `hi` and `scales` to be given.");
  if (s.kind == WeightKind::kNested8 && (s.lo == nullptr || s.radix < 8 || s.radix > 15))
    return bad(StatusCode::kInvalidArgument, s, "expected a nested weight to have `lo` and a `radix` in 8..15.");
  return {};
}

Status check_part(const WeightSource& first, const WeightSource& s) {
  if (s.n < 1 || s.k < 1 || s.n > (1 << 30) || s.k > (1 << 24))
    return bad(StatusCode::kShapeMismatch, s, "expected n in 1..2^30 and k in 1..2^24 but received " + std::to_string(s.n) + " x " + std::to_string(s.k) + ".");
  if (!is_dense(s)) QSPEC_RETURN_IF_ERROR(check_quantized(s));
  else if (s.dense == nullptr) return bad(StatusCode::kInvalidArgument, s, "expected dense data to be given.");
  const bool same = is_dense(s) == is_dense(first) && s.k == first.k &&
                    (is_dense(s) || (s.kind == first.kind && s.hadamard_block == first.hadamard_block && s.group_size == first.group_size &&
                                     (s.kind != WeightKind::kNested8 || s.radix == first.radix)));
  if (!same)
    return bad(StatusCode::kShapeMismatch, s, "expected the format of `" + first.name + "`, which it is stacked on, but they differ; store the two as separate weights.");
  return {};
}

int64_t element_bytes(DenseType type) { return type == DenseType::kF32 ? 4 : 2; }

Status sync() {
  QSPEC_CUDA_CALL(cudaStreamSynchronize(nullptr));
  return {};
}

template <typename Params>
Status launch_repack(void (*kernel)(Params), const Params& params) {
  return launch(kernel, {kRepackBlocks, kRepackThreads}, nullptr, "repack", params);
}

// Uploads rows [first, first + count) of one array of the source to `staging` and repacks them.
class Repacker {
 public:
  Repacker(const DeviceWeight& weight, uint8_t* hi, uint8_t* lo) : weight_(weight), hi_(hi), lo_(lo) {}

  Status run(const std::vector<WeightSource>& parts) {
    QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(static_cast<size_t>(kStripBytes), "repacking", &staging_));
    int row = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      QSPEC_RETURN_IF_ERROR(part(parts[i], row, i + 1 == parts.size()));
      row += static_cast<int>(parts[i].n);
    }
    return sync();
  }

 private:
  Status part(const WeightSource& s, int row, bool is_last) {
    const int64_t row_bytes = is_dense(s) ? s.k * element_bytes(s.dense_type) : s.k / 2;
    const int64_t strip = std::max<int64_t>(kStripBytes / std::max<int64_t>(row_bytes, 1), 1);
    if (row_bytes > kStripBytes) return bad(StatusCode::kUnsupported, s, "expected rows of at most 32 MiB.");
    for (int64_t first = 0; first < s.n; first += strip) {
      const int64_t count = std::min(strip, s.n - first);
      RepackParams p{};
      p.weight = weight_;
      p.row_begin = row + static_cast<int>(first), p.num_rows = static_cast<int>(count), p.is_last = is_last && first + count == s.n;
      if (is_dense(s)) {
        p.dense_type = static_cast<int>(s.dense_type), p.hi = hi_;
        QSPEC_RETURN_IF_ERROR(upload(static_cast<const uint8_t*>(s.dense) + first * row_bytes, count * row_bytes));
        p.dense = staging_.as<void>();
        QSPEC_RETURN_IF_ERROR(launch_repack(repack_dense_kernel, p));
        continue;
      }
      p.hi = hi_;
      QSPEC_RETURN_IF_ERROR(upload(s.hi + first * (s.k / 8), count * row_bytes));
      p.codes = staging_.as<uint32_t>();
      QSPEC_RETURN_IF_ERROR(launch_repack(repack_codes_kernel, p));
      if (s.kind == WeightKind::kNested8) {
        p.lo = lo_;
        QSPEC_RETURN_IF_ERROR(upload(s.lo + first * (s.k / 8), count * row_bytes));
        QSPEC_RETURN_IF_ERROR(launch_repack(repack_codes_kernel, p));
        p.lo = nullptr;
      }
      const int64_t groups = s.k / s.group_size;
      QSPEC_RETURN_IF_ERROR(upload(s.scales + first * groups, count * groups * 2));
      p.scales = staging_.as<uint16_t>();
      QSPEC_RETURN_IF_ERROR(launch_repack(repack_scales_kernel, p));
    }
    return {};
  }

  // The copy returns once the source is free again; the kernel before it on the default stream is done by then.
  Status upload(const void* from, int64_t bytes) { return staging_.upload(from, static_cast<size_t>(bytes)); }

  const DeviceWeight& weight_;
  uint8_t *hi_, *lo_;
  DeviceBuffer staging_;
};

}  // namespace

Status ResidentDeviceWeight::allocate(const WeightShape& shape, const char* name) {
  shape_ = shape;
  DeviceWeight& v = view_;
  v.kind = shape.kind;
  v.n = static_cast<int>(shape.n), v.k = static_cast<int>(shape.k);
  v.n_tiles = (v.n + kTileN - 1) / kTileN, v.k_tiles = (v.k + kTileK - 1) / kTileK;
  v.group_size = shape.group_size, v.radix = shape.radix, v.hadamard_block = shape.hadamard_block;
  const bool dense = shape.kind == WeightKind::kDenseBf16;
  const int64_t first = dense ? static_cast<int64_t>(v.n_tiles) * v.k_tiles * kDenseTileBytes
                              : v.n_tiles * hi_row_tile_bytes(v.k, v.k_tiles, v.group_size);
  const int64_t second = shape.kind == WeightKind::kNested8 ? static_cast<int64_t>(v.n_tiles) * v.k_tiles * kTileBytes : 0;
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(static_cast<size_t>(first + second + kReadSlack), name, &memory_));
  uint8_t* base = memory_.as<uint8_t>();
  (dense ? v.dense : v.hi) = base;
  if (second > 0) v.lo = base + first;
  return {};
}

Status ResidentDeviceWeight::create(const std::vector<WeightSource>& parts, std::shared_ptr<const ResidentDeviceWeight>* out) {
  if (parts.empty()) return {StatusCode::kInvalidArgument, "Expected at least one weight to stack but received none."};
  const WeightSource& first = parts[0];
  int64_t n = 0;
  for (const WeightSource& part : parts) {
    QSPEC_RETURN_IF_ERROR(check_part(first, part));
    n += part.n;
  }
  if (n > std::numeric_limits<int32_t>::max() / 2) return bad(StatusCode::kShapeMismatch, first, "expected at most 2^30 stacked rows.");
  WeightShape shape;
  shape.n = n, shape.k = first.k;
  shape.kind = is_dense(first) ? WeightKind::kDenseBf16 : first.kind;
  if (!is_dense(first)) {
    shape.group_size = first.group_size, shape.hadamard_block = first.hadamard_block;
    shape.radix = first.kind == WeightKind::kNested8 ? first.radix : 1;
  }
  auto weight = std::make_shared<ResidentDeviceWeight>();
  QSPEC_RETURN_IF_ERROR(weight->allocate(shape, ("`" + first.name + "`").c_str()));
  QSPEC_RETURN_IF_ERROR(weight->memory_.fill(0));  // words are filled by halves, from what is there
  const DeviceWeight& v = weight->view_;
  Repacker repacker(v, const_cast<uint8_t*>(v.dense ? v.dense : v.hi), const_cast<uint8_t*>(v.lo));
  QSPEC_RETURN_IF_ERROR(repacker.run(parts));
  *out = std::move(weight);
  return {};
}

Status ResidentDeviceWeight::create_random(const WeightShape& shape, uint64_t seed, std::shared_ptr<const ResidentDeviceWeight>* out) {
  auto weight = std::make_shared<ResidentDeviceWeight>();
  QSPEC_RETURN_IF_ERROR(weight->allocate(shape, "a random weight"));
  QSPEC_RETURN_IF_ERROR(fill_random_weight(weight->view_, weight->memory_.as<uint8_t>(), weight->memory_.bytes(), seed));
  *out = std::move(weight);
  return {};
}

}  // namespace qspec::cuda
