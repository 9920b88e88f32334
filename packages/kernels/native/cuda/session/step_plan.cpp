#include "session/step_plan.h"

#include <algorithm>
#include <cstring>

#include "gemm/cluster_gemm.h"
#include "step/rows_kernel.h"
#include "weights/device_weight.h"

namespace qspec::cuda {

namespace {

constexpr int kLongRow = 8192;

size_t aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
int log2_of(int value) {
  int shift = 0;
  while (1 << shift < value) ++shift;
  return shift;
}
int64_t x_bytes(const BufferSpec& spec, int columns) {
  const int64_t tiles = (spec.width + kTileK - 1) / kTileK;
  return tiles * columns * (spec.is_quantized ? 64 : 128);
}
int64_t scale_bytes(const BufferSpec& spec, int columns) { return spec.is_quantized ? spec.width / spec.group_size * columns * 4 : 0; }
// Of 16 elements up to 32 rows, of a run with more.
size_t square_bytes(const BufferSpec& spec, int rows) {
  constexpr int kRunTilesOfN = kRunK / kTileN;
  return static_cast<size_t>(row_squares(static_cast<int>(spec.width)) / kRunTilesOfN) * std::max(kPassRows * kRunTilesOfN, rows) * 4;
}
size_t float_bytes(const LoweredProgram& program, size_t buffer, int rows) {
  return static_cast<size_t>(program.program->buffers[buffer].width) * (static_cast<int>(buffer) == program.program->logits ? kMaxLogitRows : rows) * 4;
}
// What a posted result takes: float32 rows, or an x-form with its squares behind it.
size_t posted_float_bytes(const BufferSpec& spec, int columns) { return aligned(static_cast<size_t>(spec.width) * columns * 4); }
size_t posted_x_bytes(const BufferSpec& spec, int columns) { return aligned(x_bytes(spec, columns)) + aligned(row_squares(static_cast<int>(spec.width)) * columns * 4); }
// Of all nodes, as if each posted all it could.
size_t most_posted_bytes(const LoweredProgram& program) {
  size_t total = 0;
  for (const Node& node : program.nodes) {
    if (node.kind != PhaseKind::kLinear && node.kind != PhaseKind::kAttention) continue;
    const int x = node.kind == PhaseKind::kAttention ? node.x_buffer : node.next_norm >= 0 ? program.nodes[node.next_norm].x_buffer : node.out_x;
    if (node.output >= 0) total += posted_float_bytes(program.program->buffers[node.output], kPostedRows);
    if (x >= 0) total += posted_x_bytes(program.program->buffers[x], kPostedRows);
  }
  return total;
}
const DeviceWeight& device_weight(const WeightRef& weight) { return static_cast<const ResidentDeviceWeight&>(*weight).view(); }

int find_least_long_rows(const LoweredProgram& program, const StepEnvironment& environment) {
  int64_t widest = 0;
  for (const Node& node : program.nodes) {
    if (node.kind != PhaseKind::kLinear || node.rows != Rows::kTokens) continue;
    const DeviceWeight& weight = device_weight(node.op->weight);
    widest = std::max(widest, static_cast<int64_t>(weight.n) * weight.k);
  }
  return widest >= kManyWeights * environment.num_blocks ? kLeastLongRows : kLeastLongRowsOfSmall;
}

// Where linears and attention have what that takes, and calls so many rows.
bool has_long_launches(const LoweredProgram& program, const StepEnvironment& environment) {
  if (environment.max_rows < find_least_long_rows(program, environment) || !environment.has_clusters || environment.shared_bytes < cluster_gemm_shared_bytes()) return false;
  if (program.head_dim != 0 && !has_group_teams(program.head_dim, environment.kv->shape().format)) return false;
  return std::all_of(program.nodes.begin(), program.nodes.end(), [](const Node& node) {
    return node.kind != PhaseKind::kLinear || node.rows != Rows::kTokens || has_cluster_gemm(node.mode, device_weight(node.op->weight));
  });
}

}  // namespace

int most_launch_rows(const LoweredProgram& program, const StepEnvironment& environment) {
  if (!has_long_launches(program, environment)) return kMaxStepRows;
  return std::max(kMaxStepRows, kRowClasses[row_class_of(static_cast<int>(std::min<int64_t>(environment.max_rows, kMaxLongRows)), true)].max_rows);
}

// ---- Buffers ----

size_t StepBuffers::bytes(const LoweredProgram& program, int rows) {
  size_t total = 0;
  for (size_t i = 0; i < program.program->buffers.size(); ++i) {
    const BufferSpec& spec = program.program->buffers[i];
    if (program.has_float[i]) total += aligned(float_bytes(program, i, rows));
    if (program.has_x[i]) total += aligned(x_bytes(spec, rows)) + 2 * aligned(scale_bytes(spec, rows)) + aligned(square_bytes(spec, rows));
  }
  return total + program.num_rope_tables * aligned(rows * kMaxHeadDim / 2 * sizeof(float2)) + most_posted_bytes(program);
}

StepBuffers::StepBuffers(const LoweredProgram& program, int rows, uint8_t* base) : rows_(rows) {
  const auto take = [&base](size_t bytes) { return std::exchange(base, base + aligned(bytes)); };
  for (size_t i = 0; i < program.program->buffers.size(); ++i) {
    const BufferSpec& spec = program.program->buffers[i];
    floats_.push_back(program.has_float[i] ? reinterpret_cast<float*>(take(float_bytes(program, i, rows))) : nullptr);
    x_forms_.push_back(nullptr);
    if (!program.has_x[i]) continue;
    x_forms_.back() = take(x_bytes(spec, rows));
    take(scale_bytes(spec, rows)), take(scale_bytes(spec, rows)), take(square_bytes(spec, rows));
  }
  for (int i = 0; i < program.num_rope_tables; ++i) tables_.push_back(reinterpret_cast<float2*>(take(rows * kMaxHeadDim / 2 * sizeof(float2))));
  posts_ = base;
}

XForm StepBuffers::x_form(const LoweredProgram& program, int buffer) const {
  const BufferSpec& spec = program.program->buffers[buffer];
  XForm x{};
  x.bits = spec.is_quantized ? static_cast<uint8_t>(spec.bits) : 16;
  x.data = x_forms_[buffer];
  uint8_t* behind = x.data + aligned(x_bytes(spec, rows_));
  const size_t scales = aligned(scale_bytes(spec, rows_));
  x.squares = reinterpret_cast<float*>(behind + 2 * scales);
  if (!spec.is_quantized) return x;
  x.group_shift = static_cast<uint8_t>(log2_of(spec.group_size)), x.per_token = spec.per_token;
  x.scales = reinterpret_cast<float*>(behind), x.sums = reinterpret_cast<int32_t*>(behind + scales);
  return x;
}

// ---- Vectors ----

Status VectorStore::add(const VectorRef& vector) {
  if (!vector || on_device_.count(vector.get()) != 0) return {};
  DeviceBuffer buffer;
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(vector->size() * 4, "a vector", &buffer));
  QSPEC_RETURN_IF_ERROR(buffer.upload(vector->data(), vector->size() * 4));
  on_device_.emplace(vector.get(), std::move(buffer));
  return {};
}

