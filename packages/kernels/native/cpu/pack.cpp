// ResidentWeight: checks the parts, sizes one aligned block, fills it tile by tile.
//
// Memory of one weight:  hi | lo | scales | dense   (each present section begins at a multiple of 64 bytes)
// Padding rows of the last tile are zero weights: code 0 (nibble 8) and scale 0.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>

#include "pack_layout.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace qspec {

namespace {

constexpr size_t kLineBytes = 64;
constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr uint32_t kZeroCodes = 0x88888888u;

Status invalid(const WeightSource& source, const std::string& what) {
  return {StatusCode::kInvalidArgument, "Weight `" + source.name + "`: " + what};
}

std::string expected(const char* what, int64_t received) {
  return std::string("expected ") + what + " but received " + std::to_string(received) + ".";
}

bool is_dense(WeightKind kind) { return kind == WeightKind::kDenseF32 || kind == WeightKind::kDenseBf16; }

Status check_quantized(const WeightSource& s) {
  if (s.group_size != 32 && s.group_size != 64 && s.group_size != 128)
    return invalid(s, expected("`group_size` to be 32, 64 or 128", s.group_size));
  if (s.k % s.group_size != 0) {
    return {StatusCode::kShapeMismatch, "Weight `" + s.name + "`: expected `group_size` to divide " +
                                            std::to_string(s.k) + " but received " + std::to_string(s.group_size) +
                                            "."};
  }
  if (s.hi == nullptr || s.scales == nullptr) return invalid(s, "expected `hi` and `scales` to be given.");
  if (s.kind != WeightKind::kNested8) return {};
  if (s.lo == nullptr) return invalid(s, "expected a nested weight to have `lo`.");
  if (s.radix < 8 || s.radix > 15) return invalid(s, expected("`radix` in 8..15", s.radix));
  return {};
}

Status check_source(const WeightSource& s) {
  if (s.n < 1 || s.k < 1)
    return {StatusCode::kShapeMismatch,
            "Weight `" + s.name + "`: " + expected("both sizes to be at least 1", s.n < 1 ? s.n : s.k)};
  const int64_t block = s.hadamard_block;
  if (block < 0 || (block & (block - 1)) != 0 || (block > 0 && s.k % block != 0)) {
    return invalid(s, expected("`hadamard_block` to be 0 or a power of two that divides k", block));
  }
  if (is_dense(s.kind)) return s.dense == nullptr ? invalid(s, "expected dense data to be given.") : Status::ok();
  if (s.kind != WeightKind::kInt4 && s.kind != WeightKind::kNested8)
    return invalid(s, expected("a known weight kind", static_cast<int>(s.kind)));
  return check_quantized(s);
}

Status check_stack(const WeightSource& first, const WeightSource& s) {
  const bool same = s.kind == first.kind && s.k == first.k && s.hadamard_block == first.hadamard_block &&
                    (is_dense(s.kind) ? s.dense_type == first.dense_type
                                      : s.group_size == first.group_size &&
                                            (s.kind != WeightKind::kNested8 || s.radix == first.radix));
  if (same) return {};
  return {StatusCode::kShapeMismatch,
          "Weight `" + s.name + "`: expected the kind, k, group size, radix and Hadamard block of `" + first.name +
              "`, which it is stacked on, but they differ; store the two as separate weights."};
}

// Byte offsets of the sections; false when the total does not fit.
struct Sections {
  size_t hi = 0, lo = 0, scales = 0, dense = 0, total = 0;
  bool fits = true;

  size_t append(int64_t tiles, int64_t lines_per_tile, size_t line_bytes) {
    const size_t begin = total;
    size_t bytes;
    if (__builtin_mul_overflow(static_cast<size_t>(tiles), static_cast<size_t>(lines_per_tile), &bytes) ||
        __builtin_mul_overflow(bytes, line_bytes, &bytes) || __builtin_add_overflow(bytes, kLineBytes - 1, &bytes) ||
        __builtin_add_overflow(total, bytes & ~(kLineBytes - 1), &total) ||
        total > std::numeric_limits<size_t>::max() / 4) {
      fits = false;
    }
    return begin;
  }
};

Sections lay_out(const PackedWeight& w) {
  Sections s;
  const int64_t tiles = w.num_tiles();
  if (w.kind == WeightKind::kDenseF32) s.dense = s.append(tiles, w.k, 64);
  if (w.kind == WeightKind::kDenseBf16) s.dense = s.append(tiles, w.k / 2 + w.k % 2, 64);
  if (!is_dense(w.kind)) {
    s.hi = s.append(tiles, w.k / 8, 64);
    if (w.kind == WeightKind::kNested8) s.lo = s.append(tiles, w.k / 8, 64);
    s.scales = s.append(tiles, w.k / w.group_size, 32);
  }
  return s;
}

// Large weights begin on a huge page: one TLB entry for 2 MiB of a stream that is read once a step.
void* allocate(size_t bytes) {
  const size_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : kLineBytes;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) return nullptr;
#if defined(__linux__)
  if (alignment == kHugePageBytes) (void)madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

Status sum_rows(const std::vector<WeightSource>& parts, int64_t* n) {
  *n = 0;
  for (const WeightSource& part : parts) {
    if (__builtin_add_overflow(*n, part.n, n) || *n > std::numeric_limits<int64_t>::max() - kTileRows) {
      return {StatusCode::kShapeMismatch, "Weight `" + part.name + "`: expected the stacked rows to fit 63 bits."};
    }
  }
  return {};
}

// Writable pointers into the block; absent sections are null.
struct Planes {
  uint32_t* hi = nullptr;
  uint32_t* lo = nullptr;
  uint16_t* scales = nullptr;
  char* dense = nullptr;

