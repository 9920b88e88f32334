// Step and round times of whole models on a CUDA device, with real shapes and random weights (acceptance is then an input, and printed as such).
//   bench_cuda_steps <out.csv> <commit> [shape] [filter]
//     shape   llama-3-8b (default), llama-2-7b, llama-3.2-1b, llama-3.2-3b, all; latency: a tiny model, whose steps are launches and barriers
//     filter  quick (fewer cases), names of pairings (w8a16/none, w8a16/nested-hi …), or both: quick,w4a16/none
// Method: benchmarks/README.md. Without a device: one sentence, exit code 77.
#include <chrono>
#include <cmath>
#include <cstring>

#include "../common/cuda_bench.h"

using namespace qspec;
using namespace qspec::bench;

namespace {

constexpr const char* kColumns = "device,commit,shape,target,draft,batch,context,rows,what,ms,limit_ms,share";
constexpr int kGamma = 3;             // of speculative rounds
constexpr int kPrefillTokens[] = {64, 128, 256, 512, 2048, 8192};  // of one sequence
constexpr int kRepeats = 15, kPrefillRepeats = 3;
constexpr std::chrono::milliseconds kWarmUp{200};  // of a case

Program record(const LlamaShape& shape, const LlamaMode& mode, WeightSet& set, std::map<std::string, VectorRef>& vectors) {
  return qspec::test::record_llama(
      shape, mode, [&](const std::string& name, int64_t n, int64_t k) { return set.get(name, n, k); },
      [&](const std::string& name, int64_t length) {
        VectorRef& slot = vectors[name];
        if (!slot) slot = std::make_shared<const std::vector<float>>(length, 1.0f);
        return slot;
      });
}

// Bytes that a pass reads of the weights, embedding left out.
double program_bytes(const Program& program) {
  double bytes = 0;
  for (const ProgramOp& op : program.ops)
    if (op.kind == OpKind::kLinear) bytes += weight_bytes(op.weight->shape(), op.plane);
  return bytes;
}
double kv_bytes(const LlamaShape& s, double positions) { return 2.0 * s.layers * s.kv_heads * kv_head_bytes(KvFormat::kBf16, s.head_dim) * positions; }

struct Case {
  int batch, context;
  std::vector<int> verify_rows;  // a sequence: verify passes over a given chain of so many rows
};

struct Timing {
  double draft_ms = 0, verify_ms = 0, wall_ms = 0;
};

// Until weights, cache and clocks are as they stay: after several gigabytes were freed and others made, steps are up to 8 % slower for a while.
Status warm_up(Session& session, const RoundBatch& batch) {
  const auto start = std::chrono::steady_clock::now();
  RoundResult result;
  while (std::chrono::steady_clock::now() - start < kWarmUp) QSPEC_RETURN_IF_ERROR(session.round(batch, &result));
  return {};
}

Status time_round(Session& session, const RoundBatch& batch, int repeats, Timing* timing) {
  std::vector<double> drafts, verifies, walls;
  for (int i = 0; i < repeats + 2; ++i) {
    RoundResult result;
    const auto start = std::chrono::steady_clock::now();
    QSPEC_RETURN_IF_ERROR(session.round(batch, &result));
    const double wall = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    if (i < 2) continue;
    drafts.push_back(result.draft_ms), verifies.push_back(result.verify_ms), walls.push_back(wall);
  }
  *timing = {median(drafts), median(verifies), median(walls)};
  return {};
}

struct Bench {
  FILE* csv = nullptr;
  std::string commit;
  BenchDevice device;
  const char* shape_name = "";
  LlamaShape shape;