Status VectorStore::add(const LoweredProgram& program) {
  for (const ProgramOp& op : program.program->ops)
    for (const VectorRef& vector : {op.vector, op.q_norm, op.k_norm}) QSPEC_RETURN_IF_ERROR(add(vector));
  return {};
}

size_t VectorStore::bytes() const {
  size_t total = 0;
  for (const auto& [key, buffer] : on_device_) total += buffer.bytes();
  return total;
}

// ---- Phases ----

class PhaseBuilder {
 public:
  PhaseBuilder(const LoweredProgram& program, const StepEnvironment& environment, const VectorStore& vectors, const StepBuffers& buffers, bool is_draft,
               StepPlan* plan)
      : program_(program), environment_(environment), vectors_(vectors), buffers_(buffers), is_draft_(is_draft), plan_(*plan) {}

  Status build(int row_class) {
    class_ = kRowClasses[row_class];
    blocks_ = blocks_of(class_);
    demand_ = {};
    const bool has_codes = environment_.kv->shape().format != KvFormat::kBf16;
    if (program_.head_dim != 0) demand_.attention_bytes = team_bytes(program_.head_dim, has_codes, TeamWay::kColumns, kMaxTeamWarps, kRingTurns[2]);
    if (program_.head_dim != 0 && class_.is_long) demand_.attention_bytes = warpgroup_team_bytes(program_.head_dim, has_codes);
    StepPlan::ClassPlan& out = plan_.classes_[row_class];
    std::vector<const Node*> nodes;
    for (size_t i = 0; i < program_.nodes.size(); ++i)
      if (!is_left_out(i)) nodes.push_back(&program_.nodes[i]);
    for (size_t i = 0; i < nodes.size(); ++i) {
      const Node& node = *nodes[i];
      Phase phase;
      std::memset(static_cast<void*>(&phase), 0, sizeof phase);
      posts_ = i + 1 < nodes.size() && is_posted(node, *nodes[i + 1]);
      QSPEC_RETURN_IF_ERROR(fill(node, &phase));
      out.phases.push_back(phase);
      if (phase.kind != PhaseKind::kLinear || is_alone(phase) || !has_reduce(phase.linear)) continue;
      phase.kind = PhaseKind::kReduce;
      out.phases.push_back(phase);
    }
    out.posted_bytes = static_cast<size_t>(next_post_ - buffers_.posts());
    for (size_t i = 0; i < out.phases.size(); ++i) out.phases[i].barrier_after = i + 1 < out.phases.size() && needs_barrier(out.phases, i);
    add_late_barriers(out.phases);
    find_stretches(&out);
    for (Phase& phase : out.phases) {
      if (phase.kind != PhaseKind::kLinear || is_alone(phase)) continue;
      const int shape = shape_of(phase.linear, out);
      phase.shape_index = static_cast<int16_t>(shape), phase.linear_index = static_cast<int16_t>(out.linears.size());
      if (shape < 0) return {StatusCode::kUnsupported, "Expected program `" + program_.program->name + "` to have at most 24 linears of different shapes on CUDA; use the CPU backend."};
      out.linears.push_back(phase);
    }
    if (configure_step(class_, demand_, step_fixed_bytes(static_cast<int>(out.linears.size()), static_cast<int>(out.shape_linears.size())), environment_.shared_bytes, &out.config)) return {};
    return {StatusCode::kUnsupported, "Expected program `" + program_.program->name + "` to fit a multiprocessor's " + std::to_string(environment_.shared_bytes) +
                                          " bytes of shared memory but its activations need " + std::to_string(demand_.x_bytes) + "; use the CPU backend."};
  }

