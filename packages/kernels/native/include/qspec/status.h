// Result of anything that can fail. Native code never exits, prints or throws across a C boundary.
#pragma once
#include <string>
#include <utility>

namespace qspec {

enum class StatusCode {
  kOk = 0,
  kInvalidArgument,    // -> ConfigError
  kShapeMismatch,      // -> ShapeMismatchError
  kUnsupported,        // -> UnsupportedFormatError
  kOutOfMemory,        // -> OutOfMemoryError
  kDevice,             // -> DeviceError
  kDisposed,           // -> DisposedError
  kInternal,           // -> InvariantError
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}
  static Status ok() { return {}; }
  bool is_ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }  // one sentence, then the remedy

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

#define QSPEC_RETURN_IF_ERROR(expr)                   \
  do {                                                \
    ::qspec::Status qspec_status_ = (expr);           \
    if (!qspec_status_.is_ok()) return qspec_status_; \
  } while (0)

}  // namespace qspec
