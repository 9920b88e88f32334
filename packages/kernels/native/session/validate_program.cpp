#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "session/program.h"

namespace qspec {

const char* op_name(OpKind kind) {
  static const char* const names[kNumOpKinds] = {"embedding", "gatherRows",  "rmsNorm",   "transform",
                                                 "linear",    "ropeKvWrite", "attention", "siluMul"};
  return names[static_cast<int>(kind)];
}

namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 26;

bool is_power_of_two(int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

// Rows of a buffer: those of all tokens (before the gather) or those whose logits are wanted (after it).
enum class Stage { kUnwritten, kTokens, kLogits };

struct BufferState {
  Stage stage = Stage::kUnwritten;
  std::vector<bool> columns;  // written since `stage` began
};

class Validator {
 public:
  Validator(const Program& program, const KvShape& kv, int64_t vocab_size) : program_(program), kv_(kv), vocab_(vocab_size) {}

  Status run() {
    QSPEC_RETURN_IF_ERROR(check_buffers());
    states_.resize(program_.buffers.size());
    for (op_index_ = 0; op_index_ < program_.ops.size(); ++op_index_) QSPEC_RETURN_IF_ERROR(check_op(op()));
    return check_logits();
  }

 private:
  const ProgramOp& op() const { return program_.ops[op_index_]; }

#if defined(__GNUC__)
  __attribute__((format(printf, 2, 3)))
#endif
  Status wrong(const char* format, ...) const {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    std::string place = "program `" + program_.name + "`";
    if (op_index_ < program_.ops.size()) place += " op " + std::to_string(op_index_) + " (" + op_name(op().kind) + ")";
    return {StatusCode::kInvalidArgument, "Expected " + std::string(text) + " in " + place + "."};
  }

  Status check_buffers() {
    op_index_ = program_.ops.size();
    for (const BufferSpec& buffer : program_.buffers) {
      if (buffer.width < 1 || buffer.width > kMaxWidth) return wrong("buffer widths to be from 1 to 67108864 but received %lld", static_cast<long long>(buffer.width));
      if (!buffer.is_quantized) continue;
      if (buffer.bits != 4 && buffer.bits != 8) return wrong("`bits` to be 4 or 8 but received %d", buffer.bits);
      const bool is_known = buffer.group_size == 32 || buffer.group_size == 64 || buffer.group_size == 128;
      if (!is_known || buffer.width % buffer.group_size != 0) {
        return wrong("`groupSize` to be 32, 64 or 128 and divide %lld but received %d", static_cast<long long>(buffer.width), buffer.group_size);
      }
    }
    return Status::ok();
  }

  Status check_logits() {
    op_index_ = program_.ops.size();
    if (!is_after_gather_) return wrong("a gatherRows before the logits but found none");
    QSPEC_RETURN_IF_ERROR(check_float("logits", program_.logits, vocab_));
    return check_readable("logits", program_.logits);
  }

  Status check_op(const ProgramOp& op) {
    switch (op.kind) {
      case OpKind::kEmbedding: return check_embedding(op);
      case OpKind::kGatherRows: return check_gather(op);
      case OpKind::kRmsNorm: return check_rms_norm(op);
      case OpKind::kTransform: return check_transform(op);
      case OpKind::kLinear: return check_linear(op);
      case OpKind::kRopeKvWrite: return check_rope(op);
      case OpKind::kAttention: return check_attention(op);
      case OpKind::kSiluMul: return check_silu_mul(op);
    }
    return wrong("a known op");
  }

  Status check_embedding(const ProgramOp& op) {
    QSPEC_RETURN_IF_ERROR(check_before_gather());
    QSPEC_RETURN_IF_ERROR(check_weight(op, "table"));
    const WeightShape& table = op.weight->shape();
    if (table.n < vocab_) return wrong("`table` to have %lld rows, one a token, but received %lld", static_cast<long long>(vocab_), static_cast<long long>(table.n));
    QSPEC_RETURN_IF_ERROR(check_float("output", op.output, table.k));
    return mark_written(op.output, 0, table.k);
  }

  Status check_gather(const ProgramOp& op) {
    QSPEC_RETURN_IF_ERROR(check_float("input", op.input, -1));
    QSPEC_RETURN_IF_ERROR(check_readable("input", op.input, Stage::kTokens));
    QSPEC_RETURN_IF_ERROR(check_float("output", op.output, width(op.input)));
    QSPEC_RETURN_IF_ERROR(check_distinct("output", op.output, op.input));
    is_after_gather_ = true;
    return mark_written(op.output, 0, width(op.output));
  }

  Status check_rms_norm(const ProgramOp& op) {
    QSPEC_RETURN_IF_ERROR(check_float("input", op.input, -1));
    QSPEC_RETURN_IF_ERROR(check_readable("input", op.input));
    if (op.delta >= 0) {
      QSPEC_RETURN_IF_ERROR(check_float("delta", op.delta, width(op.input)));
      QSPEC_RETURN_IF_ERROR(check_readable("delta", op.delta));
      QSPEC_RETURN_IF_ERROR(check_distinct("delta", op.delta, op.input));
    }
    QSPEC_RETURN_IF_ERROR(check_vector("weight", op.vector, width(op.input), true));
    if (!(op.eps >= 0)) return wrong("`eps` to be 0 or more but received %g", static_cast<double>(op.eps));
    return check_sink(op, width(op.input));
  }

  Status check_transform(const ProgramOp& op) {
    QSPEC_RETURN_IF_ERROR(check_float("input", op.input, -1));
    QSPEC_RETURN_IF_ERROR(check_readable("input", op.input));
    return check_sink(op, width(op.input), /*may_be_in_place=*/true);
  }

  Status check_linear(const ProgramOp& op) {
    QSPEC_RETURN_IF_ERROR(check_weight(op, "weight"));
    const WeightShape& weight = op.weight->shape();
    QSPEC_RETURN_IF_ERROR(check_index("input", op.input));
    const BufferSpec& input = program_.buffers[op.input];
    if (input.width != weight.k) {
      return wrong("`input` to have %lld columns, the weight's K, but received %lld", static_cast<long long>(weight.k), static_cast<long long>(input.width));
    }
    if (input.is_quantized) QSPEC_RETURN_IF_ERROR(check_integer_input(input, weight));
    if (op.plane == Plane::kHi && weight.kind != WeightKind::kNested8 && weight.kind != WeightKind::kInt4) {
      return wrong("`plane` to be full for a dense weight but received hi");
    }
    QSPEC_RETURN_IF_ERROR(check_readable("input", op.input));
    QSPEC_RETURN_IF_ERROR(check_float("output", op.output, -1));
    QSPEC_RETURN_IF_ERROR(check_distinct("output", op.output, op.input));
    if (op.output_column < 0 || op.output_column + weight.n > width(op.output)) {
      return wrong("columns %lld to %lld to lie within the output's %lld", static_cast<long long>(op.output_column),
                   static_cast<long long>(op.output_column + weight.n), static_cast<long long>(width(op.output)));
    }
    QSPEC_RETURN_IF_ERROR(check_vector("bias", op.vector, weight.n, false));
    return mark_written(op.output, op.output_column, weight.n);
  }

  Status check_integer_input(const BufferSpec& input, const WeightShape& weight) {
    if (weight.kind != WeightKind::kInt4 && weight.kind != WeightKind::kNested8) {
      return wrong("a float input for a dense weight but received a quantised one");
    }
    if (input.group_size != weight.group_size) {
      return wrong("`groupSize` of the input to equal the weight's %d but received %d", weight.group_size, input.group_size);
    }
    return Status::ok();
  }

  Status check_rope(const ProgramOp& op) {
    QSPEC_RETURN_IF_ERROR(check_heads(op));
    QSPEC_RETURN_IF_ERROR(check_vector("inverseFrequencies", op.vector, op.head_dim / 2, true));
    QSPEC_RETURN_IF_ERROR(check_vector("qNorm", op.q_norm, op.head_dim, false));
    return check_vector("kNorm", op.k_norm, op.head_dim, false);
  }

  Status check_attention(const ProgramOp& op) {
    QSPEC_RETURN_IF_ERROR(check_heads(op));
    if (op.sliding_window < 0) return wrong("`slidingWindow` to be 0 or more but received %d", op.sliding_window);
    return check_sink(op, int64_t{op.num_heads} * op.head_dim);
  }

  Status check_heads(const ProgramOp& op) {
    QSPEC_RETURN_IF_ERROR(check_before_gather());
    if (op.layer < 0 || op.layer >= kv_.num_layers) return wrong("`layer` to be from 0 to %d but received %d", kv_.num_layers - 1, op.layer);
    if (op.num_kv_heads != kv_.num_kv_heads || op.head_dim != kv_.head_dim) {
      return wrong("%d KV heads of %d, as the cache has, but received %d of %d", kv_.num_kv_heads, kv_.head_dim, op.num_kv_heads, op.head_dim);
    }
    if (op.num_heads < 1 || op.num_heads % op.num_kv_heads != 0) {
      return wrong("`numHeads` to be a multiple of %d but received %d", op.num_kv_heads, op.num_heads);
    }
    QSPEC_RETURN_IF_ERROR(check_float("qkv", op.input, (int64_t{op.num_heads} + 2 * op.num_kv_heads) * op.head_dim));
    return check_readable("qkv", op.input);
  }

  Status check_silu_mul(const ProgramOp& op) {
    if (op.width < 1) return wrong("`width` to be positive but received %lld", static_cast<long long>(op.width));
    QSPEC_RETURN_IF_ERROR(check_float("input", op.input, 2 * op.width));
    QSPEC_RETURN_IF_ERROR(check_readable("input", op.input));
    return check_sink(op, op.width);
  }

  Status check_sink(const ProgramOp& op, int64_t columns, bool may_be_in_place = false) {
    QSPEC_RETURN_IF_ERROR(check_index("output", op.output));
    if (width(op.output) != columns) {
      return wrong("`output` to have %lld columns but received %lld", static_cast<long long>(columns), static_cast<long long>(width(op.output)));
    }
    if (!may_be_in_place) QSPEC_RETURN_IF_ERROR(check_distinct("output", op.output, op.input));
    if (op.delta >= 0) QSPEC_RETURN_IF_ERROR(check_distinct("output", op.output, op.delta));
    if (op.hadamard_block != 0 && (!is_power_of_two(op.hadamard_block) || columns % op.hadamard_block != 0)) {
      return wrong("`hadamardBlock` to be 0 or a power of two that divides %lld but received %d", static_cast<long long>(columns), op.hadamard_block);
    }
    return mark_written(op.output, 0, columns);
  }

  Status check_weight(const ProgramOp& op, const char* field) {
    return op.weight ? Status::ok() : wrong("`%s` to be a weight", field);
  }

  Status check_vector(const char* field, const VectorRef& vector, int64_t length, bool is_required) {
    if (!vector) return is_required ? wrong("`%s` to be a vector", field) : Status::ok();
    if (static_cast<int64_t>(vector->size()) == length) return Status::ok();
    return wrong("`%s` to have %lld elements but received %zu", field, static_cast<long long>(length), vector->size());
  }

  Status check_before_gather() {
    return is_after_gather_ ? wrong("this op before gatherRows but it came after") : Status::ok();
  }

  Status check_index(const char* field, int index) {
    const int count = static_cast<int>(program_.buffers.size());
    return index >= 0 && index < count ? Status::ok() : wrong("`%s` to be a buffer from 0 to %d but received %d", field, count - 1, index);
  }

  Status check_distinct(const char* field, int a, int b) {
    return a != b ? Status::ok() : wrong("`%s` to be another buffer than the op reads but both are %d", field, a);
  }

  // A float buffer of `columns` columns; -1: of any.
  Status check_float(const char* field, int index, int64_t columns) {
    QSPEC_RETURN_IF_ERROR(check_index(field, index));
    if (program_.buffers[index].is_quantized) return wrong("`%s` to be a float buffer but %d is quantised", field, index);
    if (columns < 0 || width(index) == columns) return Status::ok();
    return wrong("`%s` to have %lld columns but received %lld", field, static_cast<long long>(columns), static_cast<long long>(width(index)));
  }

  Stage current_stage() const { return is_after_gather_ ? Stage::kLogits : Stage::kTokens; }

  Status check_readable(const char* field, int index) { return check_readable(field, index, current_stage()); }

  Status check_readable(const char* field, int index, Stage stage) {
    const BufferState& state = states_[index];
    if (state.stage == Stage::kTokens && stage == Stage::kLogits) {
      return wrong("`%s` to be written after gatherRows but buffer %d has the rows from before it", field, index);
    }
    if (state.stage != stage || std::find(state.columns.begin(), state.columns.end(), false) != state.columns.end()) {
      return wrong("`%s` to be written before it is read but buffer %d is not, or not wholly", field, index);
    }
    return Status::ok();
  }

  Status mark_written(int index, int64_t column, int64_t count) {
    BufferState& state = states_[index];
    const Stage stage = current_stage();
    if (state.stage != stage) {
      state.stage = stage;
      state.columns.assign(static_cast<size_t>(width(index)), false);
    }
    std::fill_n(state.columns.begin() + column, count, true);
    return Status::ok();
  }

  int64_t width(int index) const { return program_.buffers[index].width; }

  const Program& program_;
  const KvShape& kv_;
  const int64_t vocab_;
  size_t op_index_ = 0;
  bool is_after_gather_ = false;
  std::vector<BufferState> states_;
};

}  // namespace

Status validate_kv_shape(const KvShape& shape) {
  const auto wrong = [](const std::string& text) { return Status(StatusCode::kInvalidArgument, "Expected `kv." + text + "."); };
  if (shape.num_layers < 1) return wrong("numLayers` to be positive but received " + std::to_string(shape.num_layers));
  if (shape.page_size < 1 || shape.page_size > 1024 || !is_power_of_two(shape.page_size)) {
    return wrong("pageSize` to be a power of two up to 1024 but received " + std::to_string(shape.page_size));
  }
  if (shape.num_kv_heads < 1) return wrong("numKvHeads` to be positive but received " + std::to_string(shape.num_kv_heads));
  if (shape.head_dim < 2 || shape.head_dim % 2 != 0) {
    return wrong("headDim` to be even and positive but received " + std::to_string(shape.head_dim));
  }
  if (shape.num_pages < 1 || shape.num_slots() > INT32_MAX) {
    return wrong("numPages` to be positive with at most 2147483647 slots but received " + std::to_string(shape.num_pages));
  }
  return Status::ok();
}

Status validate_program(const Program& program, const KvShape& kv, int64_t vocab_size) {
  return Validator(program, kv, vocab_size).run();
}

}  // namespace qspec
