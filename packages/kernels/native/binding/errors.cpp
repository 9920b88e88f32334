#include "binding/errors.h"

namespace qspec::binding {

namespace {
const char* code_of(StatusCode code) {
  switch (code) {
    case StatusCode::kInvalidArgument: return "INVALID_ARGUMENT";
    case StatusCode::kShapeMismatch: return "SHAPE_MISMATCH";
    case StatusCode::kUnsupported: return "UNSUPPORTED";
    case StatusCode::kOutOfMemory: return "OUT_OF_MEMORY";
    case StatusCode::kDevice: return "DEVICE";
    case StatusCode::kDisposed: return "DISPOSED";
    case StatusCode::kOk:
    case StatusCode::kInternal: break;
  }
  return "INTERNAL";
}
}  // namespace

Napi::Error to_error(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message());
  error.Set("code", Napi::String::New(env, code_of(status.code())));
  return error;
}

void throw_if_error(Napi::Env env, const Status& status) {
  if (!status.is_ok()) throw to_error(env, status);
}

void throw_invalid(Napi::Env env, const std::string& message) { throw to_error(env, {StatusCode::kInvalidArgument, message}); }

}  // namespace qspec::binding
