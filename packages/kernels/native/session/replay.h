// One program over its scratch buffers: binds the rows of a batch to op params and runs the ops one after another on the pool.
#pragma once
#include <chrono>
#include <cstdint>
#include <vector>

#include "cpu/thread_pool.h"
#include "qspec/ops.h"
#include "session/kv_pool.h"
#include "session/memory.h"
#include "session/program.h"

namespace qspec {

// Time by op kind; the entry after the last op kind is sampling.
struct Profile {
  static constexpr int kSample = kNumOpKinds;
  struct Entry {
    int64_t calls = 0;
    int64_t nanoseconds = 0;
  };
  bool is_on = false;
  Entry entries[kNumOpKinds + 1];

  void add(int index, std::chrono::steady_clock::time_point start) {
    ++entries[index].calls;
    entries[index].nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
  }
};

// What one forward pass works on. `batch.rows` tokens; logits for `logit_rows`, which index them.
struct ReplayRows {
  const int32_t* tokens;
  BatchRows batch;
  const int32_t* logit_rows;
  int64_t num_logit_rows;
};

class Replay {
 public:
  // Bytes of scratch for `max_rows` and `max_logit_rows`; buffers lie one after another.
  static size_t scratch_bytes(const Program& program, int64_t max_rows, int64_t max_logit_rows);
  // `program` was validated; it, `scratch` and `kv` outlive this.
  Replay(const Program& program, const OpTable& ops, const KvPool& kv, char* scratch, int64_t max_rows, int64_t max_logit_rows);

  // Logits [num_logit_rows, vocab], valid until the next run on the same scratch.
  const float* run(const ReplayRows& rows, ThreadPool& pool, Profile& profile);

 private:
  struct Buffer {
    float* values = nullptr;
    QuantizedRows quantized{};
    int64_t width = 0;
  };

  void run_op(const ProgramOp& op, const ReplayRows& rows, int64_t num_rows, ThreadPool& pool);
  RowSink sink(const ProgramOp& op) const;

  const Program& program_;
  const OpTable& ops_;
  const KvPool& kv_;
  std::vector<Buffer> buffers_;
};

}  // namespace qspec
