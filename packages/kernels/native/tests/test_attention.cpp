// RoPE with the cache write, and paged attention: against the reference, and bit for bit whatever the batch, cut, pages
// or tree.
#include <cmath>

#include "op_tables.h"
#include "paged_cache.h"
#include "row_buffers.h"
#include "testkit.h"

namespace qspec::test {
namespace {

constexpr Tolerance kAttention{3e-6, 3e-6, 1e-9};
constexpr Tolerance kRope{3e-6, 2e-6, 1e-9};
const KvFormat kFormats[] = {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8};
constexpr SinkSpec kFloatSink{0, 0, 0, false};

struct Heads {
  int num_heads, num_kv_heads, head_dim;
};

AttentionParams attention_params(const std::vector<float>& qkv, const BatchRows& batch, const PagedCache& cache,
                                 int num_heads, int window, SinkBuffer& output) {
  const int64_t stride = int64_t{num_heads + 2 * cache.layer.num_kv_heads} * cache.layer.head_dim;
  return {qkv.data(),  stride,       batch,
          cache.layer, num_heads,    1 / std::sqrt(static_cast<float>(cache.layer.head_dim)),
          window,      output.sink()};
}

SinkBuffer run_attention(const OpTable& ops, const std::vector<float>& qkv, const BatchRows& batch,
                         const PagedCache& cache, int num_heads, int window = 0, int parts = 1,
                         const SinkSpec& sink = kFloatSink) {
  SinkBuffer output(sink, batch.rows, int64_t{num_heads} * cache.layer.head_dim);
  run_parts(ops.attention, attention_params(qkv, batch, cache, num_heads, window, output), parts);
  return output;
}

std::vector<float> random_qkv(const Heads& heads, int64_t rows, uint64_t seed) {
  Rng rng(seed);
  return rng.normals(rows * (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim, 1.5f);
}

std::string context(const OpTable& ops, KvFormat format, const Heads& heads, int64_t length, int page_size) {
  return text("%s, %s, %d/%d heads of %d, context %lld, pages of %d", ops.name, format_name(format), heads.num_heads,
              heads.num_kv_heads, heads.head_dim, static_cast<long long>(length), page_size);
}

template <typename Body>
void for_each_case(Body body) {
  const Heads shapes[] = {{3, 3, 16}, {6, 2, 32}, {9, 3, 64}, {4, 1, 80}, {2, 2, 128}, {8, 2, 24}};
  for (KvFormat format : kFormats) {
    for (const Heads& heads : shapes) {
      for (int64_t length : {1, 15, 16, 17, 33, 100}) body(format, heads, length, length % 2 ? 16 : 32);
    }
  }
  body(KvFormat::kBf16, Heads{9, 3, 64}, 1000, 64);
  body(KvFormat::kInt8, Heads{4, 4, 80}, 1000, 16);
}

QSPEC_TEST(attention_equals_reference) {
  for_each_case([](KvFormat format, const Heads& heads, int64_t length, int page_size) {
    Rng rng(length);
    PagedCache cache(format, heads.num_kv_heads, heads.head_dim, page_size, 2 * length / page_size + 8, rng);
    BatchBuilder batch;
    const int32_t a = batch.add_sequence(cache, length, [](int64_t p) { return 1000 + p; });
    const int32_t b = batch.add_sequence(cache, length / 2 + 1, [](int64_t p) { return 9000 + p; });
    for (int64_t p = std::max<int64_t>(0, length - 20); p < length; ++p) batch.add_row(cache, a, p);
    batch.add_row(cache, b, length / 2);
    const BatchRows rows = batch.view();
    const std::vector<float> qkv = random_qkv(heads, rows.rows, 5);
    for (int window : {0, 1, 7, 40}) {
      const SinkBuffer expected = run_attention(reference_ops(), qkv, rows, cache, heads.num_heads, window);
      for (const OpTable* ops : cpu_tables()) {
        const SinkBuffer actual = run_attention(*ops, qkv, rows, cache, heads.num_heads, window);
        QSPEC_EXPECT_SAME(sink_difference(actual, expected, kAttention),
                          context(*ops, format, heads, length, page_size) + text(", window %d", window));
      }
    }
  });
}

QSPEC_TEST(attention_sinks_equal_reference) {
  const Heads heads{6, 2, 64};
  Rng rng(1);
  PagedCache cache(KvFormat::kBf16, heads.num_kv_heads, heads.head_dim, 16, 8, rng);
  BatchBuilder batch;
  const int32_t sequence = batch.add_sequence(cache, 50, [](int64_t p) { return p; });
  for (int p = 45; p < 50; ++p) batch.add_row(cache, sequence, p);
  const std::vector<float> qkv = random_qkv(heads, 5, 6);
  for (const SinkSpec& sink : sink_specs()) {
    if (!sink.fits(6 * 64)) continue;
    const SinkBuffer expected = run_attention(reference_ops(), qkv, batch.view(), cache, 6, 0, 1, sink);
    for (const OpTable* ops : cpu_tables()) {
      for (int parts = 1; parts <= 5; ++parts) {
        const SinkBuffer actual = run_attention(*ops, qkv, batch.view(), cache, 6, 0, parts, sink);
        QSPEC_EXPECT_SAME(sink_difference(actual, expected, kAttention), std::string(ops->name) + ", " + sink.name());
      }
    }
  }
}

// All rows of a prompt at once, in any cut, equal each row alone.
QSPEC_TEST(attention_rows_do_not_depend_on_the_batch_or_the_cut) {
  const Heads shapes[] = {{9, 3, 64}, {4, 4, 80}, {4, 1, 32}};
  for (const Heads& heads : shapes) {
    for (KvFormat format : kFormats) {
      Rng rng(77);
      PagedCache cache(format, heads.num_kv_heads, heads.head_dim, 16, 40, rng);
      BatchBuilder batch;
      for (int s = 0; s < 3; ++s) batch.add_sequence(cache, 130, [s](int64_t p) { return 500 * s + p; });
      for (int64_t p = 66; p < 130; ++p) batch.add_row(cache, 1, p);
      for (int64_t p : {0, 129, 64}) batch.add_row(cache, 0, p);
      for (int64_t p = 0; p < 7; ++p) batch.add_row(cache, 2, p);
      const BatchRows rows = batch.view();
      const std::vector<float> qkv = random_qkv(heads, rows.rows, 8);
      const int64_t stride = static_cast<int64_t>(qkv.size()) / rows.rows;
      for (const OpTable* ops : cpu_tables()) {
        for (int window : {0, 37}) {
          const SinkBuffer all = run_attention(*ops, qkv, rows, cache, heads.num_heads, window);
          for (int parts = 2; parts <= 5; ++parts) {
            const SinkBuffer cut = run_attention(*ops, qkv, rows, cache, heads.num_heads, window, parts);
            QSPEC_EXPECT_SAME(sink_bit_difference(all, 0, cut),
                              context(*ops, format, heads, 130, 16) + text(", %d parts", parts));
          }
          for (int64_t count : {1, 2, 5, 16, 33, 64}) {
            const int64_t first = count == 1 ? 40 : (rows.rows - count) / 2;
            BatchRows some = rows;
            some.positions += first, some.sequences += first, some.slots += first, some.rows = count;
            const std::vector<float> some_qkv(qkv.begin() + first * stride, qkv.begin() + (first + count) * stride);
            const SinkBuffer alone = run_attention(*ops, some_qkv, some, cache, heads.num_heads, window);
            QSPEC_EXPECT_SAME(
                sink_bit_difference(all, first, alone),
                context(*ops, format, heads, 130, 16) + text(", rows %lld", static_cast<long long>(count)));
          }
        }
      }
    }
  }
}

QSPEC_TEST(attention_does_not_depend_on_the_page_size) {
  const Heads heads{6, 2, 64};
  const std::vector<float> qkv = random_qkv(heads, 3, 12);
  for (const OpTable* ops : cpu_tables()) {
    std::vector<SinkBuffer> outputs;
    for (int page_size : {16, 32, 64}) {
      Rng rng(page_size);
      PagedCache cache(KvFormat::kBf16, heads.num_kv_heads, heads.head_dim, page_size, 512 / page_size, rng);
      BatchBuilder batch;
      const int32_t sequence = batch.add_sequence(cache, 200, [](int64_t p) { return 7 * p; });
      for (int64_t p : {31, 130, 199}) batch.add_row(cache, sequence, p);
      outputs.push_back(run_attention(*ops, qkv, batch.view(), cache, heads.num_heads));
      QSPEC_EXPECT_SAME(sink_bit_difference(outputs[0], 0, outputs.back()),
                        text("%s, pages of %d", ops->name, page_size));
    }
  }
}

// A random tree over a committed chain. Node i stands at position committed + depth in a slot of its own.
struct Tree {
  std::vector<int> parent, depth;
  Tree(int nodes, Rng& rng) {
    for (int i = 0; i < nodes; ++i) {
      parent.push_back(i == 0 ? -1 : rng.integer(std::max(0, i - 6), i - 1));
      depth.push_back(i == 0 ? 0 : depth[parent[i]] + 1);
    }
  }
  std::vector<int> path_to(int node) const {
    std::vector<int> path;
    for (; node >= 0; node = parent[node]) path.insert(path.begin(), node);
    return path;
  }
};

QSPEC_TEST(tree_rows_equal_a_chain_of_the_same_path_bit_for_bit) {
  const Heads heads{6, 2, 64};
  for (int trial = 0; trial < 12; ++trial) {
    const KvFormat format = kFormats[trial % 3];
    Rng rng(trial);
    const int64_t committed = trial == 0 ? 0 : rng.integer(1, 140);
    const int nodes = rng.integer(2, 30);
    const Tree tree(nodes, rng);
    const auto content_of_node = [](int node) { return 100000 + static_cast<uint64_t>(node); };

    PagedCache cache(format, heads.num_kv_heads, heads.head_dim, 16, 40, rng);
    BatchBuilder batch;
    const int32_t sequence = batch.add_sequence(cache, std::max<int64_t>(committed, 1), [](int64_t p) { return p; });
    const int64_t first_node_slot =
        int64_t{cache.take_page()} * 16;  // nodes: two pages that need not follow each other
    const int64_t second_page_slot = int64_t{cache.take_page()} * 16;
    const auto slot_of_node = [&](int node) {
      return node < 16 ? first_node_slot + node : second_page_slot + node - 16;
    };
    batch.max_ancestors = 32;
    for (int node = 0; node < nodes; ++node) {
      cache.fill(slot_of_node(node), content_of_node(node));
      batch.positions.push_back(static_cast<int32_t>(committed + tree.depth[node]));
      batch.sequences.push_back(sequence);
      batch.slots.push_back(static_cast<int32_t>(slot_of_node(node)));
      batch.ancestor_starts.push_back(static_cast<int32_t>(committed));
      std::vector<int32_t> slots;
      for (int ancestor : tree.path_to(node)) slots.push_back(static_cast<int32_t>(slot_of_node(ancestor)));
      slots.resize(batch.max_ancestors, -1);  // never looked at
      batch.ancestor_slots.insert(batch.ancestor_slots.end(), slots.begin(), slots.end());
    }
    const std::vector<float> qkv = random_qkv(heads, nodes, 40 + trial);
    const SinkBuffer expected = run_attention(reference_ops(), qkv, batch.view(), cache, heads.num_heads);
    for (const OpTable* ops : cpu_tables()) {
      const SinkBuffer actual = run_attention(*ops, qkv, batch.view(), cache, heads.num_heads, 0, 1 + trial % 4);
      QSPEC_EXPECT_SAME(sink_difference(actual, expected, kAttention), text("%s, tree of %d", ops->name, nodes));
      for (int node = 0; node < nodes; ++node) {
        const std::vector<int> path = tree.path_to(node);
        PagedCache chain_cache(format, heads.num_kv_heads, heads.head_dim, 32, 12, rng);
        BatchBuilder chain;
        const int64_t length = committed + static_cast<int64_t>(path.size());
        chain.add_sequence(chain_cache, length, [&](int64_t p) {
          return p < committed ? static_cast<uint64_t>(p) : content_of_node(path[p - committed]);
        });
        chain.add_row(chain_cache, 0, length - 1);
        const int64_t stride = static_cast<int64_t>(qkv.size()) / nodes;
        const std::vector<float> own(qkv.begin() + node * stride, qkv.begin() + (node + 1) * stride);
        const SinkBuffer alone = run_attention(*ops, own, chain.view(), chain_cache, heads.num_heads);
        QSPEC_EXPECT_SAME(sink_bit_difference(actual, node, alone),
                          text("%s, node %d of %d, trial %d", ops->name, node, nodes, trial));
      }
    }
  }
}

QSPEC_TEST(large_scores_do_not_overflow) {
  const Heads heads{2, 1, 32};
  Rng rng(4);
  PagedCache cache(KvFormat::kF32, 1, 32, 16, 16, rng);
  BatchBuilder batch;
  const int32_t sequence = batch.add_sequence(cache, 90, [](int64_t p) { return p; });
  batch.add_row(cache, sequence, 89);
  std::vector<float> qkv = random_qkv(heads, 1, 3);
  for (float& value : qkv) value *= 300;  // scores of thousands: one position takes all
  const SinkBuffer expected = run_attention(reference_ops(), qkv, batch.view(), cache, 2);
  for (const OpTable* ops : cpu_tables()) {
    const SinkBuffer actual = run_attention(*ops, qkv, batch.view(), cache, 2);
    QSPEC_EXPECT_SAME(sink_difference(actual, expected, {1e-4, 1e-4, 1e-8}), ops->name);
  }
}

struct RopeCase {
  Heads heads;
  KvFormat format;
  bool has_norms;
  std::vector<float> qkv, frequencies, q_norm, k_norm;
  RopeCase(const Heads& h, KvFormat kv_format, bool with_norms, int64_t rows)
      : heads(h), format(kv_format), has_norms(with_norms) {
    Rng rng(h.head_dim + rows);
    qkv = random_qkv(h, rows, 99);
    for (int i = 0; i < h.head_dim / 2; ++i)
      frequencies.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / h.head_dim)));
    q_norm = rng.normals(h.head_dim), k_norm = rng.normals(h.head_dim);
  }
  std::vector<float> run(const OpTable& ops, const BatchRows& batch, PagedCache& cache, int parts) const {
    std::vector<float> values = qkv;
    run_parts(ops.rope_kv_write,
              RopeKvWriteParams{values.data(), batch, cache.layer, heads.num_heads, frequencies.data(), 1.25f,
                                has_norms ? q_norm.data() : nullptr, has_norms ? k_norm.data() : nullptr, 1e-6f},
              parts);
    return values;
  }
};

