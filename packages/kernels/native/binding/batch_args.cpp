#include "binding/batch_args.h"

#include "binding/args.h"

namespace qspec::binding {

namespace {

// Columns of `samplers`, as SAMPLER_FIELDS in src/native-types.ts.
enum SamplerColumn {
  kTemperature, kTopK, kTopP, kMinP, kRepetition, kPresence, kFrequency, kSeed, kStream, kNumPrompt, kNumLogprobs, kNumBias, kNumHistory,
  kNumSamplerColumns
};

PageTables read_pages(const Napi::Object& object) {
  return {get_vector<int32_t>(object, "pageOffsets"), get_vector<int32_t>(object, "pageIds")};
}

class SamplerReader {
 public:
  SamplerReader(Napi::Env env, OwnedRoundBatch& owned) : env_(env), owned_(owned) {}

  SamplerParams read(const double* row) {
    const int num_bias = integer("numBias", row[kNumBias], 0, static_cast<double>(owned_.bias_ids.size() - next_bias_));
    const int num_history = integer("numHistory", row[kNumHistory], 0, static_cast<double>(owned_.history.size() - next_history_));
    SamplerParams params{};
    params.temperature = static_cast<float>(row[kTemperature]);
    params.top_k = integer("topK", row[kTopK], 0, INT32_MAX);
    params.top_p = static_cast<float>(row[kTopP]);
    params.min_p = static_cast<float>(row[kMinP]);
    params.repetition_penalty = static_cast<float>(row[kRepetition]);
    params.presence_penalty = static_cast<float>(row[kPresence]);
    params.frequency_penalty = static_cast<float>(row[kFrequency]);
    params.seed = static_cast<uint32_t>(to_integer(env_, "seed", row[kSeed], 0, UINT32_MAX));
    params.stream = static_cast<uint32_t>(to_integer(env_, "stream", row[kStream], 0, UINT32_MAX));
    params.bias_ids = owned_.bias_ids.data() + next_bias_;
    params.bias_values = owned_.bias_values.data() + next_bias_;
    params.num_bias = num_bias;
    params.history = owned_.history.data() + next_history_;
    params.num_history = num_history;
    params.num_prompt = integer("numPromptTokens", row[kNumPrompt], 0, INT32_MAX);
    if (params.num_prompt > num_history) params.num_prompt = num_history;  // no history was sent: no penalty needs it
    params.num_logprobs = integer("logprobs", row[kNumLogprobs], -1, 1024);
    next_bias_ += num_bias;
    next_history_ += num_history;
    return params;
  }

 private:
  int integer(const char* field, double value, double low, double high) {
    return static_cast<int>(to_integer(env_, field, value, low, high));
  }

  Napi::Env env_;
  OwnedRoundBatch& owned_;
  size_t next_bias_ = 0, next_history_ = 0;
};

}  // namespace

ForwardBatch read_forward_batch(const Napi::Object& object) {
  ForwardBatch batch;
  batch.is_draft = get_bool(object, "isDraft");
  batch.pages = read_pages(object);
  batch.tokens = get_vector<int32_t>(object, "tokens");
  batch.positions = get_vector<int32_t>(object, "positions");
  batch.sequences = get_vector<int32_t>(object, "sequences");
  batch.has_ancestors = has(object, "ancestorStarts") || has(object, "ancestorSlots");
  if (batch.has_ancestors) {
    batch.max_ancestors = get_int(object, "maxAncestors");
    batch.ancestor_starts = get_vector<int32_t>(object, "ancestorStarts");
    batch.ancestor_slots = get_vector<int32_t>(object, "ancestorSlots");
  }
  batch.logit_rows = get_vector<int32_t>(object, "logitRows");
  batch.has_labels = has(object, "labels");
  batch.labels = get_optional_vector<int32_t>(object, "labels");
  return batch;
}

Napi::Value write_forward_result(Napi::Env env, const ForwardResult& result, bool has_labels) {
  Napi::Object object = Napi::Object::New(env);
  if (has_labels) {
    object.Set("logprobs", to_typed_array(env, result.logprobs));
  } else {
    object.Set("logits", to_typed_array(env, result.logits));
  }
  object.Set("argmax", to_typed_array(env, result.argmax));
  return object;
}

std::shared_ptr<OwnedRoundBatch> read_round_batch(const Napi::Object& object) {
  const Napi::Env env = object.Env();
  auto owned = std::make_shared<OwnedRoundBatch>();
  RoundBatch& batch = owned->batch;
  batch.pages = read_pages(object);
  batch.token_offsets = get_vector<int32_t>(object, "tokenOffsets");
  batch.tokens = get_vector<int32_t>(object, "tokens");
  batch.start_positions = get_vector<int32_t>(object, "startPositions");
  batch.emit = get_vector<uint8_t>(object, "emit");
  batch.gammas = get_vector<int32_t>(object, "gammas");
  batch.draft_tokens = get_optional_vector<int32_t>(object, "draftTokens");
  owned->bias_ids = get_vector<int32_t>(object, "biasIds");
  owned->bias_values = get_vector<float>(object, "biasValues");
  owned->history = get_vector<int32_t>(object, "history");
  const Span<double> samplers = get_span<double>(object, "samplers");
  if (owned->bias_ids.size() != owned->bias_values.size()) throw_invalid(env, "Expected as many `biasIds` as `biasValues`.");
  if (samplers.length % kNumSamplerColumns != 0) throw_invalid(env, "Expected whole rows in `samplers`.");
  SamplerReader reader(env, *owned);
  for (size_t row = 0; row < samplers.length; row += kNumSamplerColumns) batch.samplers.push_back(reader.read(samplers.data + row));
  return owned;
}

Napi::Value write_round_result(Napi::Env env, const RoundResult& result) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("tokenOffsets", to_typed_array(env, result.token_offsets));
  object.Set("tokens", to_typed_array(env, result.tokens));
  object.Set("numAccepted", to_typed_array(env, result.num_accepted));
  object.Set("logprobs", to_typed_array(env, result.logprobs));
  object.Set("topCounts", to_typed_array(env, result.top_counts));
  object.Set("topTokens", to_typed_array(env, result.top_tokens));
  object.Set("topLogprobs", to_typed_array(env, result.top_logprobs));
  object.Set("draftMs", Napi::Number::New(env, result.draft_ms));
  object.Set("verifyMs", Napi::Number::New(env, result.verify_ms));
  return object;
}

}  // namespace qspec::binding
