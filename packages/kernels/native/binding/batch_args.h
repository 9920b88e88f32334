// Batches in, results out: the typed arrays of src/native-types.ts, copied. Values are checked by the session.
#pragma once
#include <napi.h>

#include "session/session.h"

namespace qspec::binding {

ForwardBatch read_forward_batch(const Napi::Object& object);
Napi::Value write_forward_result(Napi::Env env, const ForwardResult& result, bool has_labels);

// A batch and the arrays that its samplers point into.
struct OwnedRoundBatch {
  RoundBatch batch;
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> history;
};
std::shared_ptr<OwnedRoundBatch> read_round_batch(const Napi::Object& object);
Napi::Value write_round_result(Napi::Env env, const RoundResult& result);

}  // namespace qspec::binding