  Planes(void* memory, const Sections& s, WeightKind kind) {
    char* base = static_cast<char*>(memory);
    if (is_dense(kind)) {
      dense = base + s.dense;
      return;
    }
    hi = reinterpret_cast<uint32_t*>(base + s.hi);
    if (kind == WeightKind::kNested8) lo = reinterpret_cast<uint32_t*>(base + s.lo);
    scales = reinterpret_cast<uint16_t*>(base + s.scales);
  }
};

// Zero weights into the whole last tile; its real rows come over them.
void fill_last_tile(const PackedWeight& w, const Planes& planes) {
  const int64_t tile = w.num_tiles() - 1;
  if (planes.dense != nullptr) {
    const size_t tile_bytes =
        static_cast<size_t>(w.kind == WeightKind::kDenseF32 ? w.k : w.k / 2 + w.k % 2) * kLineBytes;
    std::memset(planes.dense + static_cast<size_t>(tile) * tile_bytes, 0, tile_bytes);
    return;
  }
  const int64_t words = w.k / 8 * kTileRows, scales = w.k / w.group_size * kTileRows;
  std::fill_n(planes.hi + tile * words, words, kZeroCodes);
  if (planes.lo != nullptr) std::fill_n(planes.lo + tile * words, words, kZeroCodes);
  std::fill_n(planes.scales + tile * scales, scales, uint16_t{0});
}

void pack_row(const WeightSource& part, int64_t part_row, int64_t row, const PackedWeight& w, const Planes& planes) {
  if (planes.dense != nullptr) return cpu::pack_dense_row(part, part_row, row, w.kind, planes.dense);
  const int64_t octets = w.k / 8, groups = w.k / w.group_size;
  cpu::pack_codes_row(part.hi + part_row * octets, w.k, row, planes.hi);
  if (planes.lo != nullptr) cpu::pack_codes_row(part.lo + part_row * octets, w.k, row, planes.lo);
  cpu::pack_scales_row(part.scales + part_row * groups, groups, row, planes.scales);
}

Status describe(const std::vector<WeightSource>& parts, PackedWeight* view) {
  if (parts.empty()) return {StatusCode::kInvalidArgument, "Expected at least one part of a weight but received none."};
  const WeightSource& first = parts.front();
  for (const WeightSource& part : parts) {
    QSPEC_RETURN_IF_ERROR(check_source(part));
    QSPEC_RETURN_IF_ERROR(check_stack(first, part));
  }
  QSPEC_RETURN_IF_ERROR(sum_rows(parts, &view->n));
  const bool dense = is_dense(first.kind);
  view->kind = !dense                                 ? first.kind
               : first.dense_type == DenseType::kBf16 ? WeightKind::kDenseBf16
                                                      : WeightKind::kDenseF32;
  view->k = first.k;
  view->group_size = dense ? 0 : first.group_size;
  view->radix = first.kind == WeightKind::kNested8 ? first.radix : 1;
  view->hadamard_block = first.hadamard_block;
  return {};
}

Status out_of_memory(const std::string& name, const PackedWeight& w, const Sections& sections) {
  const std::string bytes = sections.fits ? std::to_string(sections.total) : "more than 2^62";
  return {StatusCode::kOutOfMemory, "Weight `" + name + "`: could not allocate " + bytes + " bytes for [" +
                                        std::to_string(w.n) + ", " + std::to_string(w.k) +
                                        "]; free memory or use a smaller format."};
}

}  // namespace

ResidentWeight::~ResidentWeight() { std::free(memory_); }

Status ResidentWeight::create(const std::vector<WeightSource>& parts, std::unique_ptr<ResidentWeight>* out) {
  PackedWeight view{};
  QSPEC_RETURN_IF_ERROR(describe(parts, &view));
  const Sections sections = lay_out(view);
  std::unique_ptr<ResidentWeight> weight(new (std::nothrow) ResidentWeight());
  if (weight != nullptr && sections.fits) weight->memory_ = allocate(sections.total);
  if (weight == nullptr || weight->memory_ == nullptr) return out_of_memory(parts.front().name, view, sections);

  const Planes planes(weight->memory_, sections, view.kind);
  fill_last_tile(view, planes);
  int64_t row = 0;
  for (const WeightSource& part : parts) {
    for (int64_t i = 0; i < part.n; ++i) pack_row(part, i, row++, view, planes);
  }
  view.hi = planes.hi, view.lo = planes.lo, view.scales = planes.scales, view.dense = planes.dense;
  weight->view_ = view;
  weight->shape_ = {view.kind, view.n, view.k, view.group_size, view.radix, view.hadamard_block};
  weight->bytes_ = sections.total;
  *out = std::move(weight);
  return {};
}

}  // namespace qspec
