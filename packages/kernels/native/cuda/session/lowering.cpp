#include "session/lowering.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "weights/device_weight.h"

namespace qspec::cuda {

namespace {

class Lowerer {
 public:
  Lowerer(const Program& program, LoweredProgram* out) : program_(program), ops_(program.ops), out_(*out) {}

  Status run() {
    out_ = {};
    out_.program = &program_;
    out_.has_float.assign(program_.buffers.size(), false);
    out_.has_x.assign(program_.buffers.size(), false);
    is_gone_.assign(ops_.size(), false);
    adds_to_.assign(ops_.size(), -1);
    stores_silu_of_.assign(ops_.size(), -1);
    silu_from_.assign(ops_.size(), -1);
    reads_token_row_.assign(ops_.size(), -1);
    without_delta_.assign(ops_.size(), false);
    for (int i = 0; i < count(); ++i) find_fusions(i);
    QSPEC_RETURN_IF_ERROR(add_rope_tables());
    for (index_ = 0; index_ < count(); ++index_) QSPEC_RETURN_IF_ERROR(lower(index_));
    for (size_t i = 1; i < out_.nodes.size(); ++i) find_made_norm(static_cast<int>(i));
    out_.has_float[program_.logits] = true;
    return {};
  }

 private:
  int count() const { return static_cast<int>(ops_.size()); }
  bool is_float(int buffer) const { return !program_.buffers[buffer].is_quantized; }
  int width(int buffer) const { return static_cast<int>(program_.buffers[buffer].width); }

  Status unsupported(const std::string& what) const {
    return {StatusCode::kUnsupported, "Expected " + what + " in program `" + program_.name + "` op " + std::to_string(index_) + " (" +
                                          op_name(ops_[index_].kind) + ") on CUDA; use the CPU backend."};
  }

  // ---- Who reads and writes what ----

  static bool reads(const ProgramOp& op, int buffer) {
    if (op.kind == OpKind::kEmbedding) return false;
    return op.input == buffer || op.delta == buffer;
  }
  // Does the op begin a new content of the buffer? (A linear at column 0 does, one that fills further columns doesn't.)
  static bool redefines(const ProgramOp& op, int buffer) {
    if (op.kind == OpKind::kRopeKvWrite) return false;  // in place
    return op.output == buffer && (op.kind != OpKind::kLinear || op.output_column == 0);
  }
  // Ops that read what op `i` wrote.
  std::vector<int> readers(int i) const {
    std::vector<int> list;
    const int buffer = ops_[i].output;
    for (int j = i + 1; j < count(); ++j) {
      if (reads(ops_[j], buffer)) list.push_back(j);
      if (redefines(ops_[j], buffer)) return list;
    }
    return list;
  }
  bool is_logits(int i) const {  // does what op `i` wrote end as the program's logits?
    if (ops_[i].output != program_.logits) return false;
    for (int j = i + 1; j < count(); ++j)
      if (redefines(ops_[j], program_.logits)) return false;
    return true;
  }
  int definer(int buffer, int before) const {
    for (int j = before - 1; j >= 0; --j)
      if (redefines(ops_[j], buffer)) return j;
    return -1;
  }
  bool touches_between(int buffer, int first, int last) const {
    for (int j = first + 1; j < last; ++j) {
      if (is_gone_[j]) continue;
      if (reads(ops_[j], buffer) || ops_[j].output == buffer) return true;
    }
    return false;
  }
  bool fills_output(const ProgramOp& op) const {
    return op.kind == OpKind::kLinear && op.output_column == 0 && op.weight->shape().n == program_.buffers[op.output].width;
  }
  bool only_linears_read(int i) const {
    const std::vector<int> list = readers(i);
    return !is_logits(i) && std::all_of(list.begin(), list.end(), [this](int j) { return ops_[j].kind == OpKind::kLinear; });
  }

  // ---- Fusions ----

  void find_fusions(int i) {
    const ProgramOp& op = ops_[i];
    if (op.kind == OpKind::kGatherRows) return find_gather(i);
    if (!fills_output(op)) return;
    const std::vector<int> list = readers(i);
    if (list.size() != 1 || is_logits(i)) return;
    const ProgramOp& reader = ops_[list[0]];
    if (reader.kind == OpKind::kSiluMul) return find_silu(i, list[0]);
    if (reader.kind == OpKind::kRmsNorm && reader.delta == op.output) {
      if (touches_between(reader.input, i, list[0])) return;
      adds_to_[i] = reader.input, without_delta_[list[0]] = true;
    }
    if (reader.kind == OpKind::kGatherRows) find_gathered_delta(i, list[0]);
  }