  void line(const char* target, const char* draft, int batch, int context, int rows, const char* what, double ms, double bytes) const {
    const double limit = bytes / device.read * 1e3;
    std::printf("%-12s %-12s %-10s b%-3d c%-6d rows %-4d %-10s %8.3f ms  limit %7.3f  %5.1f %%\n", shape_name, target, draft, batch, context, rows, what, ms, limit, 100 * limit / ms);
    std::fflush(stdout);
    std::fprintf(csv, "%s,%s,%s,%s,%s,%d,%d,%d,%s,%.4f,%.4f,%.4f\n", device.info.name.c_str(), commit.c_str(), shape_name, target, draft, batch, context, rows, what, ms, limit, limit / ms);
    std::fflush(csv);
  }
};

// ---- Where a step's time goes: the phases of a middle layer ------------------------------------------------------------------------------

class PhaseClock {
 public:
  PhaseClock(const std::vector<unsigned long long>& stamps, int num_phases, double step_ms)
      : stamps_(stamps), stride_(stamps_stride(num_phases)), us_(step_ms * 1e3 / (at(0, num_phases - 1, kLast) - at(0, -1, kLast))) {}
  static constexpr int kLast = kStampSteps - 1;
  double length(int phase) const { return (at(0, phase, kLast) - at(0, phase - 1, kLast)) * us_; }
  // When blocks came to a step of the phase, those that had nothing to do there left out.
  std::vector<double> arrivals(int phase, int step) const {
    std::vector<double> list;
    for (int block = 0; block < static_cast<int>(stamps_.size()) / stride_; ++block) {
      const double begin = at(block, phase - 1, kLast), now = at(block, phase, step);
      if (now >= begin && now <= at(block, phase, kLast)) list.push_back((now - begin) * us_);
    }
    return list;
  }

 private:
  double at(int block, int phase, int step) const {
    return static_cast<double>(stamps_[static_cast<size_t>(block) * stride_ + (phase < 0 ? 0 : 1 + phase * kStampSteps + step)]);
  }
  const std::vector<unsigned long long>& stamps_;
  const int stride_;
  const double us_;
};

int middle_layer(const std::vector<Phase>& phases, int layers) {
  int seen = 0;
  for (size_t i = 0; i < phases.size(); ++i)
    if (phases[i].kind == PhaseKind::kAttention && ++seen == layers / 2) return static_cast<int>(i);
  return 0;
}

void print_phase(const Phase& phase, const PhaseClock& clock, int index) {
  const char* names[] = {"embedding", "rope table", "rows", "gather", "linear", "reduce", "attention"};
  std::printf("    %-10s", names[static_cast<int>(phase.kind)]);
  if (phase.kind == PhaseKind::kLinear) std::printf(" %6dx%-6d", phase.linear.weight.n, phase.linear.weight.k);
  std::printf(" %6.1f:", clock.length(index));
  for (int step = 0; step < PhaseClock::kLast; ++step) {
    const std::vector<double> at = clock.arrivals(index, step);
    if (!at.empty()) std::printf("  %d: %.1f %.1f", step, median(at), *std::max_element(at.begin(), at.end()));
  }
  std::printf("\n");
}

void print_phases(CudaSession& session, const RoundBatch& batch, int rows, int layers, double step_ms) {
  if (!session.set_profiling(true).is_ok()) return;  // no memory was left for the clocks
  RoundResult result;
  for (int i = 0; i < 2; ++i) must(session.round(batch, &result), "round");
  const bool is_long = kRowClasses[session.launches().back().row_class].is_long;
  const std::vector<Phase>& phases = session.phases(false, rows);
  const std::vector<unsigned long long> stamps = session.last_stamps();
  must(session.set_profiling(false), "set_profiling");
  if (is_long) return;  // kernels one after another: the clocks are of the last of them
  const int count = static_cast<int>(phases.size());
  const PhaseClock clock(stamps, count, step_ms);
  const int first = middle_layer(phases, layers);
  std::printf("  phases from the attention of layer %d on, us, and when a block has come to each step (median, last):\n", layers / 2);
  for (int i = first; i < count; ++i) {
    if (i > first && i + 1 < count && phases[i].kind == PhaseKind::kAttention) break;
    print_phase(phases[i], clock, i);
  }
}

// ---- One pairing -------------------------------------------------------------------------------------------------------------------------

struct Pairing {
  const char *target, *draft;
  Weights weights, draft_weights;
  Plane draft_plane;
  int draft_bits;
  bool is_plain() const { return std::strcmp(draft, "none") == 0; }
  std::string name() const { return std::string(target) + "/" + draft; }
};

class PairingRun {
 public:
  PairingRun(const Bench& bench, const Pairing& pairing, WeightSet& target_set, WeightSet& draft_set)
      : bench_(bench), pairing_(pairing), target_set_(target_set), draft_set_(draft_set) {}

  void run(const Case& c) { report(c.batch, c.context, measure(c)); }
  void prefill() {
    for (const int tokens : kPrefillTokens) report(1, tokens, measure_prefill(tokens));
  }

 private:
  void report(int batch, int context, const Status& status) const {
    if (status.code() != StatusCode::kOutOfMemory) return must(status, pairing_.name().c_str());
    std::printf("%-12s %-12s %-10s b%-3d c%-6d does not fit\n", bench_.shape_name, pairing_.target, pairing_.draft, batch, context);
  }

