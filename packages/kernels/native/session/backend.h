// What a kind of device offers: weights in its own layout, sessions over them, and what it is. Knows nothing of Node.
// Every method may be called from any thread. Weights and sessions keep alive what they need of their backend.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "qspec/packing.h"
#include "qspec/status.h"
#include "session/session.h"

namespace qspec {

struct BackendDescription {
  std::string description;  // one line for people: `avx512vnni, 2 threads`, `NVIDIA H100 80GB HBM3 (sm_90, 79 GiB)`
  std::string arch;         // `avx512vnni`, `scalar`, `sm_90`
  int num_threads = 1;      // 1 where threads are not what makes it fast
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Stacks `parts` (equal kind, K, group size, radix, Hadamard block) along N. The parts are only read during the call.
  virtual Status create_weight(const std::vector<WeightSource>& parts, std::shared_ptr<const Weight>* out) const = 0;

  // The programs' weights are this backend's. kUnsupported for a KV format that it has no kernels for. Scratch and KV are reserved here, so
  // nothing large is allocated while decoding.
  virtual Status create_session(SessionConfig config, std::unique_ptr<Session>* out) const = 0;

  // Bytes a second of large sequential reads: the denominator of every byte limit. Takes well under a second.
  virtual Status measure_read_bandwidth(double* bytes_per_second) const = 0;

  virtual BackendDescription describe() const = 0;

  // Bytes of its own memory that may still be allocated; -1: it lives in the system's memory, ask the system.
  virtual Status free_bytes(int64_t* bytes) const = 0;
};

}  // namespace qspec
