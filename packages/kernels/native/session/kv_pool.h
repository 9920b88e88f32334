// The KV cache of one session: K and V of every layer over one pool of slots.
#pragma once
#include <vector>

#include "session/memory.h"
#include "session/program.h"

namespace qspec {

class KvPool {
 public:
  Status create(const KvShape& shape);
  const KvLayer& layer(int index) const { return layers_[index]; }
  size_t bytes() const { return memory_.bytes(); }
  // Copies K and V of whole pages over all layers. Page ids were checked.
  void copy_page(int64_t from, int64_t to);

 private:
  KvShape shape_;
  Memory memory_;
  std::vector<KvLayer> layers_;
};

}  // namespace qspec
