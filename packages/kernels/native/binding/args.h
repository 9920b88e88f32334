// Reading JavaScript values, each checked for type and range. Wrong ones throw an INVALID_ARGUMENT error that names the field.
#pragma once
#include <napi.h>

#include <string>
#include <vector>

#include "binding/errors.h"

namespace qspec::binding {

inline std::string expected(const std::string& field, const char* what) { return "Expected `" + field + "` to be " + what + "."; }

inline Napi::Object object_arg(const Napi::CallbackInfo& info, size_t index, const char* field) {
  if (info.Length() <= index || !info[index].IsObject()) throw_invalid(info.Env(), expected(field, "an object"));
  return info[index].As<Napi::Object>();
}

inline Napi::Object get_object(const Napi::Object& object, const char* field) {
  const Napi::Value value = object.Get(field);
  if (!value.IsObject()) throw_invalid(object.Env(), expected(field, "an object"));
  return value.As<Napi::Object>();
}

inline Napi::Array get_array(const Napi::Object& object, const char* field) {
  const Napi::Value value = object.Get(field);
  if (!value.IsArray()) throw_invalid(object.Env(), expected(field, "an array"));
  return value.As<Napi::Array>();
}

inline std::string get_string(const Napi::Object& object, const char* field) {
  const Napi::Value value = object.Get(field);
  if (!value.IsString()) throw_invalid(object.Env(), expected(field, "a string"));
  return value.As<Napi::String>().Utf8Value();
}

inline double get_number(const Napi::Object& object, const char* field) {
  const Napi::Value value = object.Get(field);
  if (!value.IsNumber()) throw_invalid(object.Env(), expected(field, "a number"));
  return value.As<Napi::Number>().DoubleValue();
}

inline bool get_bool(const Napi::Object& object, const char* field) {
  const Napi::Value value = object.Get(field);
  if (!value.IsBoolean()) throw_invalid(object.Env(), expected(field, "a boolean"));
  return value.As<Napi::Boolean>().Value();
}

inline bool has(const Napi::Object& object, const char* field) { return !object.Get(field).IsUndefined(); }

// An integer in [low, high]; NaN, fractions and numbers beyond are errors.
inline int64_t to_integer(Napi::Env env, const std::string& field, double value, double low, double high) {
  if (!(value >= low && value <= high) || value != static_cast<double>(static_cast<int64_t>(value))) {
    throw_invalid(env, "Expected `" + field + "` to be an integer from " + std::to_string(static_cast<int64_t>(low)) + " to " +
                           std::to_string(static_cast<int64_t>(high)) + " but received " + std::to_string(value) + ".");
  }
  return static_cast<int64_t>(value);
}

inline int64_t get_int64(const Napi::Object& object, const char* field, double low = 0, double high = 9007199254740991.0) {
  return to_integer(object.Env(), field, get_number(object, field), low, high);
}
inline int get_int(const Napi::Object& object, const char* field, int low = 0, int high = INT32_MAX) {
  return static_cast<int>(get_int64(object, field, low, high));
}

template <typename T>
struct TypedArrayOf;
template <>
struct TypedArrayOf<int32_t> {
  static constexpr napi_typedarray_type kType = napi_int32_array;
  static constexpr const char* kName = "an Int32Array";
};
template <>
struct TypedArrayOf<uint8_t> {
  static constexpr napi_typedarray_type kType = napi_uint8_array;
  static constexpr const char* kName = "a Uint8Array";
};
template <>
struct TypedArrayOf<uint16_t> {
  static constexpr napi_typedarray_type kType = napi_uint16_array;
  static constexpr const char* kName = "a Uint16Array";
};
template <>
struct TypedArrayOf<float> {
  static constexpr napi_typedarray_type kType = napi_float32_array;
  static constexpr const char* kName = "a Float32Array";
};
template <>
struct TypedArrayOf<double> {
  static constexpr napi_typedarray_type kType = napi_float64_array;
  static constexpr const char* kName = "a Float64Array";
};

template <typename T>
struct Span {
  const T* data;
  size_t length;
};

// Borrowed: valid while the JavaScript array is alive and not detached.
template <typename T>
Span<T> to_span(const Napi::Value& value, const char* field) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != TypedArrayOf<T>::kType) {
    throw_invalid(value.Env(), expected(field, TypedArrayOf<T>::kName));
  }
  const auto array = value.As<Napi::TypedArrayOf<T>>();
  return {array.Data(), array.ElementLength()};
}
template <typename T>
Span<T> get_span(const Napi::Object& object, const char* field) {
  return to_span<T>(object.Get(field), field);
}

// A copy: JavaScript may change its array while native code works.
template <typename T>
std::vector<T> to_vector(const Napi::Value& value, const char* field) {
  const Span<T> span = to_span<T>(value, field);
  return std::vector<T>(span.data, span.data + span.length);
}
template <typename T>
std::vector<T> get_vector(const Napi::Object& object, const char* field) {
  return to_vector<T>(object.Get(field), field);
}
template <typename T>
std::vector<T> get_optional_vector(const Napi::Object& object, const char* field) {
  return has(object, field) ? get_vector<T>(object, field) : std::vector<T>();
}

template <typename T>
Napi::Value to_typed_array(Napi::Env env, const std::vector<T>& values) {
  auto array = Napi::TypedArrayOf<T>::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

}  // namespace qspec::binding
