#include "binding/program_args.h"

#include "binding/args.h"

namespace qspec::binding {

namespace {

template <typename Enum>
struct Name {
  const char* name;
  Enum value;
};

template <typename Enum, size_t kCount>
Enum pick(Napi::Env env, const char* field, const std::string& text, const Name<Enum> (&names)[kCount]) {
  std::string all;
  for (const auto& [name, value] : names) {
    if (text == name) return value;
    all += std::string(all.empty() ? "" : ", ") + name;
  }
  throw_invalid(env, "Expected `" + std::string(field) + "` to be one of " + all + " but received " + text + ".");
}

constexpr Name<KvFormat> kKvFormats[] = {
    {"f32", KvFormat::kF32}, {"bf16", KvFormat::kBf16}, {"int8", KvFormat::kInt8}, {"int8-nested", KvFormat::kInt8Nested}};
constexpr Name<Plane> kPlanes[] = {{"full", Plane::kFull}, {"hi", Plane::kHi}};
constexpr Name<bool> kBufferKinds[] = {{"float", false}, {"quantized", true}};
constexpr Name<bool> kGranularities[] = {{"token", true}, {"group", false}};

BufferSpec read_buffer(const Napi::Object& object) {
  BufferSpec buffer;
  buffer.is_quantized = pick(object.Env(), "kind", get_string(object, "kind"), kBufferKinds);
  buffer.width = get_int64(object, "width");
  if (!buffer.is_quantized) return buffer;
  buffer.bits = get_int(object, "bits");
  buffer.group_size = get_int(object, "groupSize");
  buffer.per_token = pick(object.Env(), "granularity", get_string(object, "granularity"), kGranularities);
  return buffer;
}

template <typename Ref>
Ref find(const Napi::Object& object, const char* field, const std::unordered_map<int64_t, Ref>& table) {
  const auto found = table.find(get_int64(object, field));
  if (found == table.end()) throw_invalid(object.Env(), expected(field, "a handle of this backend"));
  return found->second;
}
VectorRef find_optional(const Napi::Object& object, const char* field, const Residents& residents) {
  return has(object, field) ? find(object, field, residents.vectors) : nullptr;
}

void read_sink(const Napi::Object& object, ProgramOp* op) {
  op->output = get_int(object, "output");
  op->hadamard_block = get_int(object, "hadamardBlock");
}

void read_heads(const Napi::Object& object, ProgramOp* op) {
  op->input = get_int(object, "qkv");
  op->layer = get_int(object, "layer");
  op->num_heads = get_int(object, "numHeads", 1, 1 << 16);
  op->num_kv_heads = get_int(object, "numKvHeads", 1, 1 << 16);
  op->head_dim = get_int(object, "headDim", 1, 1 << 16);
}

void read_embedding(const Napi::Object& object, const Residents& residents, ProgramOp* op) {
  op->weight = find(object, "table", residents.weights);
  op->output = get_int(object, "output");
}
void read_gather(const Napi::Object& object, const Residents&, ProgramOp* op) {
  op->input = get_int(object, "input");
  op->output = get_int(object, "output");
}
void read_rms_norm(const Napi::Object& object, const Residents& residents, ProgramOp* op) {
  op->input = get_int(object, "input");
  if (has(object, "delta")) op->delta = get_int(object, "delta");
  op->vector = find(object, "weight", residents.vectors);
  op->eps = static_cast<float>(get_number(object, "eps"));
  read_sink(object, op);
}
void read_transform(const Napi::Object& object, const Residents&, ProgramOp* op) {
  op->input = get_int(object, "input");
  read_sink(object, op);
}
void read_linear(const Napi::Object& object, const Residents& residents, ProgramOp* op) {
  op->weight = find(object, "weight", residents.weights);
  op->plane = pick(object.Env(), "plane", get_string(object, "plane"), kPlanes);
  op->input = get_int(object, "input");
  op->output = get_int(object, "output");
  op->output_column = get_int64(object, "outputColumn");
  op->vector = find_optional(object, "bias", residents);
}
void read_rope(const Napi::Object& object, const Residents& residents, ProgramOp* op) {
  read_heads(object, op);
  op->vector = find(object, "inverseFrequencies", residents.vectors);
  op->attention_factor = static_cast<float>(get_number(object, "attentionFactor"));
  op->q_norm = find_optional(object, "qNorm", residents);
  op->k_norm = find_optional(object, "kNorm", residents);
  op->eps = static_cast<float>(get_number(object, "eps"));
}
void read_attention(const Napi::Object& object, const Residents&, ProgramOp* op) {
  read_heads(object, op);
  op->scale = static_cast<float>(get_number(object, "scale"));
  op->sliding_window = get_int(object, "slidingWindow");
  read_sink(object, op);
}
void read_silu_mul(const Napi::Object& object, const Residents&, ProgramOp* op) {
  op->input = get_int(object, "input");
  op->width = get_int64(object, "width");
  read_sink(object, op);
}

// In the order of OpKind.
using ReadOp = void (*)(const Napi::Object&, const Residents&, ProgramOp*);
constexpr ReadOp kReaders[kNumOpKinds] = {read_embedding, read_gather, read_rms_norm,  read_transform,
                                          read_linear,    read_rope,   read_attention, read_silu_mul};

ProgramOp read_op(const Napi::Object& object, const Residents& residents) {
  const std::string name = get_string(object, "op");
  for (int kind = 0; kind < kNumOpKinds; ++kind) {
    if (name != op_name(static_cast<OpKind>(kind))) continue;
    ProgramOp op;
    op.kind = static_cast<OpKind>(kind);
    kReaders[kind](object, residents, &op);
    return op;
  }
  throw_invalid(object.Env(), "Expected `op` to be one that this backend has but received " + name + ".");
}

// Calls `read` on every element; an error says which element it was.
template <typename T, typename Read>
std::vector<T> read_list(const Napi::Object& object, const char* field, const std::string& place, Read read) {
  const Napi::Array array = get_array(object, field);
  std::vector<T> list;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    try {
      const Napi::Value value = array.Get(i);
      if (!value.IsObject()) throw_invalid(object.Env(), expected(field, "objects"));
      list.push_back(read(value.As<Napi::Object>()));
    } catch (const Napi::Error& error) {
      throw_invalid(object.Env(), error.Message() + " (" + place + ", " + field + "[" + std::to_string(i) + "])");
    }
  }
  return list;
}

Program read_program(const Napi::Object& object, const Residents& residents) {
  Program program;
  program.name = get_string(object, "name");
  const std::string place = "program `" + program.name + "`";
  program.buffers = read_list<BufferSpec>(object, "buffers", place, read_buffer);
  program.ops = read_list<ProgramOp>(object, "ops", place, [&](const Napi::Object& op) { return read_op(op, residents); });
  program.logits = get_int(object, "logits");
  return program;
}

KvShape read_kv_shape(const Napi::Object& object) {
  KvShape shape;
  shape.format = pick(object.Env(), "kv.format", get_string(object, "format"), kKvFormats);
  shape.num_layers = get_int(object, "numLayers", 0, 1 << 16);
  shape.num_pages = get_int64(object, "numPages", 0, INT32_MAX);
  shape.page_size = get_int(object, "pageSize", 0, 1 << 16);
  shape.num_kv_heads = get_int(object, "numKvHeads", 0, 1 << 16);
  shape.head_dim = get_int(object, "headDim", 0, 1 << 16);
  return shape;
}

}  // namespace

SessionConfig read_session_config(const Napi::Object& spec, const Residents& residents) {
  SessionConfig config;
  config.target = read_program(get_object(spec, "target"), residents);
  if (has(spec, "draft")) config.draft = std::make_unique<Program>(read_program(get_object(spec, "draft"), residents));
  config.kv = read_kv_shape(get_object(spec, "kv"));
  config.vocab_size = get_int64(spec, "vocabSize");
  config.max_rows = get_int64(spec, "maxRows");
  config.max_logit_rows = get_int64(spec, "maxLogitRows");
  return config;
}

}  // namespace qspec::binding