// Codes and bfloat16 may fall on either side of a tie: off by one step.
std::string cache_difference(const PagedCache& actual, const PagedCache& expected) {
  for (int i = 0; i < 2; ++i) {
    std::string problem = difference(actual.f32[i].data(), expected.f32[i].data(), actual.f32[i].size(), kRope);
    if (problem.empty())
      problem = difference(actual.scales[i].data(), expected.scales[i].data(), actual.scales[i].size(), kRope);
    if (!problem.empty()) return problem;
    int off = 0;
    for (size_t j = 0; j < actual.int8[i].size(); ++j)
      off = std::max(off, std::abs(actual.int8[i][j] - expected.int8[i][j]));
    for (size_t j = 0; j < actual.bf16[i].size(); ++j)
      off = std::max(off, std::abs(actual.bf16[i][j] - expected.bf16[i][j]));
    if (off > 1) return text("stored values are %d steps apart", off);
  }
  return {};
}

QSPEC_TEST(rope_kv_write_equals_reference) {
  for (const Heads& heads : {Heads{3, 1, 16}, Heads{6, 2, 64}, Heads{2, 2, 80}, Heads{4, 4, 128}, Heads{2, 1, 20}}) {
    for (KvFormat format : kFormats) {
      for (const bool has_norms : {false, true}) {
        const int64_t positions[] = {0, 1, 17, 100, 2047};
        const RopeCase rope(heads, format, has_norms, 5);
        const auto caches = [&] {
          Rng rng(1);
          return PagedCache(format, heads.num_kv_heads, heads.head_dim, 64, 40, rng);
        };
        PagedCache expected_cache = caches();
        BatchBuilder batch;
        const int32_t sequence = batch.add_sequence(expected_cache, 2048, [](int64_t) { return 1; });
        for (int64_t p : positions) batch.add_row(expected_cache, sequence, p);
        const PagedCache before = expected_cache;
        const std::vector<float> expected = rope.run(reference_ops(), batch.view(), expected_cache, 1);
        for (const OpTable* ops : cpu_tables()) {
          std::vector<float> one_part;
          for (int parts = 1; parts <= 5; ++parts) {
            PagedCache cache = before;
            cache.layer.k = cache.data(0), cache.layer.v = cache.data(1);
            cache.layer.k_scales = cache.scales[0].data(), cache.layer.v_scales = cache.scales[1].data();
            const std::vector<float> actual = rope.run(*ops, batch.view(), cache, parts);
            const std::string where = context(*ops, format, heads, 2048, 64) + (has_norms ? ", norms" : "");
            QSPEC_EXPECT_CLOSE(actual.data(), expected.data(), actual.size(), kRope, where);
            QSPEC_EXPECT_SAME(cache_difference(cache, expected_cache), where);
            if (parts == 1) one_part = actual;
            QSPEC_EXPECT_BITS(actual.data(), one_part.data(), actual.size(), where);
          }
        }
      }
    }
  }
}

