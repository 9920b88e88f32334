// A recorded program as the step kernel's phases, before the number of rows is known: which ops are fused, and where each result lies.
//
//   linear -> delta, rmsNorm(residual, delta)      the linear adds to the residual itself; if only linears read the norm's result as bfloat16, unrotated, it
//                                                  makes that, too
//   gatherRows -> rmsNorm                          the norm reads the token row
//   linear (gate | up) -> siluMul                  the linear stores silu(gate) · up
//   ropeKvWrite -> attention                       attention rotates q, and k on its way into the cache
//   rmsNorm, transform, siluMul -> linears         rows node: computed by each block for itself when there are few rows, else once
#pragma once
#include <vector>

#include "session/program.h"
#include "step/step_program.h"

namespace qspec::cuda {

struct RowsNode {
  RowSource source = RowSource::kPlain;
  int input = -1, delta = -1;  // float buffers
  int width = 0, hadamard_block = 0;
  VectorRef norm_weight;
  float eps = 0;
};

struct Node {
  PhaseKind kind = PhaseKind::kRows;
  Rows rows = Rows::kTokens;
  const ProgramOp* op = nullptr;    // embedding, linear, attention
  const ProgramOp* rope = nullptr;  // attention: its ropeKvWrite; kRopeTable: the first that uses the table
  RowsNode source;                  // kRows; linear: how its input is made, when made_by >= 0
  int made_by = -1;                 // linear: index of the rows node that makes its input
  bool may_be_prologue = false;     // kRows: only linears read the result, and computing it twice does no harm
  bool is_made = false;             // kRows: by the linear before it
  int next_norm = -1;               // linear that adds: index of the rows node whose norm it makes
  int x_buffer = -1;                // kRows, attention, kSilu: written in x-form; linear: read
  int output = -1;                  // float buffer: linear, embedding, gather, attention, plain kRows
  GemmMode mode = GemmMode::kDense;
  Epilogue epilogue = Epilogue::kStore;
  int out_x = -1;                   // kSilu: buffer whose x-form is written; -1: `output`
  int64_t output_column = 0;
  int table = 0;                    // attention, kRopeTable: which rope table
};

struct LoweredProgram {
  const Program* program = nullptr;
  std::vector<Node> nodes;
  std::vector<bool> has_float, has_x;  // by buffer: which forms are used
  int num_rope_tables = 0;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;  // of attention; 0 when there is none
};

// kUnsupported, naming the program and the op, where there is no kernel: head_dim, query heads a KV head, widths, rotations over 512.
// `program` was validated and outlives the result.
Status lower_program(const Program& program, LoweredProgram* out);

}  // namespace qspec::cuda
