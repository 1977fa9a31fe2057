#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quadrat {

/// Which tiles are in which training batch, independent of how many ranks compute it.
///
/// The tiles are dealt, class by class and seeded, into V virtual shards; global batch k takes the
/// next B/V tiles of every shard's order, which is shuffled anew each epoch. A rank owns whole
/// shards, so any number of ranks up to V computes the same batches. Shards differ by at most one
/// tile; in an epoch's last batches those that have run dry contribute less.
class ShardPlan {
 public:
  /// @param labels class of every tile
  /// @param shards V, at least 1
  /// @param batch_global B, a multiple of V
  /// @throws UsageError where B is no multiple of V, or there are fewer tiles than shards
  ShardPlan(std::span<const std::int32_t> labels, std::int64_t shards, std::int64_t batch_global,
            std::uint64_t seed);

  std::int64_t shards() const { return static_cast<std::int64_t>(members_.size()); }
  std::int64_t steps_per_epoch() const { return steps_; }
  std::int64_t tiles() const { return tiles_; }

  /// Tiles in batch `step` over all ranks.
  std::int64_t batch_tiles(std::int64_t step) const;

  /// First and one past the last shard of a rank.
  struct Range {
    std::int64_t begin;
    std::int64_t end;
  };
  /// @throws UsageError where there are more ranks than shards
  Range shards_of(int rank, int ranks) const;

  /// All tiles of these shards, in ascending order: what a rank reads.
  std::vector<std::uint32_t> tiles_of(Range range) const;

  /// The order in which an epoch visits these shards' tiles; batch(step) are indices into the
  /// labels given.
  class Epoch {
   public:
    /// The tiles of batch `step` that come from these shards, shard by shard.
    std::vector<std::uint32_t> batch(std::int64_t step) const;

   private:
    friend class ShardPlan;
    std::int64_t per_shard_ = 0;
    std::vector<std::vector<std::uint32_t>> orders_;
  };
  Epoch epoch(std::uint64_t epoch, Range range) const;

 private:
  std::uint64_t seed_;
  std::int64_t per_shard_;
  std::int64_t steps_;
  std::int64_t tiles_;
  std::vector<std::vector<std::uint32_t>> members_;  ///< tiles of each shard
};

}  // namespace quadrat
