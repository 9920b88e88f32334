// Step and round times of whole models on a CUDA device, with real shapes and random weights (acceptance is then an input, and printed as such).
//   bench_cuda_steps <out.csv> <commit> [shape] [filter]      shapes: llama-3-8b (default), llama-2-7b, llama-3.2-1b, llama-3.2-3b, all
// Method: benchmarks/README.md. Without a device: one sentence, exit code 77.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "llama_program.h"
#include "session/cuda_backend.h"
#include "session/cuda_session.h"
#include "weights/device_weight.h"

using namespace qspec;
using namespace qspec::cuda;
using qspec::test::LlamaMode;
using qspec::test::LlamaShape;

namespace {

struct NamedShape {
  const char* name;
  LlamaShape shape;
};

LlamaShape shape_of(int vocab, int hidden, int intermediate, int layers, int heads, int kv_heads, int head_dim) {
  LlamaShape s;
  s.vocab = vocab, s.hidden = hidden, s.intermediate = intermediate, s.layers = layers, s.heads = heads, s.kv_heads = kv_heads, s.head_dim = head_dim;
  return s;
}

const NamedShape kShapes[] = {{"llama-3-8b", shape_of(128256, 4096, 14336, 32, 32, 8, 128)},
                              {"llama-2-7b", shape_of(32000, 4096, 11008, 32, 32, 32, 128)},
                              {"llama-3.2-1b", shape_of(128256, 2048, 8192, 16, 32, 8, 64)},
                              {"latency", shape_of(256, 256, 512, 32, 4, 1, 64)},
                              {"llama-3.2-3b", shape_of(128256, 3072, 8192, 28, 24, 8, 128)}};

enum class Weights { kBf16, kNested, kInt4 };

[[noreturn]] void die(const Status& status, const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, status.message().c_str());
  std::exit(1);
}
void must(const Status& status, const char* what) {
  if (!status.is_ok()) die(status, what);
}

// Random weights of one format, one allocation a matrix.
class WeightSet {
 public:
  WeightSet(Weights format, int group) : format_(format), group_(group) {}
  WeightRef get(const std::string& name, int64_t n, int64_t k) {
    WeightRef& slot = weights_[name];
    if (slot) return slot;
    WeightShape shape;
    shape.n = n, shape.k = k;
    // The table is only looked up; the head is quantised like the rest.
    shape.kind = name == "embedding" || format_ == Weights::kBf16 ? WeightKind::kDenseBf16 : format_ == Weights::kInt4 ? WeightKind::kInt4 : WeightKind::kNested8;
    if (shape.kind != WeightKind::kDenseBf16) shape.group_size = group_;
    if (shape.kind == WeightKind::kNested8) shape.radix = 12;
    std::shared_ptr<const ResidentDeviceWeight> weight;
    must(ResidentDeviceWeight::create_random(shape, std::hash<std::string>()(name), &weight), name.c_str());
    slot = weight;
    return slot;
  }

 private:
  const Weights format_;
  const int group_;
  std::map<std::string, WeightRef> weights_;
};

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
double weight_bytes(const Program& program, bool is_hi) {
  double bytes = 0;
  for (const ProgramOp& op : program.ops) {
    if (op.kind != OpKind::kLinear) continue;
    const WeightShape& s = op.weight->shape();
    const double elements = static_cast<double>(s.n) * static_cast<double>(s.k);
    if (s.kind == WeightKind::kDenseBf16) bytes += 2 * elements;
    else bytes += elements * (0.5 + 2.0 / s.group_size + (s.kind == WeightKind::kNested8 && !is_hi && op.plane == Plane::kFull ? 0.5 : 0));
  }
  return bytes;
}
double kv_bytes(const LlamaShape& s, KvFormat format, double positions) {
  const double head = format == KvFormat::kBf16 ? 2.0 * s.head_dim : s.head_dim + 4.0;
  return 2.0 * s.layers * s.kv_heads * head * positions;
}

