// The CUDA backend and the scalar reference side by side, over the same random weights.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "llama_program.h"
#include "qspec/ops.h"
#include "random_weight.h"
#include "session/cpu_backend.h"
#include "session/cuda_backend.h"
#include "testkit.h"

namespace qspec::test {

inline std::shared_ptr<Backend> cuda_backend() {
  static const std::shared_ptr<Backend> backend = [] {
    std::shared_ptr<Backend> made;
    const Status status = cuda::create_cuda_backend(0, &made);
    if (!status.is_ok()) fail(__FILE__, __LINE__, "%s", status.message().c_str());
    return made;
  }();
  return backend;
}
inline std::shared_ptr<Backend> reference_backend() {
  static const std::shared_ptr<Backend> backend = [] {
    std::shared_ptr<ThreadPool> pool;
    (void)ThreadPool::create(2, &pool);
    return std::make_shared<CpuBackend>(reference_ops(), pool);
  }();
  return backend;
}

inline void expect_ok(const Status& status, const char* what) {
  if (!status.is_ok()) fail(__FILE__, __LINE__, "%s: %s", what, status.message().c_str());
}

// Which format a matrix has, by name; weights and vectors made once a backend and name.
class Model {
 public:
  using Format = std::function<WeightSpec(const std::string& name)>;
  Model(LlamaShape shape, Format format, int hadamard_block, uint64_t seed = 1)
      : shape_(shape), format_(std::move(format)), hadamard_block_(hadamard_block), seed_(seed) {}

  const LlamaShape& shape() const { return shape_; }

  Program program(const Backend& backend, const LlamaMode& mode) {
    const MakeWeight weight = [&](const std::string& name, int64_t n, int64_t k) { return weight_of(backend, name, n, k); };
    const MakeVector vector = [&](const std::string& name, int64_t length) { return vector_of(name, length); };
    return record_llama(shape_, mode, weight, vector);
  }

 private:
  WeightRef weight_of(const Backend& backend, const std::string& name, int64_t n, int64_t k) {
    WeightRef& slot = weights_[{&backend, name}];
    if (slot) return slot;
    RandomWeight random(format_(name), n, k, seed_ + std::hash<std::string>()(name) % 1000003);
    // gate_up and qkv come in two parts, as checkpoints store them.
    WeightSource source = random.source(name);
    if (source.kind != WeightKind::kDenseF32 && name != "embedding" && name != "head") source.hadamard_block = hadamard_block_;
    expect_ok(backend.create_weight({source}, &slot), name.c_str());
    return slot;
  }
  VectorRef vector_of(const std::string& name, int64_t length) {
    VectorRef& slot = vectors_[name];
    if (slot) return slot;
    Rng rng(seed_ * 7 + std::hash<std::string>()(name) % 1000003);
    std::vector<float> values(length);
    const bool is_bias = name.find("bias") != std::string::npos;
    for (float& v : values) v = is_bias ? rng.normal() * 0.3f : 1.0f + 0.2f * rng.normal();
    slot = std::make_shared<const std::vector<float>>(std::move(values));
    return slot;
  }

  LlamaShape shape_;
  Format format_;
  int hadamard_block_;
  uint64_t seed_;
  std::map<std::pair<const Backend*, std::string>, WeightRef> weights_;
  std::map<std::string, VectorRef> vectors_;
};

struct SessionSpec {
  LlamaMode target, draft;
  bool has_draft = false;
  KvFormat kv = KvFormat::kBf16;
  int num_pages = 64, page_size = 16;
  int max_rows = 96;
};

inline SessionConfig session_config(Backend& backend, Model& model, const SessionSpec& spec) {
  SessionConfig config;
  config.target = model.program(backend, spec.target);
  if (spec.has_draft) config.draft = std::make_unique<Program>(model.program(backend, spec.draft));
  const LlamaShape& s = model.shape();
  config.kv = {spec.kv, s.layers, spec.page_size, s.kv_heads, s.head_dim, spec.num_pages};
  config.vocab_size = s.vocab, config.max_rows = spec.max_rows, config.max_logit_rows = spec.max_rows;
  return config;
}
inline std::unique_ptr<Session> make_session(const std::shared_ptr<Backend>& backend, Model& model, const SessionSpec& spec) {
  std::unique_ptr<Session> session;
  expect_ok(backend->create_session(session_config(*backend, model, spec), &session), "create_session");
  return session;
}

// Rows of one sequence at positions start …, on `pages`; logits of all of them.
inline ForwardBatch chain(const std::vector<int32_t>& tokens, int start, const std::vector<int32_t>& pages) {
  ForwardBatch batch;
  batch.pages = {{0, static_cast<int32_t>(pages.size())}, pages};
  batch.tokens = tokens;
  for (size_t i = 0; i < tokens.size(); ++i) {
    batch.positions.push_back(start + static_cast<int32_t>(i));
    batch.sequences.push_back(0);
    batch.logit_rows.push_back(static_cast<int32_t>(i));
  }
  return batch;
}

inline std::vector<int32_t> random_tokens(int count, int vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& t : tokens) t = rng.integer(0, vocab - 1);
  return tokens;
}

// Logits of all tokens, `chunk` rows at a time.
inline std::vector<float> forward_all(Session& session, const std::vector<int32_t>& tokens, int chunk, const std::vector<int32_t>& pages, bool is_draft = false) {
  std::vector<float> logits;
  for (size_t start = 0; start < tokens.size(); start += chunk) {
    const auto end = std::min(tokens.size(), start + chunk);
    ForwardBatch batch = chain({tokens.begin() + start, tokens.begin() + end}, static_cast<int>(start), pages);
    batch.is_draft = is_draft;
    ForwardResult result;
    expect_ok(session.forward(batch, &result), "forward");
    logits.insert(logits.end(), result.logits.begin(), result.logits.end());
  }
  return logits;
}

}  // namespace qspec::test
