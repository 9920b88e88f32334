// A cache layer that owns its memory, and sequences on scattered pages of it. Slots nobody was given hold NaN, so that
// a read of one shows.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "qspec/dtype.h"
#include "qspec/params.h"
#include "testkit.h"

namespace qspec::test {

inline const char* format_name(KvFormat format) {
  return format == KvFormat::kF32 ? "f32" : format == KvFormat::kBf16 ? "bf16" : "int8";
}

struct PagedCache {
  KvLayer layer = {};
  std::vector<float> f32[2], scales[2];
  std::vector<uint16_t> bf16[2];
  std::vector<int8_t> int8[2];
  std::vector<int32_t> free_pages;

  PagedCache(KvFormat format, int num_kv_heads, int head_dim, int page_size, int64_t num_pages, Rng& rng) {
    layer.format = format;
    layer.num_kv_heads = num_kv_heads, layer.head_dim = head_dim, layer.page_size = page_size;
    layer.num_slots = num_pages * page_size;
    const size_t vectors = layer.num_slots * num_kv_heads, elements = vectors * head_dim;
    for (int i = 0; i < 2; ++i) {
      if (format == KvFormat::kF32) f32[i].assign(elements, NAN);
      if (format == KvFormat::kBf16) bf16[i].assign(elements, 0x7fc0);
      if (format == KvFormat::kInt8) int8[i].assign(elements, 77), scales[i].assign(vectors, NAN);
    }
    layer.k = data(0), layer.v = data(1);
    layer.k_scales = scales[0].data(), layer.v_scales = scales[1].data();
    for (int64_t page = 0; page < num_pages; ++page) free_pages.push_back(static_cast<int32_t>(page));
    for (size_t i = free_pages.size(); i > 1; --i) std::swap(free_pages[i - 1], free_pages[rng.next() % i]);
  }
  void* data(int i) {
    return layer.format == KvFormat::kF32    ? static_cast<void*>(f32[i].data())
           : layer.format == KvFormat::kBf16 ? static_cast<void*>(bf16[i].data())
                                             : static_cast<void*>(int8[i].data());
  }
  int32_t take_page() {
    const int32_t page = free_pages.back();
    free_pages.pop_back();
    return page;
  }
  // K and V of `content` (a number that names a token) into `slot`: the same content gives the same bits in any cache
  // of the shape.
  void fill(int64_t slot, uint64_t content) {
    for (int i = 0; i < 2; ++i) {
      Rng rng(content * 2 + i);
      for (int head = 0; head < layer.num_kv_heads; ++head) {
        const int64_t vector = slot * layer.num_kv_heads + head;
        if (layer.format == KvFormat::kInt8) scales[i][vector] = rng.uniform(0.005f, 0.02f);
        for (int d = 0; d < layer.head_dim; ++d) {
          const int64_t index = vector * layer.head_dim + d;
          const float value = rng.normal();
          if (layer.format == KvFormat::kF32) f32[i][index] = value;
          if (layer.format == KvFormat::kBf16) bf16[i][index] = float_to_bf16(value);
          if (layer.format == KvFormat::kInt8) int8[i][index] = static_cast<int8_t>(rng.integer(-127, 127));
        }
      }
    }
  }
};

// Rows of a batch, with the arrays that BatchRows points to.
struct BatchBuilder {
  std::vector<int32_t> positions, sequences, slots, page_offsets{0}, page_ids, ancestor_starts, ancestor_slots;
  int max_ancestors = 0;

  // A sequence of `length` positions on pages of its own, filled with content_of(position).
  template <typename Content>
  int32_t add_sequence(PagedCache& cache, int64_t length, Content content_of) {
    const int page_size = cache.layer.page_size;
    for (int64_t position = 0; position < length; ++position) {
      if (position % page_size == 0) page_ids.push_back(cache.take_page());
      cache.fill(int64_t{page_ids.back()} * page_size + position % page_size, content_of(position));
    }
    page_offsets.push_back(static_cast<int32_t>(page_ids.size()));
    return static_cast<int32_t>(page_offsets.size()) - 2;
  }
  int32_t slot(const PagedCache& cache, int32_t sequence, int64_t position) const {
    const int page_size = cache.layer.page_size;
    return page_ids[page_offsets[sequence] + position / page_size] * page_size +
           static_cast<int32_t>(position % page_size);
  }
  void add_row(const PagedCache& cache, int32_t sequence, int64_t position) {
    positions.push_back(static_cast<int32_t>(position));
    sequences.push_back(sequence);
    slots.push_back(slot(cache, sequence, position));
  }
  BatchRows view() const {
    BatchRows rows = {};
    rows.positions = positions.data(), rows.sequences = sequences.data(), rows.slots = slots.data();
    rows.page_offsets = page_offsets.data(), rows.page_ids = page_ids.data();
    rows.ancestor_starts = ancestor_starts.empty() ? nullptr : ancestor_starts.data();
    rows.ancestor_slots = ancestor_slots.empty() ? nullptr : ancestor_slots.data();
    rows.max_ancestors = max_ancestors;
    rows.rows = static_cast<int64_t>(positions.size());
    return rows;
  }
};

}  // namespace qspec::test