struct Case {
  int batch, context, gamma, tree;  // tree > 0: one verify pass over that many rows a sequence
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

SamplerParams greedy() {
  SamplerParams p{};
  p.top_p = 1, p.repetition_penalty = 1, p.num_logprobs = -1;
  return p;
}

// One round over `batch` sequences whose last token sits at context - 1 - rows.
RoundBatch round_batch(const LlamaShape& shape, const Case& c, int page_size, int rows) {
  RoundBatch batch;
  batch.pages.page_offsets = batch.token_offsets = {0};
  const int pages = (c.context + page_size - 1) / page_size;
  for (int s = 0; s < c.batch; ++s) {
    for (int p = 0; p < pages; ++p) batch.pages.page_ids.push_back(p * c.batch + s);  // interleaved, as pages of real batches are
    batch.pages.page_offsets.push_back(static_cast<int32_t>(batch.pages.page_ids.size()));
    batch.tokens.push_back((s * 7919 + 13) % shape.vocab);
    batch.token_offsets.push_back(s + 1);
    batch.start_positions.push_back(c.context - rows);
    batch.emit.push_back(1), batch.gammas.push_back(rows - 1);
    batch.samplers.push_back(greedy());
  }
  return batch;
}

struct Timing {
  double draft_ms, verify_ms, wall_ms;
};

Timing time_round(Session& session, const RoundBatch& batch, int repeats) {
  std::vector<double> drafts, verifies, walls;
  for (int i = 0; i < repeats + 2; ++i) {
    RoundResult result;
    const auto start = std::chrono::steady_clock::now();
    must(session.round(batch, &result), "round");
    const double wall = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    if (i < 2) continue;
    drafts.push_back(result.draft_ms), verifies.push_back(result.verify_ms), walls.push_back(wall);
  }
  return {median(drafts), median(verifies), median(walls)};
}

struct Bench {
  FILE* csv;
  std::string commit, device;
  double read = 0;  // bytes a second
  const char* shape_name = "";
  LlamaShape shape;
  std::string filter;
  int repeats = 15;
  int most_stages = CudaSession::kMostStages;