  // linear -> d; gather(residual -> a); gather(d -> b); rmsNorm(a, delta = b)
  void find_gathered_delta(int linear, int gather) {
    const std::vector<int> list = readers(gather);
    if (list.size() != 1 || ops_[list[0]].kind != OpKind::kRmsNorm || ops_[list[0]].delta != ops_[gather].output) return;
    const int source = definer(ops_[list[0]].input, list[0]);
    if (source < 0 || ops_[source].kind != OpKind::kGatherRows || source < linear) return;
    const int residual = ops_[source].input;
    if (touches_between(residual, linear, source) || touches_between(residual, source, list[0])) return;
    adds_to_[linear] = residual, without_delta_[list[0]] = true, is_gone_[gather] = true;
  }

  void find_silu(int linear, int silu) {
    const ProgramOp& op = ops_[silu];
    if (ops_[linear].weight->shape().n != 2 * op.width || op.width % kTileN != 0 || !only_linears_read(silu)) return;
    stores_silu_of_[linear] = silu, silu_from_[silu] = linear;
  }

  // A gather that only a norm reads (as its input): the norm reads the token row instead.
  void find_gather(int i) {
    const std::vector<int> list = readers(i);
    if (is_gone_[i] || list.size() != 1 || is_logits(i)) return;
    const ProgramOp& reader = ops_[list[0]];
    if (reader.kind != OpKind::kRmsNorm || reader.input != ops_[i].output) return;
    if (reader.delta >= 0 && !without_delta_[list[0]]) return;
    is_gone_[i] = true, reads_token_row_[list[0]] = ops_[i].input;
  }

  // ---- Nodes ----

  Status add_rope_tables() {
    for (const ProgramOp& op : ops_) {
      if (op.kind != OpKind::kRopeKvWrite || table_of(op) >= 0) continue;
      tables_.push_back(&op);
      Node node;
      node.kind = PhaseKind::kRopeTable;
      node.rope = &op, node.table = static_cast<int>(tables_.size()) - 1;
      out_.nodes.push_back(node);
    }
    out_.num_rope_tables = static_cast<int>(tables_.size());
    return {};
  }
  int table_of(const ProgramOp& op) const {
    for (size_t i = 0; i < tables_.size(); ++i)
      if (*tables_[i]->vector == *op.vector && tables_[i]->attention_factor == op.attention_factor) return static_cast<int>(i);
    return -1;
  }

  Rows stage() const { return is_after_gather_ ? Rows::kLogits : Rows::kTokens; }

  Status lower(int i) {
    const ProgramOp& op = ops_[i];
    switch (op.kind) {
      case OpKind::kEmbedding: return lower_embedding(op);
      case OpKind::kGatherRows: return lower_gather(i);
      case OpKind::kRmsNorm:
      case OpKind::kTransform:
      case OpKind::kSiluMul: return lower_rows(i);
      case OpKind::kLinear: return lower_linear(i);
      case OpKind::kRopeKvWrite: last_rope_ = &op; return {};
      case OpKind::kAttention: return lower_attention(i);
    }
    return {};
  }

  Status lower_embedding(const ProgramOp& op) {
    Node node;
    node.kind = PhaseKind::kEmbedding, node.op = &op, node.output = op.output;
    out_.has_float[op.output] = true;
    out_.nodes.push_back(node);
    return {};
  }

  Status lower_gather(int i) {
    is_after_gather_ = true;
    if (is_gone_[i]) return {};
    Node node;
    node.kind = PhaseKind::kGather, node.rows = Rows::kLogits, node.output = ops_[i].output;
    node.source.input = ops_[i].input, node.source.width = width(ops_[i].input);
    out_.has_float[node.output] = out_.has_float[node.source.input] = true;
    out_.nodes.push_back(node);
    return {};
  }

  Status lower_rows(int i) {
    const ProgramOp& op = ops_[i];
    Node node;
    node.rows = stage();
    node.source.hadamard_block = op.hadamard_block;
    node.source.input = op.input;
    if (op.kind == OpKind::kSiluMul) {
      if (silu_from_[i] >= 0 && stores_silu_directly(i)) return {};
      node.source.width = static_cast<int>(op.width);
      if (silu_from_[i] >= 0) node.source.input = op.output;  // the linear left silu(gate) · up there
      else node.source.source = RowSource::kSilu;
    } else {
      node.source.width = width(op.input);
    }
    if (op.kind == OpKind::kRmsNorm) {
      node.source.source = RowSource::kNorm, node.source.norm_weight = op.vector, node.source.eps = op.eps;
      if (!without_delta_[i]) node.source.delta = op.delta;
      if (reads_token_row_[i] >= 0) node.source.input = reads_token_row_[i], node.rows = Rows::kTokensOfLogits;
    }
    return add_rows(i, node);
  }

