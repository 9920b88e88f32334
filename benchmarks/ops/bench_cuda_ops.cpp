// Single ops inside the step kernel, or of 1024 rows by kernels of their own, on a CUDA device: products of real shapes and attention over real caches, in every format.
//   bench_cuda_ops <out.csv> <commit> [shape] [filter]
//     shape   llama-3-8b (default), llama-2-7b, llama-3.2-1b, llama-3.2-3b, all
//     filter  quick (fewer cases), gemm, attention, formats of weights (w4a16, w8a16/nested-hi …), or several: quick,gemm
// A pass is one kernel that walks phases, so an op is timed as many copies of itself in one program, less the same program without them.
// Method: benchmarks/README.md. Without a device: one sentence, exit code 77.
#include <cmath>
#include <iterator>

#include "../common/cuda_bench.h"

using namespace qspec;
using namespace qspec::bench;

namespace {

constexpr const char* kColumns = "device,commit,op,format,shape,n,k,batch,context,rows,us,bytes,limit_us,share,over_floor_us,copy_share,read_tb_s,copy_tb_s";
constexpr int kRepeats = 21, kWarmup = 3;
constexpr int kVocab = 64;            // nothing here depends on logits
constexpr int kMakerK = 512;          // inputs of the product that makes an activated input
constexpr int kReaderN = 64;          // outputs of the product that reads an input whether or not others do
constexpr double kLeastBytes = 500e6; // of all copies of an op together, so that none is found in L2
constexpr int kLeastProducts = 8;     // the first one's weight is fetched ahead while the program begins: that gain is shared by as many
constexpr int kLeastLayers = 4;
constexpr int kMostCopies = 64;
constexpr int kPromptRows = 1024;     // of a long launch (docs/decisions/cuda-long-launches.md), which integer activations have none of

struct Format {
  const char* name;
  Weights weights;
  Plane plane;
  int activation_bits;
};
const Format kFormats[] = {{"w4a16", Weights::kInt4, Plane::kFull, 16},    {"w8a16", Weights::kNested, Plane::kFull, 16}, {"nested-hi", Weights::kNested, Plane::kHi, 16},
                           {"bf16", Weights::kBf16, Plane::kFull, 16},     {"w4a8", Weights::kInt4, Plane::kFull, 8},     {"w4a4", Weights::kInt4, Plane::kFull, 4}};

int copies_of(double bytes, int least, const BenchDevice& device) {
  const double wanted = std::max(kLeastBytes, 2.0 * static_cast<double>(device.info.l2_bytes));
  return std::clamp(static_cast<int>(std::ceil(wanted / bytes)), least, kMostCopies);
}

// ---- Recording programs ------------------------------------------------------------------------------------------------------------------

class Recorder {
 public:
  Recorder(const Format& format, WeightSet& set) : format_(format), set_(set) {}

  int buffer(int64_t width) {
    BufferSpec spec;
    spec.width = width;
    program_.buffers.push_back(spec);
    return static_cast<int>(program_.buffers.size()) - 1;
  }
  // As the format's products read it: bf16, or integers.
  int input(int64_t width) {
    const int index = buffer(width);
    BufferSpec& spec = program_.buffers.back();
    if (format_.activation_bits < 16) spec.is_quantized = true, spec.bits = format_.activation_bits, spec.group_size = kGroupSize;
    return index;
  }
  // Rows of a small random table.
  int embedded(int64_t width) {
    const int output = buffer(width);
    op(OpKind::kEmbedding, -1, output).weight = set_.table("table." + std::to_string(width), kVocab, width);
    return output;
  }
  void linear(const std::string& name, int from, int to) {
    ProgramOp& l = op(OpKind::kLinear, from, to);
    l.weight = set_.get(name, width(to), width(from));
    l.plane = format_.plane;
  }
  void read(int from) { linear("reader." + std::to_string(width(from)), from, buffer(kReaderN)); }
  void norm(int from, int delta, int to) {
    ProgramOp& n = op(OpKind::kRmsNorm, from, to);
    n.delta = delta, n.eps = 1e-5f;
    n.vector = std::make_shared<const std::vector<float>>(width(from), 1.0f);
  }
  void silu(int from, int to) { op(OpKind::kSiluMul, from, to).width = width(to); }
  ProgramOp& op(OpKind kind, int from, int to) {
    ProgramOp op;
    op.kind = kind, op.input = from, op.output = to;
    program_.ops.push_back(op);
    return program_.ops.back();
  }
  // Logits that nobody asks for end every program.
  Program finish(int from) {
    const int last = buffer(width(from));
    op(OpKind::kGatherRows, from, last);
    program_.logits = buffer(kVocab);
    linear("head." + std::to_string(width(from)), last, program_.logits);
    program_.name = "ops";
    return std::move(program_);
  }

