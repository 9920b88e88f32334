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
  // Launches the graph of `key`, capturing it from `enqueue` when it is new; one of hundreds of kernels (`is_long`) when it comes a second time, for a prompt's lengths seldom do.
  Status run(const std::string& key, bool is_long, cudaStream_t stream, const std::function<Status()>& enqueue);
  void clear();

 private:
  struct Entry {
    cudaGraphExec_t graph = nullptr;  // not yet, of a long one that came once
    uint64_t last_use = 0;
    bool is_long = false;
  };
  void make_room(bool is_long);
  static void destroy(const Entry& entry);

  std::map<std::string, Entry> entries_;
  uint64_t clock_ = 0;
};

}  // namespace qspec::cuda
