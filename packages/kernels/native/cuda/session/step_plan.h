// A lowered program bound to memory: its phases for every class of rows, in device memory, ready to launch.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "common/device.h"
#include "session/device_kv.h"
#include "session/lowering.h"
#include "step/step_launch.h"

namespace qspec::cuda {

// What does not depend on the program.
struct StepEnvironment {
  int num_blocks = 0;          // of the grid: one a multiprocessor
  size_t shared_bytes = 0;     // most a block may have
  const DeviceKv* kv = nullptr;
  int64_t max_rows = 0;        // of a call
  bool has_clusters = false;   // of blocks that reach each other's shared memory: linears of long launches need them
};

// From so many rows on linears are sooner done as kernels of their own: where the widest has many weights a multiprocessor, or not.
constexpr int kLeastLongRows = 9, kLeastLongRowsOfSmall = 17;
constexpr int64_t kManyWeights = 1 << 19;
// Rows of a launch of the program that may be: more than kMaxStepRows where it has long launches, and calls so many rows.
int most_launch_rows(const LoweredProgram& program, const StepEnvironment& environment);

// Scratch of a program for launches of up to `rows` rows, in one device allocation that several programs may share: contents don't survive a launch.
class StepBuffers {
 public:
  static size_t bytes(const LoweredProgram& program, int rows);
  StepBuffers(const LoweredProgram& program, int rows, uint8_t* base);

  int rows() const { return rows_; }
  float* values(int buffer) const { return floats_[buffer]; }
  XForm x_form(const LoweredProgram& program, int buffer) const;
  float2* rope_table(int index) const { return tables_[index]; }
  // Where words are posted (common/primitives.cuh): of one launch.
  uint8_t* posts() const { return posts_; }

 private:
  int rows_;
  std::vector<float*> floats_;
  std::vector<uint8_t*> x_forms_;
  std::vector<float2*> tables_;
  uint8_t* posts_ = nullptr;
};

// Float32 vectors of programs on the device, each once.
class VectorStore {
 public:
  Status add(const LoweredProgram& program);
  const float* find(const VectorRef& vector) const { return vector ? on_device_.at(vector.get()).as<float>() : nullptr; }
  size_t bytes() const;

 private:
  Status add(const VectorRef& vector);
  std::map<const void*, DeviceBuffer> on_device_;
};

class StepPlan {
 public:
  // `program`, `vectors` and `buffers` outlive it. kUnsupported when a product's activations don't fit a block's shared memory.
  static Status create(const LoweredProgram& program, const StepEnvironment& environment, const VectorStore& vectors, const StepBuffers& buffers,
                       bool is_draft, std::unique_ptr<StepPlan>* out);

  const float* logits() const { return logits_; }
  // Of one launch: fewer where a multiprocessor's shared memory is short. Of a long one; 0 where there are none.
  int max_rows(bool is_long) const;
  int least_long_rows() const { return least_long_rows_; }
  // Shared memory that attention's teams may have in every class.
  size_t attention_room() const {
    size_t room = classes_[0].config.room;
    for (int c = 1; c < num_classes_; ++c) room = std::min(room, classes_[c].config.room);
    return room;
  }
  const StepConfig& config(int row_class) const { return classes_[row_class].config; }
  // From buffers.posts() on; all kNotThere when a launch begins.
  size_t posted_bytes(int row_class) const { return classes_[row_class].posted_bytes; }
  const std::vector<Phase>& phases(int row_class) const { return classes_[row_class].phases; }  // host copy
  // Phases that one kernel does: all of them, but of a long launch each linear, the rows that it reads, attention, and what else lies between.
  enum class Kernel { kStep, kGemm, kRows, kAttention };
  struct Stretch {
    int first, count;
    Kernel kernel;
    bool of_logits;  // its rows are those of logits
  };
  const std::vector<Stretch>& stretches(int row_class) const { return classes_[row_class].stretches; }
  // Fills everything of StepParams but the batch and the workspace, for all phases.
  void bind(int row_class, StepParams* params) const;

  // Floats of StepWorkspace::partials, and counters, that launches need.
  int64_t partial_floats() const { return partial_floats_; }
  int64_t num_counters() const { return num_counters_; }

 private:
  friend class PhaseBuilder;
  struct ClassPlan {
    std::vector<Phase> phases, linears;
    std::vector<int> shape_linears;
    std::vector<Stretch> stretches;
    StepConfig config;
    size_t posted_bytes = 0;
    const Phase *on_device = nullptr, *linears_on_device = nullptr;
  };
  ClassPlan classes_[kNumRowClasses];
  int num_classes_ = 0, least_long_rows_ = 0;
  DeviceBuffer memory_;
  const float* logits_ = nullptr;
  int64_t partial_floats_ = 0, num_counters_ = 0;
};

}  // namespace qspec::cuda