 private:
  // With few rows every block computes its linear's input for itself: cheaper than one more barrier, but not for wide rows that are quantised.
  bool is_prologue(const Node& rows) const {
    const bool is_long = rows.x_buffer >= 0 && program_.program->buffers[rows.x_buffer].is_quantized && rows.source.width > kLongRow;
    return class_.max_rows <= kPrologueRows && rows.may_be_prologue && !is_made(rows) && !is_long;
  }
  // By the linear before it. With very many rows a phase of its own costs less.
  bool is_made(const Node& rows) const { return rows.is_made && !cuda::is_wide(class_); }
  bool is_left_out(size_t i) const { return program_.nodes[i].kind == PhaseKind::kRows && (is_made(program_.nodes[i]) || is_prologue(program_.nodes[i])); }

  // Of a long launch; what comes of logits has few rows.
  StepPlan::Kernel kernel_of(const Phase& phase) const {
    if (!class_.is_long || phase.rows != Rows::kTokens) return StepPlan::Kernel::kStep;
    if (phase.kind == PhaseKind::kLinear) return StepPlan::Kernel::kGemm;
    return phase.kind == PhaseKind::kAttention ? StepPlan::Kernel::kAttention : has_rows_kernel(phase) ? StepPlan::Kernel::kRows : StepPlan::Kernel::kStep;
  }
  bool is_alone(const Phase& phase) const { return kernel_of(phase) != StepPlan::Kernel::kStep; }
  void find_stretches(StepPlan::ClassPlan* plan) const {
    std::vector<Phase>& phases = plan->phases;
    for (int i = 0; i < static_cast<int>(phases.size()); ++i) {
      const bool of_logits = phases[i].rows != Rows::kTokens;
      const bool goes_on = i > 0 && !is_alone(phases[i]) && !is_alone(phases[i - 1]) && !(class_.is_long && of_logits != plan->stretches.back().of_logits);
      if (goes_on) ++plan->stretches.back().count;
      else plan->stretches.push_back({i, 1, kernel_of(phases[i]), of_logits});
    }
    for (const StepPlan::Stretch& stretch : plan->stretches) phases[stretch.first + stretch.count - 1].barrier_after = false;  // a kernel's end is one
  }