  void line(const char* target, const char* draft, const Case& c, int rows, const char* what, double ms, double bytes) const {
    const double limit = bytes / read * 1e3;
    std::printf("%-12s %-12s %-10s b%-3d c%-6d rows %-3d %-14s %8.3f ms  limit %7.3f  %5.1f %%\n", shape_name, target, draft, c.batch, c.context, rows, what, ms, limit, 100 * limit / ms);
    std::fflush(stdout);
    std::fprintf(csv, "%s,%s,%s,%s,%s,%d,%d,%d,%s,%.4f,%.4f,%.4f\n", device.c_str(), commit.c_str(), shape_name, target, draft, c.batch, c.context, rows, what, ms, limit, limit / ms);
    std::fflush(csv);
  }
};

// Where a step's time goes: phases of a middle layer, and the whole by kind.
void print_phases(CudaSession& session, const RoundBatch& batch, int rows, int layers, double step_ms) {
  session.set_profiling(true);
  RoundResult result;
  for (int i = 0; i < 2; ++i) must(session.round(batch, &result), "round");
  const std::vector<Phase>& phases = session.phases(false, rows);
  const std::vector<unsigned long long>& stamps = session.last_stamps();
  const int stride = stamps_stride(static_cast<int>(phases.size())), blocks = static_cast<int>(stamps.size()) / stride;
  const auto clock_at = [&](int block, int phase, int step) { return static_cast<double>(stamps[static_cast<size_t>(block) * stride + (phase < 0 ? 0 : 1 + phase * kStampSteps + step)]); };
  const int last = kStampSteps - 1, count = static_cast<int>(phases.size());
  const double us = step_ms * 1e3 / (clock_at(0, count - 1, last) - clock_at(0, -1, last));
  int first = 0, seen = 0;
  for (int i = 0; i < count; ++i)
    if (phases[i].kind == PhaseKind::kAttention && ++seen == layers / 2) first = i;
  std::printf("  phases from the attention of layer %d on, us, and when a block has come to each step (median, last):\n", layers / 2);
  for (int i = first; i < count; ++i) {
    if (i > first && i + 1 < count && phases[i].kind == PhaseKind::kAttention) break;
    const char* names[] = {"embedding", "rope table", "rows", "gather", "linear", "attention"};
    std::printf("    %-10s", names[static_cast<int>(phases[i].kind)]);
    if (phases[i].kind == PhaseKind::kLinear) std::printf(" %6dx%-6d", phases[i].linear.weight.n, phases[i].linear.weight.k);
    std::printf(" %6.1f:", (clock_at(0, i, last) - clock_at(0, i - 1, last)) * us);
    for (int step = 0; step < last; ++step) {
      std::vector<double> at;
      double latest = 0;
      for (int b = 0; b < blocks; ++b) {
        const double begin = clock_at(b, i - 1, last), now = clock_at(b, i, step);
        if (now < begin || now > clock_at(b, i, last)) continue;  // the block had nothing to do there
        at.push_back((now - begin) * us), latest = std::max(latest, at.back());
      }
      if (!at.empty()) std::printf("  %d: %.1f %.1f", step, median(at), latest);
    }
    std::printf("\n");
    if (phases[i].kind == PhaseKind::kLinear && phases[i].linear.weight.n == 28672) {
      for (int b = 0; b < blocks; ++b) std::printf("%s%.0f", b % 33 == 0 ? "\n      " : " ", (clock_at(b, i, last - 1) - clock_at(b, i - 1, last)) * us);
      std::printf("\n");
    }
  }
  session.set_profiling(false);
}

struct Pairing {
  const char *target, *draft;
  Weights weights, draft_weights;
  Plane draft_plane;
  int draft_bits;
  bool is_plain;  // no draft at all
};

void run_pairing(const Bench& bench, const DeviceInfo& device, const Pairing& pairing, WeightSet& target_set, WeightSet& draft_set, const std::vector<Case>& cases) {
  std::map<std::string, VectorRef> vectors;
  for (const Case& c : cases) {
    const int rows = c.gamma + 1, page_size = 16;
    SessionConfig config;
    config.target = record(bench.shape, {}, target_set, vectors);
    LlamaMode draft;
    draft.name = "draft", draft.plane = pairing.draft_plane, draft.activation_bits = pairing.draft_bits, draft.group_size = 128, draft.is_head_float = pairing.draft_bits == 16;
    if (!pairing.is_plain) config.draft = std::make_unique<Program>(record(bench.shape, draft, draft_set, vectors));
    const int pages = (c.context + page_size - 1) / page_size * c.batch;
    config.kv = {KvFormat::kBf16, bench.shape.layers, page_size, bench.shape.kv_heads, bench.shape.head_dim, pages};
    config.vocab_size = bench.shape.vocab, config.max_rows = config.max_logit_rows = std::max(64, rows * c.batch);
    const double target_bytes = weight_bytes(config.target, false), draft_bytes = config.draft ? weight_bytes(*config.draft, true) : 0;
    std::unique_ptr<Session> session;
    const Status made = CudaSession::create(device, std::move(config), &session, bench.most_stages);
    if (made.code() == StatusCode::kOutOfMemory) {
      std::printf("%s batch %d context %d: does not fit\n", pairing.target, c.batch, c.context);
      continue;
    }
    must(made, "create_session");
    must(static_cast<CudaSession&>(*session).fill_cache_randomly(3), "fill");
    const double kv = kv_bytes(bench.shape, KvFormat::kBf16, static_cast<double>(c.context) * c.batch);
    const RoundBatch plain = round_batch(bench.shape, c, page_size, 1);
    const Timing step = time_round(*session, plain, bench.repeats);
    bench.line(pairing.target, "none", c, c.batch, "decode", step.verify_ms, target_bytes + kv);
    if (pairing.is_plain) {
      RoundBatch one = plain;
      print_phases(static_cast<CudaSession&>(*session), one, c.batch, bench.shape.layers, step.verify_ms);
      std::printf("  wall %.3f ms a step\n", step.wall_ms);
    }
    if (c.gamma == 0) continue;
    RoundBatch given = round_batch(bench.shape, c, page_size, rows);
    given.draft_tokens.assign(static_cast<size_t>(c.gamma) * c.batch, 17);  // verify alone
    const Timing verify = time_round(*session, given, bench.repeats);
    bench.line(pairing.target, "given", c, rows * c.batch, "verify", verify.verify_ms, target_bytes + kv);
    std::printf("  verify of %d rows: %.3fx of a decode step\n", rows * c.batch, verify.verify_ms / step.verify_ms);
    if (pairing.is_plain) continue;
    const Timing round = time_round(*session, round_batch(bench.shape, c, page_size, rows), bench.repeats);
    bench.line(pairing.target, pairing.draft, c, c.batch, "draft step", round.draft_ms / c.gamma, draft_bytes + kv);
    bench.line(pairing.target, pairing.draft, c, rows * c.batch, "round", round.draft_ms + round.verify_ms, c.gamma * (draft_bytes + kv) + target_bytes + kv);
    std::printf("  draft step %.3fx of a target step;", round.draft_ms / c.gamma / step.verify_ms);
    for (const double acceptance : {0.8, 0.9, 0.95}) {
      const double tokens = (1 - std::pow(acceptance, rows)) / (1 - acceptance);
      std::printf(" acceptance %.2f (given): %.2fx plain;", acceptance, tokens * step.verify_ms / (round.draft_ms + round.verify_ms));
    }
    std::printf(" wall %.3f ms\n", round.wall_ms);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_cuda_steps <out.csv> <commit> [shape] [filter]\n");
    return 2;
  }
  DeviceInfo device;
  const Status status = query_device(0, &device);
  if (!status.is_ok()) {
    std::printf("skipped: %s\n", status.message().c_str());
    return 77;
  }
  std::shared_ptr<Backend> backend;
  must(create_cuda_backend(0, &backend), "backend");
  Bench bench;
  bench.csv = std::fopen(argv[1], "a");
  bench.commit = argv[2], bench.device = device.name;
  if (!bench.csv) return 2;
  must(backend->measure_read_bandwidth(&bench.read), "bandwidth");
  std::printf("%s, driver %d.%d, read %.3f TB/s\n", device.name.c_str(), device.driver_version / 1000, device.driver_version % 1000 / 10, bench.read / 1e12);
  if (argc > 5) bench.most_stages = std::atoi(argv[5]);
  const std::string wanted = argc > 3 ? argv[3] : "llama-3-8b", filter = argc > 4 ? argv[4] : "";
  const Pairing pairings[] = {{"w4a16", "none", Weights::kInt4, Weights::kInt4, Plane::kFull, 16, true},
                              {"w8a16", "nested-hi", Weights::kNested, Weights::kNested, Plane::kHi, 16, false},
                              {"bf16", "w4a16-copy", Weights::kBf16, Weights::kInt4, Plane::kFull, 16, false},
                              {"w4a16", "w4a8", Weights::kInt4, Weights::kInt4, Plane::kFull, 8, false},
                              {"w4a16", "w4a4", Weights::kInt4, Weights::kInt4, Plane::kFull, 4, false}};
  for (const NamedShape& named : kShapes) {
    if (wanted != "all" && wanted != named.name) continue;
    bench.shape_name = named.name, bench.shape = named.shape;
    std::map<int, std::unique_ptr<WeightSet>> sets;
    const auto set_of = [&](Weights w) -> WeightSet& {
      auto& set = sets[static_cast<int>(w)];
      if (!set) set = std::make_unique<WeightSet>(w, 128);
      return *set;
    };
    for (const Pairing& p : pairings) {
      const std::string name = std::string(p.target) + "/" + p.draft;
      if (!filter.empty() && filter.find(name) == std::string::npos && filter != "quick") continue;
      std::vector<Case> cases;
      if (filter == "quick") {
        if (std::string(p.draft) == "w4a4") continue;
        if (p.is_plain) cases = {{1, 1024, 4, 0}, {8, 1024, 0, 0}, {32, 1024, 0, 0}};
        else cases = {{1, 1024, 3, 0}};
      } else if (filter == "w4a16/none") {
        cases = {{1, 1024, 0, 0}, {1, 64, 0, 0}, {8, 1024, 0, 0}};
      } else {
        for (const int batch : {1, 4, 8, 32, 64})
          for (const int context : {1024, 8192, 32768}) cases.push_back({batch, context, batch <= 8 ? 3 : 0, 0});
      }
      run_pairing(bench, device, p, set_of(p.weights), set_of(p.draft_weights), cases);
      if (p.weights == Weights::kBf16) sets.erase(static_cast<int>(Weights::kBf16));
    }
  }
  std::fclose(bench.csv);
  return 0;
}
