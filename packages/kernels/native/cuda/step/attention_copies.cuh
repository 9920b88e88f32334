// Copies of tiles of K and V from the cache: which of them each warp starts, and the ring of tiles that they go to.
#pragma once
#include "step/attention_heads.cuh"
#include "step/attention_tiles.cuh"

namespace qspec::cuda {

// Tiles in shared memory, a turn's together: while those of one are being used, others are on their way, a group of copies each.
struct TileRing {
  SharedPlace begin, end;
  SharedPlace freed;  // where the tiles lay that were used last, and from next() on lie
  int ahead;          // turns on their way

  QSPEC_DEVICE TileRing(SharedPlace base, int turns, int turn_bytes) : begin(base), end(base + turns * turn_bytes), freed(base + (turns - 1) * turn_bytes), ahead(turns - 1) {}
  // Until this thread's copies of the next turn are there.
  QSPEC_DEVICE void wait() const {
    if (ahead == 1) wait_async<0>();
    else if (ahead == 2) wait_async<1>();
    else wait_async<3>();
  }
  QSPEC_DEVICE SharedPlace next(int turn_bytes) {
    freed = freed + turn_bytes;
    if (freed.address == end.address) freed = begin;
    return freed;
  }
};

// Where a split's positions are, for one KV head.
struct SplitPlaces {
  int32_t low, high;    // cache_place(), kAbsent or kWrittenHere: lane i has those of positions i and i + 32
  uint32_t neighbours;  // bit t: tile t's positions are neighbours in the cache, and all there; kNothing: there is nothing to copy
  static constexpr uint32_t kNothing = 1u << kSplitTiles;

  // One of two, without an address: they stay in registers.
  QSPEC_DEVICE static SplitPlaces pick(bool is_second, const SplitPlaces& a, const SplitPlaces& b) {
    return {is_second ? b.low : a.low, is_second ? b.high : a.high, is_second ? b.neighbours : a.neighbours};
  }
  QSPEC_DEVICE static SplitPlaces nothing() { return {kWrittenHere, kWrittenHere, kNothing}; }
  // All lanes.
  QSPEC_DEVICE static SplitPlaces of_slots(int32_t low_slot, int32_t high_slot, int kv_head, int num_kv_heads, int page_shift) {
    SplitPlaces places{low_slot < 0 ? low_slot : cache_place(low_slot, kv_head, num_kv_heads, page_shift),
                       high_slot < 0 ? high_slot : cache_place(high_slot, kv_head, num_kv_heads, page_shift), 0};
    places.find_neighbours();
    return places;
  }
  // All lanes.
  QSPEC_DEVICE void find_neighbours() {
    neighbours = 0;
    QSPEC_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int32_t own = h ? high : low, lane = lane_index(), begin = shuffle_from(own, lane & kTilePositions);
      const uint32_t lanes = ballot(begin >= 0 && own == begin + (lane & (kTilePositions - 1)));
      if ((lanes & 0xffffu) == 0xffffu) neighbours |= 1u << 2 * h;
      if (lanes >> 16 == 0xffffu) neighbours |= 2u << 2 * h;
    }
  }
  QSPEC_DEVICE int32_t of_tile(int tile) const { return tile >= kSplitTiles / 2 ? high : low; }
  QSPEC_DEVICE static int lane_of(int tile) { return (tile & (kSplitTiles / 2 - 1)) * kTilePositions; }
};

// `is_alone`: the warp makes all copies of its tiles.
template <CacheCodes codes, int head_dim, bool is_alone>
struct TileCopies {
  using Tiles = CacheTiles<codes, head_dim>;
  const DeviceKvLayer& cache;
  Tiles tiles;
  int member;          // of the warps that copy a tile together
  uint32_t num_warps;