QSPEC_TEST(rope_is_right_at_far_positions) {
  const Heads heads{1, 1, 64};
  const RopeCase rope(heads, KvFormat::kF32, false, 1);
  for (int32_t position : {1 << 17, (1 << 20) + 1, 2000000000}) {
    Rng rng(1);
    PagedCache cache(KvFormat::kF32, 1, 64, 16, 1, rng);
    BatchBuilder batch;
    batch.positions = {position}, batch.sequences = {0}, batch.slots = {3};
    const std::vector<float> expected = rope.run(reference_ops(), batch.view(), cache, 1);
    for (const OpTable* ops : cpu_tables()) {
      const std::vector<float> actual = rope.run(*ops, batch.view(), cache, 1);
      QSPEC_EXPECT_CLOSE(actual.data(), expected.data(), actual.size(), kRope, text("%s at %d", ops->name, position));
    }
  }
}

QSPEC_TEST(int8_cache_keeps_zero_and_not_a_number) {
  const Heads heads{1, 1, 32};
  RopeCase rope(heads, KvFormat::kInt8, false, 2);
  for (int i = 0; i < 32; ++i) rope.qkv[64 + i] = 0;  // v of row 0
  rope.qkv[96 + 64 + 7] = NAN;                        // v of row 1
  std::vector<const OpTable*> tables = cpu_tables();
  tables.push_back(&reference_ops());
  for (const OpTable* ops : tables) {
    Rng rng(1);
    PagedCache cache(KvFormat::kInt8, 1, 32, 16, 1, rng);
    BatchBuilder batch;
    batch.positions = {0, 1}, batch.sequences = {0, 0}, batch.slots = {0, 1};
    rope.run(*ops, batch.view(), cache, 1);
    QSPEC_EXPECT(cache.scales[1][0] == 0 && cache.int8[1][0] == 0 && cache.int8[1][31] == 0);
    QSPEC_EXPECT(std::isnan(cache.scales[1][1]) && cache.int8[1][32 + 7] == 0);
  }
}

}  // namespace
}  // namespace qspec::test

QSPEC_TEST_MAIN()
