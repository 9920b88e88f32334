// Storage layout -> resident layout (formats.h), done once when a weight is loaded.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "qspec/formats.h"
#include "qspec/status.h"
#include "qspec/weight.h"

namespace qspec {

enum class DenseType : int { kF32 = 0, kF16 = 1, kBf16 = 2 };

// One matrix in storage layout, [n, k] row-major; see core/src/weight-source.ts. Borrowed.
struct WeightSource {
  std::string name;
  WeightKind kind;       // kDenseF32 here means "dense", refined by dense_type
  DenseType dense_type;
  int64_t n, k;
  int group_size, radix, hadamard_block;
  const void* dense;       // n·k elements
  const int32_t* hi;       // [n, k/8] 8 codes a word, low nibble first, code + 8
  const int32_t* lo;       // nested8
  const uint16_t* scales;  // [n, k/group_size] bfloat16
};

// A weight of the CPU backends: owns its aligned memory.
class ResidentWeight : public Weight {
 public:
  ~ResidentWeight() override;
  const PackedWeight& view() const { return view_; }
  const WeightShape& shape() const override { return shape_; }
  size_t bytes() const override { return bytes_; }
  // Stacks `parts` (equal kind, k, group size, radix, hadamard block) along N. f16 becomes f32 (exact).
  static Status create(const std::vector<WeightSource>& parts, std::unique_ptr<ResidentWeight>* out);

 private:
  ResidentWeight() = default;
  PackedWeight view_{};
  WeightShape shape_;
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

// One row in float (no Hadamard undone), for the reference and for embeddings. `plane` as in LinearParams.
void unpack_row(const PackedWeight& weight, Plane plane, int64_t row, float* out /* [k] */);

}  // namespace qspec
