// Programs of a Llama-like model over weights from anywhere: what the engine's program builder records, for tests and benchmarks without Node.
#pragma once
#include <cmath>
#include <functional>
#include <string>

#include "session/session.h"

namespace qspec::test {

struct LlamaShape {
  int vocab = 48, hidden = 64, intermediate = 128, layers = 2, heads = 4, kv_heads = 2, head_dim = 32;
  int sliding_window = 0;
  bool has_qk_norm = false, has_bias = false;
  float rope_theta = 10000.0f, eps = 1e-5f;
};

struct LlamaMode {
  std::string name = "target";
  Plane plane = Plane::kFull;
  int activation_bits = 16;   // 4, 8: integer activations
  int group_size = 32;        // of integer activations: the weights'
  bool per_token = false;
  int hadamard_block = 0;     // that the weights' inputs want
  bool is_head_float = true;
  int sliding_window = -1;    // -1: the shape's
};

// Name of a matrix, its size: `layers.3.qkv`. `vector`: a norm weight or a bias.
using MakeWeight = std::function<WeightRef(const std::string& name, int64_t n, int64_t k)>;
using MakeVector = std::function<VectorRef(const std::string& name, int64_t length)>;

class LlamaRecorder {
 public:
  LlamaRecorder(const LlamaShape& shape, const LlamaMode& mode, const MakeWeight& weight, const MakeVector& vector)
      : shape_(shape), mode_(mode), weight_(weight), vector_(vector) {}

  Program record() {
    const LlamaShape& s = shape_;
    program_ = {};
    program_.name = mode_.name;
    const int qkv_width = (s.heads + 2 * s.kv_heads) * s.head_dim;
    residual_ = add_buffer(s.hidden);
    const int normed = add_input(s.hidden), qkv = add_buffer(qkv_width), attended = add_input(s.heads * s.head_dim), delta = add_buffer(s.hidden);
    const int gate_up = add_buffer(2 * s.intermediate), activated = add_input(s.intermediate);
    const int last = add_buffer(s.hidden), last_delta = add_buffer(s.hidden);
    const int head_input = mode_.is_head_float ? add_buffer(s.hidden) : add_input(s.hidden);
    program_.logits = add_buffer(s.vocab);
    op(OpKind::kEmbedding, -1, residual_).weight = weight_("embedding", s.vocab, s.hidden);
    frequencies_ = rope_frequencies();
    for (int layer = 0; layer < s.layers; ++layer) {
      const std::string prefix = "layers." + std::to_string(layer) + ".";
      norm(prefix + "attention_norm", residual_, layer == 0 ? -1 : delta, normed, mode_.hadamard_block);
      linear(prefix + "qkv", normed, qkv, qkv_width, s.hidden, s.has_bias);
      attention(prefix, layer, qkv, attended);
      linear(prefix + "o", attended, delta, s.hidden, s.heads * s.head_dim, false);
      norm(prefix + "mlp_norm", residual_, delta, normed, mode_.hadamard_block);
      linear(prefix + "gate_up", normed, gate_up, 2 * s.intermediate, s.hidden, false);
      ProgramOp& silu = op(OpKind::kSiluMul, gate_up, activated);
      silu.width = s.intermediate, silu.hadamard_block = mode_.hadamard_block;
      linear(prefix + "down", activated, delta, s.hidden, s.intermediate, false);
    }
    op(OpKind::kGatherRows, residual_, last);
    op(OpKind::kGatherRows, delta, last_delta);
    norm("final_norm", last, last_delta, head_input, 0);
    linear("head", head_input, program_.logits, s.vocab, s.hidden, false);
    if (mode_.is_head_float && mode_.activation_bits < 16) program_.ops.back().plane = Plane::kFull;
    return std::move(program_);
  }

 private:
  int add_buffer(int64_t width) {
    BufferSpec spec;
    spec.width = width;
    program_.buffers.push_back(spec);
    return static_cast<int>(program_.buffers.size()) - 1;
  }
  int add_input(int64_t width) {
    const int index = add_buffer(width);
    if (mode_.activation_bits == 16) return index;
    BufferSpec& spec = program_.buffers.back();
    spec.is_quantized = true, spec.bits = mode_.activation_bits, spec.group_size = mode_.group_size, spec.per_token = mode_.per_token;
    return index;
  }
  ProgramOp& op(OpKind kind, int input, int output) {
    ProgramOp op;
    op.kind = kind, op.input = input, op.output = output;
    program_.ops.push_back(op);
    return program_.ops.back();
  }
  void norm(const std::string& name, int input, int delta, int output, int hadamard_block) {
    ProgramOp& n = op(OpKind::kRmsNorm, input, output);
    n.delta = delta, n.vector = vector_(name, shape_.hidden), n.eps = shape_.eps, n.hadamard_block = hadamard_block;
  }
  void linear(const std::string& name, int input, int output, int64_t n, int64_t k, bool has_bias) {
    ProgramOp& l = op(OpKind::kLinear, input, output);
    l.weight = weight_(name, n, k);
    const WeightKind kind = l.weight->shape().kind;
    l.plane = kind == WeightKind::kDenseF32 || kind == WeightKind::kDenseBf16 ? Plane::kFull : mode_.plane;
    if (has_bias) l.vector = vector_(name + ".bias", n);
  }
  void attention(const std::string& prefix, int layer, int qkv, int attended) {
    const LlamaShape& s = shape_;
    ProgramOp& rope = op(OpKind::kRopeKvWrite, qkv, -1);
    rope.vector = frequencies_, rope.eps = s.eps;
    if (s.has_qk_norm) rope.q_norm = vector_(prefix + "q_norm", s.head_dim), rope.k_norm = vector_(prefix + "k_norm", s.head_dim);
    set_heads(&rope, layer);
    ProgramOp& a = op(OpKind::kAttention, qkv, attended);
    a.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
    a.sliding_window = mode_.sliding_window >= 0 ? mode_.sliding_window : s.sliding_window;
    a.hadamard_block = mode_.hadamard_block;
    set_heads(&a, layer);
  }
  void set_heads(ProgramOp* op, int layer) const {
    op->layer = layer, op->num_heads = shape_.heads, op->num_kv_heads = shape_.kv_heads, op->head_dim = shape_.head_dim;
  }
  VectorRef rope_frequencies() const {
    std::vector<float> values(shape_.head_dim / 2);
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::pow(shape_.rope_theta, -2.0f * static_cast<float>(i) / static_cast<float>(shape_.head_dim));
    return std::make_shared<const std::vector<float>>(std::move(values));
  }

  const LlamaShape& shape_;
  const LlamaMode& mode_;
  const MakeWeight& weight_;
  const MakeVector& vector_;
  Program program_;
  int residual_ = -1;
  VectorRef frequencies_;
};

inline Program record_llama(const LlamaShape& shape, const LlamaMode& mode, const MakeWeight& weight, const MakeVector& vector) {
  return LlamaRecorder(shape, mode, weight, vector).record();
}

}  // namespace qspec::test