  Status fill(const Node& node, Phase* phase) {
    phase->kind = node.kind, phase->rows = node.rows;
    switch (node.kind) {
      case PhaseKind::kEmbedding:
        phase->embedding = {device_weight(node.op->weight), redefine(node.output)};
        return {};
      case PhaseKind::kRopeTable:
        phase->rope_table = {vectors_.find(node.rope->vector), node.rope->attention_factor, node.rope->head_dim / 2, buffers_.rope_table(node.table)};
        return {};
      case PhaseKind::kGather:
        phase->source.input = values(node.source.input), phase->source.width = node.source.width;
        phase->linear.output = redefine(node.output);
        return {};
      case PhaseKind::kRows:
        fill_source(node.source, &phase->source);
        if (node.output >= 0) phase->linear.output = redefine(node.output);
        else redefine_x(node.x_buffer), phase->x = x_form(node, node.x_buffer);
        return {};
      case PhaseKind::kLinear: return fill_linear(node, phase);
      case PhaseKind::kReduce: return {};  // comes with its linear
      case PhaseKind::kAttention: fill_attention(node, &phase->attention); return {};
    }
    return {};
  }

  // ---- Where results lie: each posted one has a place of its own ----

  bool is_in_posts(const void* place) const {
    const auto* p = static_cast<const uint8_t*>(place);
    return p >= buffers_.posts() && p < next_post_;
  }
  uint8_t* take_posts(size_t bytes) { return std::exchange(next_post_, next_post_ + bytes); }
  float* values(int buffer) const {
    const auto found = values_at_.find(buffer);
    return found == values_at_.end() ? buffers_.values(buffer) : found->second;
  }
  XForm x_form(int buffer) const {
    XForm x = buffers_.x_form(program_, buffer);
    const auto found = x_at_.find(buffer);
    if (found == x_at_.end()) return x;
    x.data = found->second, x.awaits = true;
    x.squares = reinterpret_cast<float*>(x.data + aligned(x_bytes(program_.program->buffers[buffer], blocks_.columns())));
    return x;
  }
  // Where the present node writes a buffer.
  float* redefine(int buffer) {
    values_at_.erase(buffer);
    if (posts_) values_at_[buffer] = reinterpret_cast<float*>(take_posts(posted_float_bytes(program_.program->buffers[buffer], blocks_.columns())));
    return values(buffer);
  }
  void redefine_x(int buffer) {
    x_at_.erase(buffer);
    if (posts_) x_at_[buffer] = take_posts(posted_x_bytes(program_.program->buffers[buffer], blocks_.columns()));
  }

  // Is a node's result posted? Where few rows go on to the next phase, all of it is the node's work, and no part of k is another block's.
  bool is_posted(const Node& node, const Node& next) const {
    if (class_.max_rows > kPostedRows || node.rows != Rows::kTokens || next.rows != Rows::kTokens) return false;
    if (node.kind == PhaseKind::kLinear) {
      const WeightShape& shape = node.op->weight->shape();
      const bool is_whole = node.epilogue == Epilogue::kSilu || (shape.n == program_.program->buffers[node.output].width && node.output_column == 0);
      if (!is_whole || shape.n % kTileN != 0 || node.output == program_.program->logits || num_parts(node, device_weight(node.op->weight)) > 1) return false;
      if (node.epilogue == Epilogue::kSilu && node.out_x < 0) return false;
    } else if (node.kind != PhaseKind::kAttention) {
      return false;
    }
    return reads(next, node);
  }
  // Does `next` take its input from what `node` leaves?
  bool reads(const Node& next, const Node& node) const {
    if (next.kind == PhaseKind::kAttention) return node.output >= 0 && next.op->input == node.output;
    if (next.kind != PhaseKind::kLinear || num_parts(next, device_weight(next.op->weight)) > 1) return false;
    if (next.made_by >= 0 && is_prologue(program_.nodes[next.made_by])) return node.output >= 0 && next.source.input == node.output;
    if (program_.program->buffers[next.x_buffer].is_quantized) return false;
    const bool makes_norm = node.next_norm >= 0 && is_made(program_.nodes[node.next_norm]);
    return next.x_buffer == (makes_norm ? program_.nodes[node.next_norm].x_buffer : node.kind == PhaseKind::kAttention ? node.x_buffer : node.out_x);
  }

  // Only a norm leaves factors behind.
  XForm x_form(const Node& node, int buffer) const {
    XForm x = x_form(buffer);
    if (node.source.source != RowSource::kNorm) x.squares = nullptr;
    return x;
  }

  void fill_source(const RowsNode& node, RowsSpec* spec) const {
    spec->source = node.source;
    spec->hadamard_shift = static_cast<uint8_t>(log2_of(std::max(node.hadamard_block, 1)));
    spec->width = node.width;
    spec->input = values(node.input), spec->awaits = is_in_posts(spec->input);
    spec->delta = node.delta >= 0 ? values(node.delta) : nullptr;
    spec->norm_weight = vectors_.find(node.norm_weight);
    spec->eps = node.eps;
  }

