#include <string>

#include "session/session.h"

namespace qspec {

namespace {
constexpr int64_t kMaxVocab = int64_t{1} << 26;
constexpr int64_t kMaxRows = int64_t{1} << 20;

Status check_limit(const char* option, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return Status::ok();
  return {StatusCode::kInvalidArgument, "Expected `" + std::string(option) + "` to be from 1 to " + std::to_string(limit) + " but received " + std::to_string(value) + "."};
}
}  // namespace

Status validate_session(const SessionConfig& config) {
  QSPEC_RETURN_IF_ERROR(check_limit("vocabSize", config.vocab_size, kMaxVocab));
  QSPEC_RETURN_IF_ERROR(check_limit("maxRows", config.max_rows, kMaxRows));
  QSPEC_RETURN_IF_ERROR(check_limit("maxLogitRows", config.max_logit_rows, kMaxRows));
  QSPEC_RETURN_IF_ERROR(validate_kv_shape(config.kv));
  QSPEC_RETURN_IF_ERROR(validate_program(config.target, config.kv, config.vocab_size));
  return config.draft ? validate_program(*config.draft, config.kv, config.vocab_size) : Status::ok();
}

}  // namespace qspec