  // A linear that has just added to all columns of the residual has what the norm behind it needs, but for the factor, which readers find.
  void find_made_norm(int rows) {
    Node &norm = out_.nodes[rows], &linear = out_.nodes[rows - 1];
    if (norm.kind != PhaseKind::kRows || norm.source.source != RowSource::kNorm || norm.rows != Rows::kTokens) return;
    if (linear.kind != PhaseKind::kLinear || linear.epilogue != Epilogue::kAdd || linear.rows != Rows::kTokens || linear.output != norm.source.input) return;
    const bool is_plain = norm.may_be_prologue && norm.source.hadamard_block <= 1 && is_float(norm.x_buffer) && norm.source.width % kTileK == 0;
    if (!is_plain || linear.x_buffer == norm.x_buffer || linear.op->weight->shape().n != norm.source.width) return;
    norm.is_made = true, linear.next_norm = rows;
  }

  // Where the result of op `i` is wanted: x-form for linears, float for the rest.
  Status add_rows(int i, Node node) {
    const int output = ops_[i].output;
    QSPEC_RETURN_IF_ERROR(check_rows(node.source));
    out_.has_float[node.source.input] = true;
    if (node.source.delta >= 0) out_.has_float[node.source.delta] = true;
    const std::vector<int> list = readers(i);
    const bool has_linear = std::any_of(list.begin(), list.end(), [this](int j) { return ops_[j].kind == OpKind::kLinear; });
    const bool has_other = is_logits(i) || std::any_of(list.begin(), list.end(), [this](int j) { return ops_[j].kind != OpKind::kLinear; });
    if (has_linear) {
      Node x = node;
      x.x_buffer = output, x.may_be_prologue = node.source.delta < 0 && !has_other;
      out_.has_x[output] = true;
      maker_of_[output] = static_cast<int>(out_.nodes.size());
      out_.nodes.push_back(x);
      node.source.delta = -1;  // added by now
    }
    if (has_other && !(node.source.input == output && node.source.source == RowSource::kPlain && node.source.hadamard_block == 0)) {
      node.output = output;
      out_.has_float[output] = true;
      out_.nodes.push_back(node);
    }
    return {};
  }

  Status check_rows(const RowsNode& rows) const {
    if (rows.hadamard_block > kRunK) return unsupported("`hadamardBlock` to be at most 512");
    if (rows.width % 4 != 0) return unsupported("row widths to be multiples of 4");
    if (rows.width > kMaxRowRuns * kRunK) return unsupported("rows of at most 32768 columns");
    return {};
  }

  bool stores_silu_directly(int silu) const {
    const ProgramOp& op = ops_[silu];
    return op.hadamard_block == 0 && is_float(op.output) && op.width % kTileK == 0;
  }

  Status lower_linear(int i) {
    const ProgramOp& op = ops_[i];
    const WeightShape& shape = op.weight->shape();
    Node node;
    node.kind = PhaseKind::kLinear, node.rows = stage(), node.op = &op;
    const bool is_nested = shape.kind == WeightKind::kNested8 && op.plane == Plane::kFull;
    if (!is_float(op.input)) {
      if (is_nested) return unsupported("`plane` to be hi for an integer input");
      node.mode = GemmMode::kHiInt;
    } else {
      node.mode = shape.kind == WeightKind::kDenseBf16 ? GemmMode::kDense : is_nested ? GemmMode::kHiLo : GemmMode::kHi;
    }
    QSPEC_RETURN_IF_ERROR(find_input(i, &node));
    node.output = op.output, node.output_column = op.output_column;
    if (adds_to_[i] >= 0) node.epilogue = Epilogue::kAdd, node.output = adds_to_[i];
    if (stores_silu_of_[i] >= 0) {
      node.epilogue = Epilogue::kSilu;
      node.output = ops_[stores_silu_of_[i]].output;
      if (stores_silu_directly(stores_silu_of_[i])) node.out_x = node.output, node.output = -1;
    }
    if (node.output >= 0) out_.has_float[node.output] = true;
    if (node.out_x >= 0) out_.has_x[node.out_x] = true, maker_of_[node.out_x] = -1;
    out_.nodes.push_back(node);
    return {};
  }

