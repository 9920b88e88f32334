// Programs and sessions as src/lowering.ts describes them: core's objects with weight and vector handles as ids.
#pragma once
#include <napi.h>

#include <unordered_map>

#include "session/session.h"

namespace qspec::binding {

// What a backend has made so far, by id.
struct Residents {
  std::unordered_map<int64_t, WeightRef> weights;
  std::unordered_map<int64_t, VectorRef> vectors;
};

// Throws an error that names program, op and field when something is missing or of the wrong type. Widths and indices are checked later,
// by validate_program.
SessionConfig read_session_config(const Napi::Object& spec, const Residents& residents);

}  // namespace qspec::binding
