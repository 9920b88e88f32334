// A recorded forward pass (core/src/program.ts), with handles resolved to memory. Immutable once validated.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "qspec/params.h"
#include "qspec/status.h"
#include "qspec/weight.h"

namespace qspec {

enum class OpKind : int { kEmbedding, kGatherRows, kRmsNorm, kTransform, kLinear, kRopeKvWrite, kAttention, kSiluMul };
constexpr int kNumOpKinds = 8;
// As core spells it: `ropeKvWrite`.
const char* op_name(OpKind kind);

using WeightRef = std::shared_ptr<const Weight>;
using VectorRef = std::shared_ptr<const std::vector<float>>;

// [rows, width] floats, or codes, scales and sums.
struct BufferSpec {
  bool is_quantized = false;
  int64_t width = 0;
  int bits = 0;        // quantised only, as are the next two
  int group_size = 0;
  bool per_token = false;
};

// All ops in one struct: fields that an op doesn't have keep their defaults.
struct ProgramOp {
  OpKind kind = OpKind::kTransform;
  int input = -1;   // also `qkv`
  int output = -1;
  int delta = -1;   // rms_norm, optional
  int hadamard_block = 0;
  WeightRef weight;  // embedding (table), linear
  VectorRef vector;  // rms_norm weight; linear bias (optional); rope inverse frequencies
  VectorRef q_norm, k_norm;
  Plane plane = Plane::kFull;
  int64_t output_column = 0;
  int64_t width = 0;  // silu_mul
  int layer = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, sliding_window = 0;
  float eps = 0, attention_factor = 1, scale = 1;
};

struct Program {
  std::string name;
  std::vector<BufferSpec> buffers;
  std::vector<ProgramOp> ops;
  int logits = -1;
};

// One pool that every layer has one of for K and one for V.
struct KvShape {
  KvFormat format = KvFormat::kF32;
  int num_layers = 0, page_size = 0, num_kv_heads = 0, head_dim = 0;
  int64_t num_pages = 0;
  int64_t num_slots() const { return num_pages * page_size; }
};

// The sizes; which formats there are kernels for is each backend's own to say.
Status validate_kv_shape(const KvShape& shape);

// Every index in range, every width right, every buffer written before it is read, gatherRows alone leads from token rows to logit rows.
// What passes can be replayed without any further check. Messages name the program, the op and the field.
Status validate_program(const Program& program, const KvShape& kv, int64_t vocab_size);

}  // namespace qspec