 private:
  int64_t width(int buffer) const { return program_.buffers[buffer].width; }

  const Format& format_;
  WeightSet& set_;
  Program program_;
};

enum class Product { kQkv, kO, kGateUp, kDown };
struct ProductShape {
  Product product;
  const char* name;
  int64_t n, k;
};
std::vector<ProductShape> products_of(const LlamaShape& s) {
  const int64_t q = int64_t{s.heads} * s.head_dim, kv = int64_t{s.kv_heads} * s.head_dim;
  return {{Product::kQkv, "qkv", q + 2 * kv, s.hidden},
          {Product::kO, "o", s.hidden, q},
          {Product::kGateUp, "gate_up", 2 * int64_t{s.intermediate}, s.hidden},
          {Product::kDown, "down", s.hidden, s.intermediate}};
}

// `copies` products one behind the other, each with the barrier that it has in a model. qkv, o and down add to a residual, which a barrier must
// follow (qkv stores in a model; what it adds to lies in L2). gate_up stores SiLU(gate) · up and is followed by a down: take off the same program
// without the gate_ups (`has_product` false). Inputs are a norm's (qkv, gate_up) or a SiLU's (o, down).
Program record_products(const ProductShape& p, const Format& format, WeightSet& set, int copies, bool has_product) {
  Recorder r(format, set);
  const bool is_gate_up = p.product == Product::kGateUp, is_normed = p.product == Product::kQkv || is_gate_up;
  const int64_t activated_width = is_gate_up ? p.n / 2 : p.k, out_width = is_gate_up ? p.k : p.n;
  const int normed = is_normed ? r.input(p.k) : -1, activated = p.product == Product::kQkv ? -1 : r.input(activated_width);
  if (is_normed) {
    r.norm(r.embedded(p.k), -1, normed);
    r.read(normed);
  }
  if (activated >= 0) {
    const int both = r.buffer(2 * activated_width);
    r.linear("maker." + std::to_string(activated_width), r.embedded(kMakerK), both);
    r.silu(both, activated);
    r.read(activated);
  }
  const int residual = r.embedded(out_width), delta = r.buffer(out_width), unread = r.buffer(out_width), gate_up = is_gate_up ? r.buffer(p.n) : -1;
  for (int i = 0; i < copies; ++i) {
    const std::string index = "." + std::to_string(i);
    if (is_gate_up && has_product) r.linear("gate_up" + index, normed, gate_up), r.silu(gate_up, activated);
    if (is_gate_up) r.linear("down" + index, activated, delta);
    else if (has_product) r.linear(p.name + index, is_normed ? normed : activated, delta);
    else continue;
    r.norm(residual, delta, unread);  // nobody reads it: all that is left of it is that the product adds to the residual
  }
  return r.finish(residual);
}

// Rotation, cache write and attention of `layers` layers, each over a cache of its own.
Program record_attention(const LlamaShape& s, WeightSet& set, int layers) {
  Recorder r(kFormats[0], set);
  const int residual = r.embedded(kMakerK), qkv = r.embedded((s.heads + 2 * s.kv_heads) * s.head_dim), attended = r.buffer(int64_t{s.heads} * s.head_dim);
  std::vector<float> frequencies(s.head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] = std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(s.head_dim));
  const VectorRef shared = std::make_shared<const std::vector<float>>(std::move(frequencies));
  for (int layer = 0; layer < layers; ++layer) {
    for (const OpKind kind : {OpKind::kRopeKvWrite, OpKind::kAttention}) {
      ProgramOp& op = r.op(kind, qkv, kind == OpKind::kAttention ? attended : -1);
      op.layer = layer, op.num_heads = s.heads, op.num_kv_heads = s.kv_heads, op.head_dim = s.head_dim;
      if (kind == OpKind::kRopeKvWrite) op.vector = shared, op.eps = 1e-5f;
      else op.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
    }
  }
  return r.finish(residual);
}

// ---- Timing ------------------------------------------------------------------------------------------------------------------------------

// Median microseconds of the pass, or of one of the round's draft passes.
double time_pass(Session& session, const RoundBatch& batch, int num_drafts) {
  std::vector<double> times;
  for (int i = 0; i < kRepeats + kWarmup; ++i) {
    RoundResult result;
    must(session.round(batch, &result), "round");
    if (i >= kWarmup) times.push_back((num_drafts > 0 ? result.draft_ms / num_drafts : result.verify_ms) * 1e3);
  }
  return median(times);
}

struct Row {
  const char *op, *format, *shape;
  int64_t n, k;  // 0 for attention
  int batch, context, rows;
};