  Status fill_linear(const Node& node, Phase* phase) {
    LinearSpec& spec = phase->linear;
    spec.weight = device_weight(node.op->weight);
    spec.mode = node.mode, spec.epilogue = node.epilogue;
    spec.half_shift = spec.weight.group_size ? static_cast<uint8_t>(log2_of(spec.weight.group_size / 32)) : 0;
    spec.bias = vectors_.find(node.op->vector);
    phase->x = x_form(node, node.x_buffer);
    spec.has_prologue = node.made_by >= 0 && is_prologue(program_.nodes[node.made_by]);
    if (node.made_by >= 0) fill_source(node.source, &phase->source);
    spec.posts = posts_;
    const bool makes_norm = node.next_norm >= 0 && is_made(program_.nodes[node.next_norm]), adds = node.epilogue == Epilogue::kAdd;
    if (adds && (posts_ || makes_norm)) spec.before = values(node.output), spec.awaits_before = is_in_posts(spec.before);
    if (node.output >= 0) {
      const bool is_first = node.output_column == 0 && !adds;
      spec.output = is_first || posts_ ? redefine(node.output) : values(node.output), spec.output_stride = program_.program->buffers[node.output].width;
    }
    if (node.out_x >= 0) redefine_x(node.out_x), spec.out_x = x_form(node.out_x).data;
    if (makes_norm) {
      const Node& norm = program_.nodes[node.next_norm];
      redefine_x(norm.x_buffer);
      const XForm x = x_form(norm.x_buffer);
      spec.out_x = x.data, spec.next_squares = x.squares, spec.next_norm = vectors_.find(norm.source.norm_weight);
    }
    spec.output_column = node.output_column;
    spec.num_items = node.epilogue == Epilogue::kSilu ? spec.weight.n_tiles / 2 : spec.weight.n_tiles;
    return share_out(node, &spec);
  }

  // Which blocks take which part of k (see num_parts()). Wide linears are shared out on the device (WideShares).
  Status share_out(const Node& node, LinearSpec* spec) {
    if (class_.is_long && node.rows == Rows::kTokens) return {};
    if (is_wide(*spec)) {
      spec->num_parts = 1, spec->part_slice[1] = static_cast<int16_t>(num_slices(spec->weight.k_tiles)), spec->part_block[1] = static_cast<int16_t>(environment_.num_blocks);
      demand_.x_bytes = std::max(demand_.x_bytes, wide_bytes(spec->mode, spec->half_shift == 2));
      return leave_sums(node, spec);
    }
    const int slices = num_slices(spec->weight.k_tiles), most = most_slices(node, spec->weight), parts = num_parts(node, spec->weight);
    const int64_t slice_bytes = share_slice_bytes(node, spec->weight);
    const int slice_k = kSliceRuns * kRunK;
    if (parts > kMaxParts || parts > environment_.num_blocks)
      return {StatusCode::kUnsupported, "Expected weights of at most " + std::to_string(std::min(kMaxParts, environment_.num_blocks) * most * slice_k) +
                                            " input features on CUDA but received " + std::to_string(spec->weight.k) + "; use the CPU backend."};
    spec->num_parts = parts;
    int longest = 0;
    for (int p = 0; p <= parts; ++p) {
      spec->part_slice[p] = static_cast<int16_t>(first_slice(slices, parts, p));
      spec->part_block[p] = static_cast<int16_t>(first_block(slices, spec->part_slice[p]));
      if (p > 0) longest = std::max(longest, spec->part_slice[p] - spec->part_slice[p - 1]);
    }
    demand_.x_bytes = std::max<int>(demand_.x_bytes, static_cast<int>(longest * slice_bytes));
    const int part_runs = std::min(longest * kSliceRuns, num_runs(spec->weight.k_tiles));
    demand_.unit_runs = std::max(demand_.unit_runs, part_runs * (node.epilogue == Epilogue::kSilu ? 2 : 1));
    return leave_sums(node, spec);
  }

  // Where part `p` begins, and where the blocks of the part that begins with `slice` do.
  static int first_slice(int slices, int parts, int p) { return slices * p / parts; }
  int first_block(int slices, int slice) const { return environment_.num_blocks * slice / slices; }

