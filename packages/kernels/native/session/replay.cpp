#include "session/replay.h"

#include <algorithm>

namespace qspec {

namespace {
size_t code_bytes(const BufferSpec& buffer, int64_t rows) { return align_up(static_cast<size_t>(rows * buffer.width)); }
size_t group_bytes(const BufferSpec& buffer, int64_t rows) {
  return align_up(static_cast<size_t>(rows * (buffer.width / buffer.group_size)) * sizeof(float));
}
size_t buffer_bytes(const BufferSpec& buffer, int64_t rows) {
  if (!buffer.is_quantized) return align_up(static_cast<size_t>(rows * buffer.width) * sizeof(float));
  return code_bytes(buffer, rows) + 2 * group_bytes(buffer, rows);
}

// Most rows that a buffer ever has: those of all tokens if any op before the first gather writes it, else those of the logits.
std::vector<int64_t> rows_of_buffers(const Program& program, int64_t max_rows, int64_t max_logit_rows) {
  std::vector<int64_t> rows(program.buffers.size(), max_logit_rows);
  for (const ProgramOp& op : program.ops) {
    if (op.kind == OpKind::kGatherRows) break;
    if (op.output >= 0) rows[op.output] = std::max(max_rows, max_logit_rows);
  }
  return rows;
}

// Row-wise ops over few values are done before another thread could have woken.
constexpr int64_t kValuesWorthSharing = 4096;

int parts_for(int64_t rows, int64_t width, const ThreadPool& pool) {
  if (rows * width < kValuesWorthSharing) return 1;
  return static_cast<int>(std::min<int64_t>(rows, pool.num_threads()));
}
}  // namespace

size_t Replay::scratch_bytes(const Program& program, int64_t max_rows, int64_t max_logit_rows) {
  const std::vector<int64_t> rows = rows_of_buffers(program, max_rows, max_logit_rows);
  size_t bytes = 0;
  for (size_t i = 0; i < program.buffers.size(); ++i) bytes += buffer_bytes(program.buffers[i], rows[i]);
  return bytes;
}

Replay::Replay(const Program& program, const OpTable& ops, const KvPool& kv, char* scratch, int64_t max_rows, int64_t max_logit_rows)
    : program_(program), ops_(ops), kv_(kv) {
  const std::vector<int64_t> rows = rows_of_buffers(program, max_rows, max_logit_rows);
  for (size_t i = 0; i < program.buffers.size(); ++i) {
    const BufferSpec& spec = program.buffers[i];
    Buffer buffer;
    buffer.width = spec.width;
    if (spec.is_quantized) {
      char* const groups = scratch + code_bytes(spec, rows[i]);
      buffer.quantized = {reinterpret_cast<int8_t*>(scratch), reinterpret_cast<float*>(groups),
                          reinterpret_cast<int32_t*>(groups + group_bytes(spec, rows[i])), spec.bits, spec.group_size, spec.per_token};
    } else {
      buffer.values = reinterpret_cast<float*>(scratch);
    }
    buffers_.push_back(buffer);
    scratch += buffer_bytes(spec, rows[i]);
  }
  for (const ProgramOp& op : program.ops) {
    weights_.push_back(op.weight ? &static_cast<const ResidentWeight&>(*op.weight).view() : nullptr);
  }
}

const float* Replay::run(const ReplayRows& rows, ThreadPool& pool, Profile& profile) {
  int64_t num_rows = rows.batch.rows;
  for (size_t i = 0; i < program_.ops.size(); ++i) {
    const OpKind kind = program_.ops[i].kind;
    if (kind == OpKind::kGatherRows) num_rows = rows.num_logit_rows;
    if (num_rows == 0) continue;
    if (!profile.is_on) {
      run_op(i, rows, num_rows, pool);
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    run_op(i, rows, num_rows, pool);
    profile.add(static_cast<int>(kind), start);
  }
  return buffers_[program_.logits].values;
}

RowSink Replay::sink(const ProgramOp& op) const {
  return {buffers_[op.output].values, buffers_[op.output].quantized, op.hadamard_block};
}

void Replay::run_op(size_t index, const ReplayRows& rows, int64_t num_rows, ThreadPool& pool) {
  const ProgramOp& op = program_.ops[index];
  const Buffer* const input = op.input >= 0 ? &buffers_[op.input] : nullptr;
  const int all = pool.num_threads();
  const auto values = [](const VectorRef& vector) { return vector ? vector->data() : nullptr; };
  switch (op.kind) {
    case OpKind::kEmbedding: {
      const EmbeddingParams params{weights_[index], rows.tokens, buffers_[op.output].values, num_rows};
      return pool.run(parts_for(num_rows, params.table->k, pool), [&](Part part) { ops_.embedding(params, part); });
    }
    case OpKind::kGatherRows: {
      const GatherRowsParams params{input->values, rows.logit_rows, buffers_[op.output].values, num_rows, input->width};
      return pool.run(1, [&](Part part) { ops_.gather_rows(params, part); });
    }
    case OpKind::kRmsNorm: {
      const float* const delta = op.delta >= 0 ? buffers_[op.delta].values : nullptr;
      const RmsNormParams params{input->values, delta, op.vector->data(), sink(op), num_rows, input->width, op.eps};
      return pool.run(parts_for(num_rows, input->width, pool), [&](Part part) { ops_.rms_norm(params, part); });
    }
    case OpKind::kTransform: {
      const TransformParams params{input->values, sink(op), num_rows, input->width};
      return pool.run(parts_for(num_rows, input->width, pool), [&](Part part) { ops_.transform(params, part); });
    }
    case OpKind::kLinear: {
      const QuantizedRows* const quantized = input->values ? nullptr : &input->quantized;
      const LinearParams params{weights_[index], op.plane, input->values, quantized, values(op.vector), buffers_[op.output].values,
                                num_rows, buffers_[op.output].width, op.output_column};
      return pool.run(all, [&](Part part) { ops_.linear(params, part); });
    }
    case OpKind::kRopeKvWrite: {
      const RopeKvWriteParams params{input->values, rows.batch, kv_.layer(op.layer), op.num_heads, op.vector->data(),
                                     op.attention_factor, values(op.q_norm), values(op.k_norm), op.eps};
      return pool.run(parts_for(num_rows, input->width, pool), [&](Part part) { ops_.rope_kv_write(params, part); });
    }
    case OpKind::kAttention: {
      const AttentionParams params{input->values, input->width, rows.batch, kv_.layer(op.layer), op.num_heads, op.scale, op.sliding_window, sink(op)};
      return pool.run(all, [&](Part part) { ops_.attention(params, part); });
    }
    case OpKind::kSiluMul: {
      const SiluMulParams params{input->values, sink(op), num_rows, op.width};
      return pool.run(parts_for(num_rows, 2 * op.width, pool), [&](Part part) { ops_.silu_mul(params, part); });
    }
  }
}

}  // namespace qspec
