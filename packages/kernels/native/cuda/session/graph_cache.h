// Captured graphs by the shape of what they launch. A graph's kernels read everything that changes from fixed addresses, so equal shapes replay.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "common/device.h"

namespace qspec::cuda {

class GraphCache {
 public:
  ~GraphCache() { clear(); }
  // Launches the graph of `key`, capturing it from `enqueue` when it is new.
  Status run(const std::string& key, cudaStream_t stream, const std::function<Status()>& enqueue);
  void clear();

 private:
  struct Entry {
    cudaGraphExec_t graph = nullptr;
    uint64_t last_use = 0;
  };
  void evict();

  std::map<std::string, Entry> entries_;
  uint64_t clock_ = 0;
};

}  // namespace qspec::cuda
