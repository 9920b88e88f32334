// A resident matrix as programs and sessions see it: what it is, not where or how it lies.
#pragma once
#include <cstddef>
#include <cstdint>

#include "qspec/formats.h"

namespace qspec {

// Dense weights say what is resident: a backend may round float32 to bfloat16 when it makes one.
struct WeightShape {
  WeightKind kind = WeightKind::kDenseF32;
  int64_t n = 0;           // output features, without padding
  int64_t k = 0;           // input features
  int group_size = 0;      // 32, 64 or 128; 0 for dense
  int radix = 1;           // 8..15 for nested8; else 1
  int hadamard_block = 0;  // of the input; 0 = none
};

// Immutable. Made by a backend; only sessions of that backend may read what lies behind it.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual const WeightShape& shape() const = 0;
  virtual size_t bytes() const = 0;  // resident
};

}  // namespace qspec