struct Bench {
  FILE* csv = nullptr;
  std::string commit;
  BenchDevice device;

  void line(const Row& r, double us, double bytes) const {
    const double limit = bytes / device.read * 1e6;
    std::printf(" %4d: %7.2f %3.0f%%", r.rows, us, 100 * limit / us);
    std::fflush(stdout);
    std::fprintf(csv, "%s,%s,%s,%s,%s,%lld,%lld,%d,%d,%d,%.3f,%.0f,%.3f,%.4f,%.3f,%.4f,%.3f,%.3f\n", device.info.name.c_str(), commit.c_str(), r.op, r.format, r.shape,
                 static_cast<long long>(r.n), static_cast<long long>(r.k), r.batch, r.context, r.rows, us, bytes, limit, limit / us, us - limit,
                 bytes / (us * 1e-6) / device.copy, device.read / 1e12, device.copy / 1e12);
    std::fflush(csv);
  }
};

// ---- Products ----------------------------------------------------------------------------------------------------------------------------

class ProductBench {
 public:
  ProductBench(const Bench& bench, const NamedShape& named, const Format& format, const std::vector<int>& rows)
      : bench_(bench), named_(named), format_(format), rows_(rows), set_(format.weights) {}

  void run() {
    for (const ProductShape& p : products_of(named_.shape)) run_product(p);
  }

 private:
  void run_product(const ProductShape& p) {
    const double bytes = weight_bytes(weight_shape(format_.weights, p.n, p.k), format_.plane);
    const int copies = copies_of(p.product == Product::kGateUp ? bytes / 2 : bytes, kLeastProducts, bench_.device);  // the downs alone exceed L2, too
    const auto with = open(record_products(p, format_, set_, copies, true)), without = open(record_products(p, format_, set_, copies, false));
    std::printf("%-9s %-12s %-7s %6lldx%-6lld x%-2d", format_.name, named_.name, p.name, static_cast<long long>(p.n), static_cast<long long>(p.k), copies);
    for (const int rows : rows_) {
      if (rows == kPromptRows && format_.activation_bits < 16) continue;
      const RoundBatch batch = round_batch(kVocab, 1, rows, rows, 0, false);
      const double us = (time_pass(*with, batch, 0) - time_pass(*without, batch, 0)) / copies;
      bench_.line({p.name, format_.name, named_.name, p.n, p.k, 0, 0, rows}, us, bytes + activation_bytes(p) * rows);
    }
    std::printf("\n");
  }

  // Of one row: read as the format has them, results as bf16 (gate_up: half as many).
  double activation_bytes(const ProductShape& p) const {
    const double results = static_cast<double>(p.product == Product::kGateUp ? p.n / 2 : p.n);
    return static_cast<double>(p.k) * format_.activation_bits / 8 + 2 * results;
  }

  std::unique_ptr<Session> open(Program program) const {
    SessionConfig config;
    config.target = std::move(program);
    const int most = *std::max_element(rows_.begin(), rows_.end());
    config.kv = {KvFormat::kBf16, 1, kPageSize, 1, 32, num_pages(1, most)};  // nothing attends to it
    config.vocab_size = kVocab, config.max_rows = config.max_logit_rows = most;
    std::unique_ptr<Session> session;
    must(CudaSession::create(bench_.device.info, std::move(config), &session), "create_session");
    return session;
  }

  const Bench& bench_;
  const NamedShape& named_;
  const Format& format_;
  const std::vector<int>& rows_;
  WeightSet set_;
};

// ---- Attention ---------------------------------------------------------------------------------------------------------------------------

struct Cache {
  const char* name;
  KvFormat format;
  bool is_draft;  // reads the high plane alone, a row a sequence
};
const Cache kCaches[] = {{"bf16", KvFormat::kBf16, false}, {"int8", KvFormat::kInt8, false}, {"int8-nested", KvFormat::kInt8Nested, false}, {"int8-nested-hi", KvFormat::kInt8Nested, true}};
constexpr int kDrafts = 4;      // passes of a round whose drafts are timed
constexpr int kVerifyRows = 5;  // a sequence

class AttentionBench {
 public:
  AttentionBench(const Bench& bench, const NamedShape& named) : bench_(bench), named_(named), set_(kFormats[0].weights) {}

