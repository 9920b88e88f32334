#include "common/device_weight.h"

#include <cstring>
#include <limits>
#include <string>

namespace qspec::cuda {

namespace {

bool is_dense(const WeightSource& s) { return s.kind == WeightKind::kDenseF32 || s.kind == WeightKind::kDenseBf16; }

Status bad(StatusCode code, const WeightSource& s, const std::string& what) { return {code, "Weight `" + s.name + "`: " + what}; }

Status check_part(const WeightSource& first, const WeightSource& s) {
  if (s.n < 1 || s.k < 1 || s.n > (1 << 30) || s.k > (1 << 24))
    return bad(StatusCode::kShapeMismatch, s, "expected n in 1..2^30 and k in 1..2^24 but received " + std::to_string(s.n) + " x " + std::to_string(s.k) + ".");
  if (is_dense(s)) {
    if (s.dense == nullptr) return bad(StatusCode::kInvalidArgument, s, "expected dense data to be given.");
    if (s.dense_type != DenseType::kBf16)
      return bad(StatusCode::kUnsupported, s, "expected dense weights in bfloat16 on CUDA but received another type; convert the checkpoint, or use the CPU backend.");
  } else {
    if (s.group_size != 32 && s.group_size != 64 && s.group_size != 128)
      return bad(StatusCode::kUnsupported, s, "expected `group_size` to be 32, 64 or 128 but received " + std::to_string(s.group_size) + ".");
    if (s.k % s.group_size != 0)
      return bad(StatusCode::kShapeMismatch, s, "expected `group_size` to divide " + std::to_string(s.k) + " but received " + std::to_string(s.group_size) + ".");
    if (s.hi == nullptr || s.scales == nullptr) return bad(StatusCode::kInvalidArgument, s, "expected `hi` and `scales` to be given.");
    if (s.kind == WeightKind::kNested8 && (s.lo == nullptr || s.radix < 8 || s.radix > 15))
      return bad(StatusCode::kInvalidArgument, s, "expected a nested weight to have `lo` and a `radix` in 8..15.");
  }
  const bool same = s.kind == first.kind && s.k == first.k && s.hadamard_block == first.hadamard_block &&
                    (is_dense(s) || (s.group_size == first.group_size && (s.kind != WeightKind::kNested8 || s.radix == first.radix)));
  if (!same) return bad(StatusCode::kShapeMismatch, s, "expected the format of `" + first.name + "`, which it is stacked on, but they differ; store the two as separate weights.");
  return {};
}

uint32_t nibble(const int32_t* plane, int64_t k_words, int64_t n, int64_t k) {
  return static_cast<uint32_t>(plane[n * k_words + k / 8]) >> (4 * (k % 8)) & 15u;
}

// Writes rows [row0, row0 + s.n) of the stacked weight into host images of the sections.
void pack_plane(const WeightSource& s, const int32_t* plane, int64_t row0, int k_tiles, uint32_t* out) {
  for (int64_t n = 0; n < s.n; ++n) {
    const int64_t row = row0 + n;
    const int g = static_cast<int>(row % 8), h = static_cast<int>(row % 16 / 8);
    for (int64_t k = 0; k < s.k; ++k) {
      const int in_tile = static_cast<int>(k % kTileK), half = in_tile / 32, t = in_tile % 32 / 8, q = in_tile % 8;
      const int step = 2 * half + q / 4, bit = nibble_bit(h, q % 4);
      uint32_t& word = out[((row / kTileN * k_tiles + k / kTileK) * 32 + 4 * g + t) * 4 + step];
      word = (word & ~(15u << bit)) | nibble(plane, s.k / 8, n, k) << bit;
    }
  }
}

void pack_scales(const WeightSource& s, int64_t row0, uint16_t* out) {
  const int64_t groups = s.k / s.group_size;
  for (int64_t n = 0; n < s.n; ++n) {
    const int64_t row = row0 + n;
    for (int64_t q = 0; q < groups; ++q) out[((row / 16 * groups + q) * 8 + row % 8) * 2 + row % 16 / 8] = s.scales[n * groups + q];
  }
}

void pack_dense(const WeightSource& s, int64_t row0, int k_tiles, uint16_t* out) {
  const uint16_t* source = static_cast<const uint16_t*>(s.dense);
  for (int64_t n = 0; n < s.n; ++n) {
    const int64_t row = row0 + n;
    const int g = static_cast<int>(row % 8), h = static_cast<int>(row % 16 / 8);
    for (int64_t k = 0; k < s.k; ++k) {
      const int in_tile = static_cast<int>(k % kTileK), half = in_tile / 32, t = in_tile % 32 / 8, q = in_tile % 8;
      const int step = 2 * half + q / 4, j = q % 4;
      const int64_t lane = ((row / kTileN * k_tiles + k / kTileK) * 4 + step) * 32 + 4 * g + t;
      out[lane * 8 + (2 * (j / 2) + h) * 2 + j % 2] = source[n * s.k + k];  // register a(2·(j/2) + h), low half first
    }
  }
}

}  // namespace

Status ResidentDeviceWeight::create(const std::vector<WeightSource>& parts, std::unique_ptr<ResidentDeviceWeight>* out) {
  if (parts.empty()) return {StatusCode::kInvalidArgument, "Expected at least one weight to stack but received none."};
  const WeightSource& first = parts[0];
  int64_t n = 0;
  for (const WeightSource& part : parts) {
    QSPEC_RETURN_IF_ERROR(check_part(first, part));
    n += part.n;
  }
  if (n > std::numeric_limits<int32_t>::max() / 2) return {StatusCode::kShapeMismatch, "Weight `" + first.name + "`: too many stacked rows."};
  auto weight = std::make_unique<ResidentDeviceWeight>();
  DeviceWeight& v = weight->view_;
  const bool dense = is_dense(first);
  v.kind = dense ? WeightKind::kDenseBf16 : first.kind;
  v.n = static_cast<int>(n), v.k = static_cast<int>(first.k);
  v.n_tiles = (v.n + kTileN - 1) / kTileN, v.k_tiles = (v.k + kTileK - 1) / kTileK;
  v.group_size = dense ? 0 : first.group_size;
  v.radix = first.kind == WeightKind::kNested8 ? first.radix : 1;
  v.hadamard_block = first.hadamard_block;

  const size_t tiles = static_cast<size_t>(v.n_tiles) * v.k_tiles;
  const size_t plane = dense ? tiles * 2048 : tiles * kTileBytes;
  const size_t scale_bytes = dense ? 0 : static_cast<size_t>(v.n_tiles) * (v.k / v.group_size) * 32;
  const int planes = first.kind == WeightKind::kNested8 ? 2 : 1;
  const size_t bytes = planes * plane + scale_bytes;
  std::vector<uint8_t> image(bytes, dense ? 0 : 0x88);  // padding: code 0
  std::memset(image.data() + planes * plane, 0, scale_bytes);
  int64_t row = 0;
  for (const WeightSource& part : parts) {
    if (dense) {
      pack_dense(part, row, v.k_tiles, reinterpret_cast<uint16_t*>(image.data()));
    } else {
      pack_plane(part, part.hi, row, v.k_tiles, reinterpret_cast<uint32_t*>(image.data()));
      if (planes == 2) pack_plane(part, part.lo, row, v.k_tiles, reinterpret_cast<uint32_t*>(image.data() + plane));
      pack_scales(part, row, reinterpret_cast<uint16_t*>(image.data() + planes * plane));
    }
    row += part.n;
  }
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(bytes, first.name.c_str(), &weight->memory_));
  QSPEC_RETURN_IF_ERROR(weight->memory_.upload(image.data(), bytes));
  uint8_t* base = weight->memory_.as<uint8_t>();
  if (dense) {
    v.dense = reinterpret_cast<const uint4*>(base);
  } else {
    v.hi = reinterpret_cast<const uint4*>(base);
    if (planes == 2) v.lo = reinterpret_cast<const uint4*>(base + plane);
    v.scales = reinterpret_cast<const uint32_t*>(base + planes * plane);
  }
  *out = std::move(weight);
  return {};
}

}  // namespace qspec::cuda