  // Of a block's activations.
  int64_t share_slice_bytes(const Node& node, const DeviceWeight& weight) const {
    const int columns = pass_columns(class_), slice_k = kSliceRuns * kRunK;
    if (node.mode == GemmMode::kHiInt) return static_cast<int64_t>(columns) * (slice_k + slice_k / weight.group_size * 8);
    return int64_t{128} * columns * kSliceRuns * kRunTiles;
  }
  // Less where a multiprocessor's shared memory is short: places of all launches and some slabs need room besides.
  int most_slices(const Node& node, const DeviceWeight& weight) const {
    constexpr int64_t kBesides = 56 << 10;
    const int64_t wanted = class_.max_rows <= kPostedRows ? kPostedShareBytes : kShareBytes, most = std::min(wanted, static_cast<int64_t>(environment_.shared_bytes) - kBesides);
    return std::max(static_cast<int>(most / share_slice_bytes(node, weight)), 1);
  }
  // As few as let a part fit; where there must be several, so many (up to two more) that the block with most runs has fewest one after another.
  int num_parts(const Node& node, const DeviceWeight& weight) const {
    const int slices = num_slices(weight.k_tiles), most = most_slices(node, weight), least = (slices + most - 1) / most;
    int best = least;
    for (int parts = least + 1; least > 1 && parts <= std::min({slices, least + 2, kMaxParts, environment_.num_blocks}); ++parts)
      if (longest_turn(node, weight, parts) < longest_turn(node, weight, best)) best = parts;
    return best;
  }
  // Runs one after another of the warp that has most, if k is shared out to so many parts.
  int longest_turn(const Node& node, const DeviceWeight& weight, int parts) const {
    const int tiles_an_item = node.epilogue == Epilogue::kSilu ? 2 : 1, items = weight.n_tiles / tiles_an_item, slices = num_slices(weight.k_tiles);
    int longest = 0;
    for (int p = 0; p < parts; ++p) {
      const int begin = first_slice(slices, parts, p), end = first_slice(slices, parts, p + 1), blocks = first_block(slices, end) - first_block(slices, begin);
      const int runs = std::min(end * kSliceRuns, num_runs(weight.k_tiles)) - begin * kSliceRuns, own = (items + blocks - 1) / blocks * tiles_an_item * runs;
      longest = std::max(longest, (own + kStepWarps - 1) / kStepWarps);
    }
    return longest;
  }

  // What the linear's sums take of the workspace.
  Status leave_sums(const Node& node, LinearSpec* spec) {
    const int64_t tile_floats = sum_columns(node) * kTileN * spec->weight.n_tiles;
    if (is_wide(*spec)) {
      const int runs = num_runs(spec->weight.k_tiles);
      spec->job_runs = wide_job_runs(node, *spec), spec->last_adds = last_adds(node, *spec);
      const int64_t tiles = wide_tiles_left(node, *spec);
      plan_.partial_floats_ = std::max(plan_.partial_floats_, tiles * ((runs + spec->job_runs - 1) / spec->job_runs) * kWideJobFloats);
      plan_.num_counters_ = std::max(plan_.num_counters_, tiles);
    } else if (has_reduce(*spec) || spec->num_parts > 1) {
      plan_.partial_floats_ = std::max(plan_.partial_floats_, num_slices(spec->weight.k_tiles) * tile_floats);
      if (!has_reduce(*spec)) plan_.num_counters_ = std::max<int64_t>(plan_.num_counters_, spec->weight.n_tiles);
    }
    return {};
  }
  int64_t sum_columns(const Node& node) const { return node.rows == Rows::kTokens ? blocks_.columns() : std::min(blocks_.columns(), kMaxLogitRows); }

  void fill_attention(const Node& node, AttentionSpec* spec) {
    const ProgramOp& op = *node.op;
    spec->cache = environment_.kv->layer(op.layer);
    spec->qkv = values(op.input), spec->awaits = is_in_posts(spec->qkv), spec->posts = posts_;
    spec->num_heads = op.num_heads, spec->num_kv_heads = op.num_kv_heads, spec->head_dim = op.head_dim;
    spec->page_size = environment_.kv->shape().page_size, spec->sliding_window = op.sliding_window;
    spec->scale = op.scale, spec->eps = node.rope->eps;
    spec->high_plane_only = is_draft_ && spec->cache.format == KvFormat::kInt8Nested;
    spec->rope = buffers_.rope_table(node.table);
    spec->q_norm = vectors_.find(node.rope->q_norm), spec->k_norm = vectors_.find(node.rope->k_norm);
    if (node.output >= 0) spec->output = redefine(node.output);
    else redefine_x(node.x_buffer), spec->out_x = x_form(node.x_buffer).data;
  }