  Status open(int batch, int context, int max_rows) {
    SessionConfig config;
    config.target = record(bench_.shape, {}, target_set_, vectors_);
    target_bytes_ = program_bytes(config.target), draft_bytes_ = 0;
    if (!pairing_.is_plain()) {
      LlamaMode draft;
      draft.name = "draft", draft.plane = pairing_.draft_plane, draft.activation_bits = pairing_.draft_bits, draft.group_size = kGroupSize;
      draft.is_head_float = pairing_.draft_bits == 16;
      config.draft = std::make_unique<Program>(record(bench_.shape, draft, draft_set_, vectors_));
      draft_bytes_ = program_bytes(*config.draft);
    }
    const LlamaShape& s = bench_.shape;
    config.kv = {KvFormat::kBf16, s.layers, kPageSize, s.kv_heads, s.head_dim, num_pages(batch, context)};
    config.vocab_size = s.vocab, config.max_rows = config.max_logit_rows = max_rows;
    session_.reset();
    QSPEC_RETURN_IF_ERROR(CudaSession::create(bench_.device.info, std::move(config), &session_));
    kv_ = kv_bytes(s, static_cast<double>(context) * batch);
    return cuda_session().fill_cache_randomly(3);
  }

  CudaSession& cuda_session() { return static_cast<CudaSession&>(*session_); }
  RoundBatch batch(const Case& c, int gamma) const { return round_batch(bench_.shape.vocab, c.batch, c.context, 1, gamma, true); }
  void line(const Case& c, const char* draft, int rows, const char* what, double ms, double bytes) const {
    bench_.line(pairing_.target, draft, c.batch, c.context, rows * c.batch, what, ms, bytes);
  }

  Status measure(const Case& c) {
    const int most_rows = c.verify_rows.empty() ? kGamma + 1 : std::max(kGamma + 1, *std::max_element(c.verify_rows.begin(), c.verify_rows.end()));
    QSPEC_RETURN_IF_ERROR(open(c.batch, c.context, std::max(64, most_rows * c.batch)));
    Timing step;
    QSPEC_RETURN_IF_ERROR(warm_up(*session_, batch(c, 0)));
    QSPEC_RETURN_IF_ERROR(time_round(*session_, batch(c, 0), kRepeats, &step));
    line(c, "none", 1, "decode", step.verify_ms, target_bytes_ + kv_);
    if (pairing_.is_plain()) {
      print_phases(cuda_session(), batch(c, 0), c.batch, bench_.shape.layers, step.verify_ms);
      std::printf("  wall %.3f ms a step\n", step.wall_ms);
    }
    for (const int rows : c.verify_rows) QSPEC_RETURN_IF_ERROR(measure_verify(c, rows, step));
    return pairing_.is_plain() ? Status() : measure_round(c, step);
  }

  Status measure_verify(const Case& c, int rows, const Timing& step) {
    RoundBatch given = batch(c, rows - 1);
    given.draft_tokens.assign(static_cast<size_t>(rows - 1) * c.batch, 17);
    Timing verify;
    QSPEC_RETURN_IF_ERROR(time_round(*session_, given, kRepeats, &verify));
    line(c, "given", rows, "verify", verify.verify_ms, target_bytes_ + kv_);
    std::printf("  verify of %d rows: %.3fx of a decode step\n", rows * c.batch, verify.verify_ms / step.verify_ms);
    return {};
  }

  Status measure_round(const Case& c, const Timing& step) {
    Timing round;
    QSPEC_RETURN_IF_ERROR(time_round(*session_, batch(c, kGamma), kRepeats, &round));
    const double round_ms = round.draft_ms + round.verify_ms;
    line(c, pairing_.draft, 1, "draft step", round.draft_ms / kGamma, draft_bytes_ + kv_);
    line(c, pairing_.draft, kGamma + 1, "round", round_ms, kGamma * (draft_bytes_ + kv_) + target_bytes_ + kv_);
    std::printf("  draft step %.3fx of a target step;", round.draft_ms / kGamma / step.verify_ms);
    for (const double acceptance : {0.8, 0.9, 0.95}) {
      const double tokens = (1 - std::pow(acceptance, kGamma + 1)) / (1 - acceptance);
      std::printf(" acceptance %.2f (given): %.2fx plain;", acceptance, tokens * step.verify_ms / round_ms);
    }
    std::printf(" wall %.3f ms\n", round.wall_ms);
    return {};
  }