  // Row-wise results and attention's come in x-form; anything else is float and is rounded by a rows node of its own.
  Status find_input(int i, Node* linear) {
    const int input = ops_[i].input, source = definer(input, i);
    const OpKind kind = ops_[source].kind;
    const bool is_made = kind == OpKind::kRmsNorm || kind == OpKind::kTransform || kind == OpKind::kSiluMul || kind == OpKind::kAttention;
    if (!is_made && rounded_ != std::make_pair(input, source)) {
      Node node;
      node.rows = stage();
      node.source.input = input, node.source.width = width(input);
      QSPEC_RETURN_IF_ERROR(check_rows(node.source));
      node.x_buffer = input, node.may_be_prologue = true;
      out_.has_float[input] = out_.has_x[input] = true;
      maker_of_[input] = static_cast<int>(out_.nodes.size());
      out_.nodes.push_back(node);
      rounded_ = {input, source};
    }
    linear->x_buffer = input;
    const auto maker = maker_of_.find(input);
    linear->made_by = maker == maker_of_.end() ? -1 : maker->second;
    if (linear->made_by >= 0) {
      linear->source = out_.nodes[linear->made_by].source;
      if (out_.nodes[linear->made_by].rows == Rows::kTokensOfLogits) linear->rows = Rows::kTokensOfLogits;
    }
    return {};
  }

  Status lower_attention(int i) {
    const ProgramOp& op = ops_[i];
    QSPEC_RETURN_IF_ERROR(check_attention(op));
    Node node;
    node.kind = PhaseKind::kAttention, node.op = &op, node.rope = last_rope_, node.table = table_of(*last_rope_);
    out_.has_float[op.input] = true;
    const int columns = op.num_heads * op.head_dim;
    const bool is_direct = op.hadamard_block == 0 && is_float(op.output) && columns % kTileK == 0 && only_linears_read(i);
    if (is_direct) {
      node.x_buffer = op.output, out_.has_x[op.output] = true, maker_of_[op.output] = -1;
      out_.nodes.push_back(node);
      return {};
    }
    node.output = op.output, out_.has_float[op.output] = true;
    out_.nodes.push_back(node);
    Node rows;
    rows.source.input = op.output, rows.source.width = columns, rows.source.hadamard_block = op.hadamard_block;
    return add_rows(i, rows);
  }

  Status check_attention(const ProgramOp& op) {
    const int group = op.num_heads / op.num_kv_heads;
    if (op.head_dim != 32 && op.head_dim != 64 && op.head_dim != 96 && op.head_dim != 128)
      return unsupported("`headDim` to be 32, 64, 96 or 128 but received " + std::to_string(op.head_dim));
    if (group > kQueryColumns) return unsupported("at most 32 query heads a KV head but received " + std::to_string(group));
    if (last_rope_ == nullptr || last_rope_->input != op.input || last_rope_->layer != op.layer)
      return unsupported("a ropeKvWrite of the same layer before attention");
    if (out_.num_heads != 0 && (out_.num_heads != op.num_heads || out_.num_kv_heads != op.num_kv_heads || out_.head_dim != op.head_dim))
      return unsupported("the same heads in every layer");
    out_.num_heads = op.num_heads, out_.num_kv_heads = op.num_kv_heads, out_.head_dim = op.head_dim;
    return {};
  }

  const Program& program_;
  const std::vector<ProgramOp>& ops_;
  LoweredProgram& out_;
  int index_ = 0;
  bool is_after_gather_ = false;
  const ProgramOp* last_rope_ = nullptr;
  std::vector<const ProgramOp*> tables_;
  std::vector<bool> is_gone_, without_delta_;
  std::vector<int> adds_to_;         // linear: residual that it adds to
  std::vector<int> stores_silu_of_;  // linear: the siluMul that it does
  std::vector<int> silu_from_;       // siluMul: the linear that does it
  std::vector<int> reads_token_row_;  // rmsNorm: float buffer whose token rows it reads
  std::map<int, int> maker_of_;      // buffer -> rows node that makes its x-form, -1: whoever computes it
  std::pair<int, int> rounded_{-1, -1};
};

}  // namespace

Status lower_program(const Program& program, LoweredProgram* out) { return Lowerer(program, out).run(); }

}  // namespace qspec::cuda