  // Index of the linear's shape among those of the plan: what decides how blocks cut and stream it. -1: there are too many.
  static int shape_of(const LinearSpec& spec, StepPlan::ClassPlan& plan) {
    const auto is_same = [&](const LinearSpec& other) {
      return other.mode == spec.mode && other.epilogue == spec.epilogue && other.num_items == spec.num_items && other.weight.k == spec.weight.k &&
             other.weight.n_tiles == spec.weight.n_tiles && other.weight.group_size == spec.weight.group_size;
    };
    for (size_t i = 0; i < plan.shape_linears.size(); ++i)
      if (is_same(plan.linears[plan.shape_linears[i]].linear)) return static_cast<int>(i);
    if (plan.shape_linears.size() == kMaxStreamShapes) return -1;
    plan.shape_linears.push_back(static_cast<int>(plan.linears.size()));
    return static_cast<int>(plan.shape_linears.size()) - 1;
  }

  // From 17 rows on the sums of a linear are stored by a phase of their own, unless the last block adds them.
  bool has_reduce(const LinearSpec& spec) const { return class_.n8 >= 3 && !spec.last_adds; }

  bool is_wide(const LinearSpec& spec) const { return cuda::is_wide(class_) && !is_integer(spec.mode); }

  // Tiles of a wide linear that several blocks share (WideShares): with so many passes, or most of all numbers of rows of the class.
  int64_t wide_tiles_left(const LinearSpec& spec, int passes) const {
    return cuda::wide_tiles_left(wide_tiles(spec.num_items, spec.epilogue == Epilogue::kSilu, passes), num_runs(spec.weight.k_tiles), environment_.num_blocks);
  }
  int most_passes(const Node& node) const { return static_cast<int>((sum_columns(node) + kWideRows - 1) / kWideRows); }
  int64_t wide_tiles_left(const Node& node, const LinearSpec& spec) const {
    int64_t most = 0;
    for (int passes = most_passes(node); passes > 0; --passes) most = std::max(most, wide_tiles_left(spec, passes));
    return most;
  }
  // Of the blocks that share a tile the last adds. It reads all of the tile's sums by itself: where there are few tiles, a phase in which all read costs less. Over
  // dense weights nobody comes last (WideLinear::end_tile()). Where none are shared there is nothing to add, and no phase for it.
  bool last_adds(const Node& node, const LinearSpec& spec) const {
    if (spec.mode == GemmMode::kDense) return wide_tiles_left(node, spec) == 0;
    const int64_t left = wide_tiles_left(spec, most_passes(node));
    return left == 0 || 2 * left > environment_.num_blocks;
  }
  static constexpr int64_t kWideJobFloats = kStepWarps * kTileN * kWideRows;
  // Jobs of a whole slice leave a quarter of the sums, jobs of a run keep more warps busy. A job's sums are written and read once, which takes some of a run's time.
  int wide_job_runs(const Node& node, const LinearSpec& spec) const {
    constexpr double kSumsRuns = 0.5;
    constexpr int64_t kMostBytes = 64 << 20;
    const int64_t left = wide_tiles_left(node, spec), blocks = environment_.num_blocks;
    const int64_t runs = num_runs(spec.weight.k_tiles), slices = num_slices(spec.weight.k_tiles);
    if (left * runs * kWideJobFloats * 4 > kMostBytes) return kSliceRuns;
    // Of a block's share, the last of them: runs to multiply, and sums to leave: a slice's each, and some runs' more where it begins within a slice.
    const int64_t by_runs = (left * runs + blocks - 1) / blocks, by_slices = (left * slices + blocks - 1) / blocks;
    const double sums = std::min(static_cast<double>(by_runs), static_cast<double>(by_runs) / kSliceRuns + 1.5);
    return static_cast<double>(by_runs) + sums * kSumsRuns <= static_cast<double>(by_slices) * (kSliceRuns + kSumsRuns) ? 1 : kSliceRuns;
  }

  // Phases that touch nothing in common may follow each other at once. Linears that leave sums have the workspace in common.
  static bool needs_barrier(const std::vector<Phase>& phases, size_t i) {
    const Phase &now = phases[i], &next = phases[i + 1];
    if (posts(now) && posts(next)) return false;
    if (now.kind == PhaseKind::kRopeTable && (next.kind == PhaseKind::kRopeTable || next.kind == PhaseKind::kEmbedding)) return false;
    if (now.kind != PhaseKind::kLinear || next.kind != PhaseKind::kLinear) return true;
    const bool is_chain = next.linear.has_prologue ? next.source.input == now.linear.output : next.x.data == now.linear.out_x && now.linear.out_x;
    return is_chain || leaves_sums(now.linear) || leaves_sums(next.linear) || now.linear.epilogue == Epilogue::kAdd;
  }
  static bool leaves_sums(const LinearSpec& spec) { return spec.num_parts > 1 || spec.job_runs > 0; }