  void run(const Cache& cache, int batch, int context) {
    const LlamaShape& s = named_.shape;
    const double bytes = 2.0 * s.kv_heads * kv_head_bytes(cache.format, s.head_dim, cache.is_draft) * context * batch;
    const int layers = copies_of(bytes, kLeastLayers, bench_.device);
    std::unique_ptr<Session> many, one;
    std::printf("attention %-12s %-14s b%-3d c%-6d x%-2d", named_.name, cache.name, batch, context, layers);
    if (!open(cache, batch, context, layers, &many) || !open(cache, batch, context, 1, &one)) {
      std::printf(" does not fit\n");
      return;
    }
    for (const int rows : {1, kVerifyRows}) {
      if (cache.is_draft && rows > 1) continue;
      const RoundBatch round = cache.is_draft ? round_batch(kVocab, batch, context, 1, kDrafts, true) : round_batch(kVocab, batch, context, rows, 0, false);
      const int drafts = cache.is_draft ? kDrafts : 0;
      const double us = (time_pass(*many, round, drafts) - time_pass(*one, round, drafts)) / (layers - 1);
      const double activations = 2.0 * (2 * s.heads + 2 * s.kv_heads) * s.head_dim * rows * batch;  // q, k, v and the result
      bench_.line({"attention", cache.name, named_.name, 0, 0, batch, context, rows * batch}, us, bytes + activations);
    }
    std::printf("\n");
  }

 private:
  // False when the cache does not fit.
  bool open(const Cache& cache, int batch, int context, int layers, std::unique_ptr<Session>* session) {
    const LlamaShape& s = named_.shape;
    SessionConfig config;
    config.target = record_attention(s, set_, layers);
    if (cache.is_draft) config.draft = std::make_unique<Program>(record_attention(s, set_, layers));
    config.kv = {cache.format, layers, kPageSize, s.kv_heads, s.head_dim, num_pages(batch, context)};
    config.vocab_size = kVocab, config.max_rows = config.max_logit_rows = kVerifyRows * batch;
    const Status made = CudaSession::create(bench_.device.info, std::move(config), session);
    if (made.code() == StatusCode::kOutOfMemory) return false;
    must(made, "create_session");
    must(static_cast<CudaSession&>(**session).fill_cache_randomly(3), "fill");
    return true;
  }

  const Bench& bench_;
  const NamedShape& named_;
  WeightSet set_;
};

// ---- The matrix --------------------------------------------------------------------------------------------------------------------------

// Words between `/` and `,`. Without a word that it knows, nothing runs.
struct Filter {
  std::string text;
  bool has(const std::string& word) const {
    std::string words = '/' + text + '/';
    std::replace(words.begin(), words.end(), ',', '/');
    return words.find('/' + word + '/') != std::string::npos;
  }
  bool is_quick() const { return has("quick"); }
  bool has_formats() const {
    return std::any_of(std::begin(kFormats), std::end(kFormats), [this](const Format& format) { return has(format.name); });
  }
  bool wants(const Format& format) const {
    if (has_formats()) return has(format.name);
    if (has("attention")) return has("gemm");
    const bool is_quick_one = std::string("w4a16 w8a16 bf16").find(format.name) != std::string::npos;
    return is_quick() ? is_quick_one : text.empty() || has("gemm");
  }
  bool wants_attention() const { return text.empty() || has("attention") || (is_quick() && !has("gemm") && !has_formats()); }
};

void run_shape(const Bench& bench, const NamedShape& named, const Filter& filter) {
  const std::vector<int> rows = filter.is_quick() ? std::vector<int>{1, 8, 32, 64} : std::vector<int>{1, 2, 4, 5, 8, 16, 17, 25, 32, 64, 128, 256, kPromptRows};
  for (const Format& format : kFormats)
    if (filter.wants(format)) ProductBench(bench, named, format, rows).run();
  if (!filter.wants_attention() || std::string(named.name) != "llama-3-8b") return;
  const std::vector<int> batches = filter.is_quick() ? std::vector<int>{1, 8} : std::vector<int>{1, 8, 32};
  const std::vector<int> contexts = filter.is_quick() ? std::vector<int>{8192} : std::vector<int>{1024, 8192, 32768};
  AttentionBench attention(bench, named);
  for (const Cache& cache : kCaches)
    for (const int batch : batches)
      for (const int context : contexts) attention.run(cache, batch, context);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_cuda_ops <out.csv> <commit> [shape] [filter]\n");
    return 2;
  }
  Bench bench;
  if (!bench.device.open()) return kSkipped;
  bench.csv = open_csv(argv[1], kColumns), bench.commit = argv[2];
  if (bench.csv == nullptr) return 2;
  std::printf("op, copies, then for each number of rows: us an op, share of the byte limit\n");
  const std::string wanted = argc > 3 ? argv[3] : "llama-3-8b";
  const Filter filter{argc > 4 ? argv[4] : ""};
  for (const NamedShape& named : named_shapes())
    if (is_wanted(wanted, named.name)) run_shape(bench, named, filter);
  std::fclose(bench.csv);
  return 0;
}
