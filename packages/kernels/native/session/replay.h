// The CPU's way to run one program over its scratch buffers: binds the rows of a batch to op params and runs the ops one after another on the pool.
#pragma once
#include <cstdint>
#include <vector>

#include "cpu/thread_pool.h"
#include "qspec/ops.h"
#include "qspec/packing.h"
#include "session/kv_pool.h"
#include "session/memory.h"
#include "session/rows.h"

namespace qspec {

class Replay {
 public:
  // Bytes of scratch for `max_rows` and `max_logit_rows`; buffers lie one after another.
  static size_t scratch_bytes(const Program& program, int64_t max_rows, int64_t max_logit_rows);
  // `program` was validated and its weights are the CPU's; it, `scratch` and `kv` outlive this.
  Replay(const Program& program, const OpTable& ops, const KvPool& kv, char* scratch, int64_t max_rows, int64_t max_logit_rows);

  // Logits [num_logit_rows, vocab], valid until the next run on the same scratch.
  const float* run(const ReplayRows& rows, ThreadPool& pool, Profile& profile);

 private:
  struct Buffer {
    float* values = nullptr;
    QuantizedRows quantized{};
    int64_t width = 0;
  };

  void run_op(size_t index, const ReplayRows& rows, int64_t num_rows, ThreadPool& pool);
  RowSink sink(const ProgramOp& op) const;

  const Program& program_;
  const OpTable& ops_;
  const KvPool& kv_;
  std::vector<Buffer> buffers_;
  std::vector<const PackedWeight*> weights_;  // one an op, nullptr where it has none
};

}  // namespace qspec