  static bool posts(const Phase& phase) {
    return phase.kind == PhaseKind::kLinear ? phase.linear.posts : phase.kind == PhaseKind::kAttention && phase.attention.posts;
  }
  // Between a layer's attention and the next's, whose results lie in the same places, there must be a barrier. Where there is none, blocks arrive at one
  // two phases before the last and wait for it before that last one, when everybody has arrived long since.
  static void add_late_barriers(std::vector<Phase>& phases) {
    constexpr size_t kBetween = 2;
    size_t last = phases.size();  // attention with no barrier behind it yet
    for (size_t i = 0; i < phases.size(); ++i) {
      if (phases[i].kind == PhaseKind::kAttention) {
        if (last < i && i - last > kBetween + 1) phases[i - 1 - kBetween].arrives_after = phases[i - 1].waits_before = true;
        else if (last < i) phases[i - 1].barrier_after = true;
        last = i;
      }
      if (phases[i].barrier_after) last = phases.size();
    }
  }

  const LoweredProgram& program_;
  const StepEnvironment& environment_;
  const VectorStore& vectors_;
  const StepBuffers& buffers_;
  const bool is_draft_;
  StepPlan& plan_;
  std::map<int, float*> values_at_;   // buffers whose present content is posted
  std::map<int, uint8_t*> x_at_;
  uint8_t* next_post_ = buffers_.posts();
  bool posts_ = false;                // the present node does
  RowClass class_{};
  RowBlocks blocks_{};
  StepDemand demand_;
};

Status StepPlan::create(const LoweredProgram& program, const StepEnvironment& environment, const VectorStore& vectors, const StepBuffers& buffers,
                        bool is_draft, std::unique_ptr<StepPlan>* out) {
  auto plan = std::make_unique<StepPlan>();
  plan->logits_ = buffers.values(program.program->logits), plan->least_long_rows_ = find_least_long_rows(program, environment);
  size_t total = 0;
  const bool has_long = has_long_launches(program, environment);
  for (int c = 0; c < kNumRowClasses && kRowClasses[c].max_rows <= buffers.rows() && (has_long || !kRowClasses[c].is_long); ++c) {
    const Status built = PhaseBuilder(program, environment, vectors, buffers, is_draft, plan.get()).build(c);
    if (c == 0) QSPEC_RETURN_IF_ERROR(built);
    if (!built.is_ok()) {  // one row fits, so many don't
      plan->classes_[c] = {};
      break;
    }
    plan->num_classes_ = c + 1;
    total += (plan->classes_[c].phases.size() + plan->classes_[c].linears.size()) * sizeof(Phase);
  }
  QSPEC_RETURN_IF_ERROR(DeviceBuffer::create(total, "the program's phases", &plan->memory_));
  std::vector<Phase> all;
  for (ClassPlan& c : plan->classes_) {
    c.on_device = plan->memory_.as<Phase>() + all.size();
    all.insert(all.end(), c.phases.begin(), c.phases.end());
    c.linears_on_device = plan->memory_.as<Phase>() + all.size();
    all.insert(all.end(), c.linears.begin(), c.linears.end());
  }
  QSPEC_RETURN_IF_ERROR(plan->memory_.upload(all.data(), total));
  *out = std::move(plan);
  return {};
}

int StepPlan::max_rows(bool is_long) const {
  int most = 0;
  for (int c = 0; c < num_classes_; ++c)
    if (kRowClasses[c].is_long == is_long) most = kRowClasses[c].max_rows;
  return most;
}

void StepPlan::bind(int row_class, StepParams* params) const {
  const ClassPlan& c = classes_[row_class];
  params->phases = c.on_device, params->num_phases = static_cast<int>(c.phases.size());
  params->linears = c.linears_on_device;
  params->num_shapes = static_cast<int>(c.shape_linears.size());
  std::copy(c.shape_linears.begin(), c.shape_linears.end(), params->shape_linears);
  params->num_linears = static_cast<int>(c.linears.size());
  params->blocks = blocks_of(kRowClasses[row_class]);
  params->region_at = c.config.region_at, params->region_end = static_cast<int>(c.config.linear_end);
}

}  // namespace qspec::cuda