  // All tokens of a prompt in one pass, logits of the last.
  Status measure_prefill(int tokens) {
    QSPEC_RETURN_IF_ERROR(open(1, tokens, tokens));
    Timing pass;
    QSPEC_RETURN_IF_ERROR(time_round(*session_, round_batch(bench_.shape.vocab, 1, tokens, tokens, 0, true), kPrefillRepeats, &pass));
    bench_.line(pairing_.target, "none", 1, tokens, tokens, "prefill", pass.verify_ms, target_bytes_ + kv_);
    std::printf("  %.0f tokens/s\n", tokens / pass.verify_ms * 1e3);
    return {};
  }

  const Bench& bench_;
  const Pairing& pairing_;
  WeightSet &target_set_, &draft_set_;
  std::map<std::string, VectorRef> vectors_;
  std::unique_ptr<Session> session_;
  double target_bytes_ = 0, draft_bytes_ = 0, kv_ = 0;
};

// ---- The matrix --------------------------------------------------------------------------------------------------------------------------

// Each target plain, then with its drafts.
const Pairing kPairings[] = {{"bf16", "none", Weights::kBf16, Weights::kBf16, Plane::kFull, 16},
                             {"bf16", "w4a16-copy", Weights::kBf16, Weights::kInt4, Plane::kFull, 16},
                             {"w8a16", "none", Weights::kNested, Weights::kNested, Plane::kFull, 16},
                             {"w8a16", "nested-hi", Weights::kNested, Weights::kNested, Plane::kHi, 16},
                             {"w4a16", "none", Weights::kInt4, Weights::kInt4, Plane::kFull, 16},
                             {"w4a16", "w4a8", Weights::kInt4, Weights::kInt4, Plane::kFull, 8},
                             {"w4a16", "w4a4", Weights::kInt4, Weights::kInt4, Plane::kFull, 4}};

std::vector<Case> quick_cases(const Pairing& pairing) {
  if (pairing.is_plain()) return {{1, 1024, {5}}, {8, 1024, {}}, {32, 1024, {}}};
  if (pairing.draft_bits == 4) return {};
  return {{1, 1024, {kGamma + 1}}};
}

std::vector<Case> all_cases(const Pairing& pairing) {
  std::vector<Case> cases;
  for (const int context : {1024, 8192, 32768}) {
    if (pairing.is_plain()) {
      cases.push_back({1, context, {5, 17, 25}});
      for (const int batch : {4, 8, 32, 64}) cases.push_back({batch, context, {5}});
    } else {
      for (const int batch : {1, 4, 8, 32, 64}) cases.push_back({batch, context, {kGamma + 1}});
    }
  }
  return cases;
}

void run_shape(const Bench& bench, const std::string& filter) {
  std::map<Weights, std::unique_ptr<WeightSet>> sets;
  const auto set_of = [&](Weights weights) -> WeightSet& {
    std::unique_ptr<WeightSet>& set = sets[weights];
    if (!set) set = std::make_unique<WeightSet>(weights);
    return *set;
  };
  const bool is_quick = filter.find("quick") != std::string::npos, is_any = filter.empty() || filter == "quick";
  for (const Pairing& p : kPairings) {
    if (!is_any && filter.find(p.name()) == std::string::npos) continue;
    if (p.is_plain()) sets.clear();  // a new target: all memory but its own is for the cache
    PairingRun run(bench, p, set_of(p.weights), set_of(p.draft_weights));
    for (const Case& c : is_quick ? quick_cases(p) : all_cases(p)) run.run(c);
    if (p.is_plain()) run.prefill();
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_cuda_steps <out.csv> <commit> [shape] [filter]\n");
    return 2;
  }
  Bench bench;
  if (!bench.device.open()) return kSkipped;
  bench.csv = open_csv(argv[1], kColumns), bench.commit = argv[2];
  if (bench.csv == nullptr) return 2;
  const std::string wanted = argc > 3 ? argv[3] : "llama-3-8b", filter = argc > 4 ? argv[4] : "";
  for (const NamedShape& named : named_shapes()) {
    if (!is_wanted(wanted, named.name)) continue;
    bench.shape_name = named.name, bench.shape = named.shape;
    run_shape(bench, filter);
  }
  std::fclose(bench.csv);
  return 0;
}