  // Of one plane of a tile: lanes to a row, a power of two, so many rows at once.
  QSPEC_DEVICE static constexpr int padded(int chunks) { return chunks > 8 ? 16 : chunks > 4 ? 8 : chunks > 2 ? 4 : 2; }
  QSPEC_DEVICE uint32_t per_row() const { return padded(tiles.chunks()); }
  QSPEC_DEVICE uint32_t rows() const { return kWarp / per_row(); }
  static constexpr int kCopies = padded(head_dim > 0 ? head_dim / Tiles::kChunkDims : kMaxHeadDim / Tiles::kChunkDims) / 2;

  // Starts copying tile `index` of a split (K first). Absent positions are zero; those whose K and V aren't there yet are left alone. All lanes.
  QSPEC_DEVICE void start(SharedPlace tile, int index, const SplitPlaces& split) const {
    if (split.neighbours & SplitPlaces::kNothing) return;
    const bool is_v = index >= kSplitTiles;
    const int of_split = index & (kSplitTiles - 1);
    const bool are_neighbours = split.neighbours >> of_split & 1;
    const int32_t places = split.of_tile(of_split);
    const int first = SplitPlaces::lane_of(of_split);
    copy_plane(is_v ? cache.v : cache.k, tile, places, first, are_neighbours);
    if constexpr (Tiles::has_codes) {
      if (tiles.has_low_plane()) copy_plane(is_v ? cache.v_low : cache.k_low, tile + tiles.head_dims() / 2, places, first, are_neighbours);
      copy_scales(is_v ? cache.v_scales : cache.k_scales, tile, places, first, are_neighbours);
    }
  }

 private:
  QSPEC_DEVICE void copy_plane(const uint8_t* plane, SharedPlace to, int32_t places, int first, bool are_neighbours) const {
    const uint32_t lane = own_lane(), chunk = lane % per_row(), row = lane / per_row(), chunks = tiles.chunks(), row_bytes = tiles.row_bytes();
    const bool is_mine = chunk < chunks;
    to = to + row * row_bytes + chunk * 16;
    plane += chunk * 16;
    if (are_neighbours) {
      const uint8_t* from = plane + static_cast<uint64_t>(static_cast<uint32_t>(shuffle_from(places, first)) + row) * (chunks * 16);
      if constexpr (is_alone) {
        QSPEC_UNROLL
        for (uint32_t i = 0; i < kCopies; ++i)
          if (i < per_row() / 2 && is_mine) copy_stream_async(to + i * rows() * row_bytes, from + i * rows() * chunks * 16);
      } else {
        QSPEC_NO_UNROLL
        for (uint32_t i = member; i < per_row() / 2; i += num_warps)
          if (is_mine) copy_async<16>(to + i * rows() * row_bytes, from + i * rows() * chunks * 16);
      }
      return;
    }
    QSPEC_NO_UNROLL
    for (uint32_t i = member; i < per_row() / 2; i += is_alone ? 1 : num_warps) {
      const int32_t place = shuffle_from(places, static_cast<int>(first + row + i * rows()));
      if (is_mine && place != kWrittenHere)
        copy_async_or_zero<16>(to + i * rows() * row_bytes, plane + static_cast<uint64_t>(static_cast<uint32_t>(place)) * (chunks * 16), place != kAbsent);
    }
  }
  QSPEC_DEVICE void copy_scales(const float* scales, SharedPlace tile, int32_t places, int first, bool are_neighbours) const {
    const int lane = own_lane();
    const int32_t place = shuffle_from(places, first + (are_neighbours ? 0 : lane & (kTilePositions - 1)));
    if (are_neighbours) {
      if (member == 0 && lane < kTilePositions / 4) copy_async<16>(tiles.scale_at(tile, 4 * lane), scales + static_cast<uint32_t>(place) + 4 * lane);
    } else if (member == 0 && lane < kTilePositions && place != kWrittenHere) {
      copy_async_or_zero<4>(tiles.scale_at(tile, lane), scales + static_cast<uint32_t>(place), place != kAbsent);
    }
  }
};

}  // namespace qspec::cuda
