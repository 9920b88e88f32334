// Status -> JavaScript error: an Error with `code` (src/native-types.ts: NativeStatus) and the sentence as its message.
#pragma once
#include <napi.h>

#include "qspec/status.h"

namespace qspec::binding {

Napi::Error to_error(Napi::Env env, const Status& status);
// Throws into JavaScript when `status` is an error.
void throw_if_error(Napi::Env env, const Status& status);
[[noreturn]] void throw_invalid(Napi::Env env, const std::string& message);

}  // namespace qspec::binding
