#include "binding/weight_args.h"

#include "binding/args.h"

namespace qspec::binding {

namespace {

constexpr double kMaxSide = 1 << 28;
constexpr const char* kArrayFields[] = {"dense", "hi", "lo", "scales"};

// Reads one array of `length` elements; bytes for dense weights.
template <typename T>
const T* read_array(const Napi::Object& part, const std::string& tensor, const char* field, int64_t length) {
  const Span<T> span = get_span<T>(part, field);
  if (static_cast<int64_t>(span.length) == length) return span.data;
  throw to_error(part.Env(), {StatusCode::kShapeMismatch, "Expected `" + std::string(field) + "` of " + tensor + " to have " + std::to_string(length) +
                                                              " elements but received " + std::to_string(span.length) + "."});
}

DenseType dense_type(const Napi::Object& part) {
  const std::string dtype = get_string(part, "dtype");
  if (dtype == "f32") return DenseType::kF32;
  if (dtype == "f16") return DenseType::kF16;
  if (dtype == "bf16") return DenseType::kBf16;
  throw_invalid(part.Env(), "Expected `dtype` to be f32, f16 or bf16 but received " + dtype + ".");
}

void read_dense(const Napi::Object& part, WeightSource* source) {
  source->kind = WeightKind::kDenseF32;
  source->dense_type = dense_type(part);
  const int64_t bytes = source->n * source->k * (source->dense_type == DenseType::kF32 ? 4 : 2);
  source->dense = read_array<uint8_t>(part, source->name, "dense", bytes);
}

void read_quantized(const Napi::Object& part, bool is_nested, WeightSource* source) {
  source->kind = is_nested ? WeightKind::kNested8 : WeightKind::kInt4;
  source->group_size = get_int(part, "groupSize");
  source->radix = get_int(part, "radix");
  source->hadamard_block = get_int(part, "hadamardBlock");
  const int group = source->group_size, block = source->hadamard_block;
  if ((group != 32 && group != 64 && group != 128) || source->k % group != 0) {
    throw to_error(part.Env(), {StatusCode::kUnsupported, "Expected `groupSize` of " + source->name + " to be 32, 64 or 128 and divide " +
                                                              std::to_string(source->k) + " but received " + std::to_string(group) + "."});
  }
  if (is_nested && (source->radix < 8 || source->radix > 15)) {
    throw to_error(part.Env(), {StatusCode::kUnsupported, "Expected `radix` of " + source->name + " to be from 8 to 15 but received " +
                                                              std::to_string(source->radix) + "."});
  }
  if (block != 0 && ((block & (block - 1)) != 0 || source->k % block != 0)) {
    throw to_error(part.Env(), {StatusCode::kUnsupported, "Expected `hadamardBlock` of " + source->name + " to be 0 or a power of two that divides " +
                                                              std::to_string(source->k) + " but received " + std::to_string(block) + "."});
  }
  const int64_t words = source->n * (source->k / 8);
  source->hi = read_array<int32_t>(part, source->name, "hi", words);
  if (is_nested) source->lo = read_array<int32_t>(part, source->name, "lo", words);
  source->scales = read_array<uint16_t>(part, source->name, "scales", source->n * (source->k / group));
}

WeightSource read_part(const Napi::Object& part) {
  WeightSource source{};
  source.name = get_string(part, "name");
  source.n = get_int64(part, "numRows", 1, kMaxSide);
  source.k = get_int64(part, "numColumns", 1, kMaxSide);
  source.radix = 1;
  const std::string kind = get_string(part, "kind");
  if (kind == "dense") {
    read_dense(part, &source);
  } else if (kind == "int4" || kind == "nested8") {
    read_quantized(part, kind == "nested8", &source);
  } else {
    throw_invalid(part.Env(), "Expected `kind` of " + source.name + " to be dense, int4 or nested8 but received " + kind + ".");
  }
  return source;
}

Napi::Array list_of(const Napi::Value& parts) {
  if (!parts.IsArray() || parts.As<Napi::Array>().Length() == 0) throw_invalid(parts.Env(), expected("parts", "an array of weights"));
  return parts.As<Napi::Array>();
}

}  // namespace

std::vector<WeightSource> read_weight_sources(const Napi::Value& parts) {
  const Napi::Array list = list_of(parts);
  std::vector<WeightSource> sources;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Value part = list.Get(i);
    if (!part.IsObject()) throw_invalid(parts.Env(), expected("parts", "an array of objects"));
    sources.push_back(read_part(part.As<Napi::Object>()));
  }
  return sources;
}

Napi::Value hold_arrays(const Napi::Value& parts) {
  const Napi::Array list = list_of(parts);
  Napi::Array held = Napi::Array::New(parts.Env());
  for (uint32_t i = 0; i < list.Length(); ++i) {
    for (const char* field : kArrayFields) {
      const Napi::Value array = list.Get(i).As<Napi::Object>().Get(field);
      if (array.IsTypedArray()) held.Set(held.Length(), array.As<Napi::TypedArray>().ArrayBuffer());
    }
  }
  return held;
}

}  // namespace qspec::binding
