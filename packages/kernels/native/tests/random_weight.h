// Random weights in storage layout that own their arrays, and what they mean in double: the truth that packing and
// kernels are checked against, computed from the storage layout alone.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "qspec/dtype.h"
#include "qspec/packing.h"
#include "testkit.h"

namespace qspec::test {

struct WeightSpec {
  WeightKind kind;
  DenseType dense_type = DenseType::kF32;
  int group_size = 0, radix = 1;

  std::string name() const {
    if (kind == WeightKind::kInt4) return text("int4 g%d", group_size);
    if (kind == WeightKind::kNested8) return text("nested8 g%d radix %d", group_size, radix);
    return dense_type == DenseType::kF32 ? "f32" : dense_type == DenseType::kF16 ? "f16" : "bf16";
  }
};

inline WeightSpec int4_spec(int group_size) { return {WeightKind::kInt4, DenseType::kF32, group_size, 1}; }
inline WeightSpec nested_spec(int group_size, int radix) {
  return {WeightKind::kNested8, DenseType::kF32, group_size, radix};
}
inline WeightSpec dense_spec(DenseType type) { return {WeightKind::kDenseF32, type, 0, 1}; }

class RandomWeight {
 public:
  RandomWeight(const WeightSpec& spec, int64_t n, int64_t k, uint64_t seed) : spec_(spec), n_(n), k_(k) {
    Rng rng(seed);
    if (spec.kind == WeightKind::kDenseF32) {
      for (int64_t i = 0; i < n * k; ++i) add_dense(rng.normal() * 0.05f, rng);
      return;
    }
    for (int64_t i = 0; i < n * k / 8; ++i) {
      // Every code a nibble can hold.
      hi_.push_back(static_cast<int32_t>(rng.next()));
      lo_.push_back(static_cast<int32_t>(rng.next()));
    }
    for (int64_t i = 0; i < n * k / spec.group_size; ++i)
      scales_.push_back(float_to_bf16(0.01f + 0.02f * rng.uniform(0, 1)));
  }

  WeightSource source(const std::string& name = "w") const {
    WeightSource s{};
    s.name = name;
    s.kind = spec_.kind, s.dense_type = spec_.dense_type;
    s.n = n_, s.k = k_, s.group_size = spec_.group_size, s.radix = spec_.radix, s.hadamard_block = 0;
    s.dense = spec_.dense_type == DenseType::kF32 ? static_cast<const void*>(dense_.data()) : dense16_.data();
    if (spec_.kind != WeightKind::kDenseF32) s.hi = hi_.data(), s.scales = scales_.data();
    if (spec_.kind == WeightKind::kNested8) s.lo = lo_.data();
    return s;
  }

  double value(Plane plane, int64_t n, int64_t k) const {
    const int64_t i = n * k_ + k;
    if (spec_.kind == WeightKind::kDenseF32) {
      if (spec_.dense_type == DenseType::kF32) return dense_[i];
      return spec_.dense_type == DenseType::kF16 ? f16_to_float(dense16_[i]) : bf16_to_float(dense16_[i]);
    }
    const double scale = bf16_to_float(scales_[i / spec_.group_size]);
    const int hi = nibble(hi_[i / 8], i % 8);
    if (spec_.kind == WeightKind::kInt4 || plane == Plane::kHi) return scale * hi;
    return scale * (spec_.radix * hi + nibble(lo_[i / 8], i % 8)) / spec_.radix;
  }

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  const WeightSpec& spec() const { return spec_; }

 private:
  static int nibble(int32_t word, int64_t index) {
    return static_cast<int>(static_cast<uint32_t>(word) >> (4 * index) & 15) - 8;
  }
  void add_dense(float value, Rng& rng) {
    if (spec_.dense_type == DenseType::kF32) dense_.push_back(value);
    if (spec_.dense_type == DenseType::kBf16) dense16_.push_back(float_to_bf16(value));
    // Any finite half, subnormals included.
    if (spec_.dense_type == DenseType::kF16)
      dense16_.push_back(static_cast<uint16_t>(rng.integer(0, 0x3c00) | rng.integer(0, 1) << 15));
  }

  WeightSpec spec_;
  int64_t n_, k_;
  std::vector<float> dense_;
  std::vector<uint16_t> dense16_, scales_;
  std::vector<int32_t> hi_, lo_;
};

inline std::unique_ptr<ResidentWeight> pack(const std::vector<WeightSource>& parts) {
  std::unique_ptr<ResidentWeight> weight;
  const Status status = ResidentWeight::create(parts, &weight);
  if (!status.is_ok()) fail(__FILE__, __LINE__, "pack: %s", status.message().c_str());
  return weight;
}

}  // namespace qspec::test
