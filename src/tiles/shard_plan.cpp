#include "quadrat/tiles/shard_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "quadrat/base/error.h"
#include "quadrat/base/random.h"

namespace quadrat {

ShardPlan::ShardPlan(std::span<const std::int32_t> labels, std::int64_t shards,
                     std::int64_t batch_global, std::uint64_t seed)
    : seed_(seed),
      per_shard_(batch_global / std::max<std::int64_t>(1, shards)),
      tiles_(std::ssize(labels)) {
  if (shards < 1) throw UsageError(fmt::format("--shards is {}, but must be at least 1", shards));
  if (batch_global < 1 || batch_global % shards != 0) {
    throw UsageError(
        fmt::format("--batch_size is {}, but must be a multiple of --shards ({}): every batch "
                    "takes as many tiles from each shard",
                    batch_global, shards));
  }
  if (tiles_ < shards) {
    throw UsageError(fmt::format(
        "there are {} training tiles for {} shards; give more tiles or a smaller --shards", tiles_,
        shards));
  }
  std::map<std::int32_t, std::vector<std::uint32_t>> by_class;
  for (std::size_t i = 0; i < labels.size(); ++i)
    by_class[labels[i]].push_back(static_cast<std::uint32_t>(i));
  members_.resize(static_cast<std::size_t>(shards));
  std::size_t next = 0;
  for (auto& [label, members] : by_class) {
    KeyedRandom random({seed, kStreamShard, static_cast<std::uint64_t>(label)});
    shuffle(members, random);
    for (const std::uint32_t tile : members) members_[next++ % members_.size()].push_back(tile);
  }
  // The first shards are never the smaller ones.
  const auto largest = std::ssize(members_.front());
  steps_ = (largest + per_shard_ - 1) / per_shard_;
}

std::int64_t ShardPlan::batch_tiles(std::int64_t step) const {
  std::int64_t count = 0;
  for (const auto& members : members_) {
    count += std::clamp<std::int64_t>(std::ssize(members) - step * per_shard_, 0, per_shard_);
  }
  return count;
}

ShardPlan::Range ShardPlan::shards_of(int rank, int ranks) const {
  if (ranks > shards()) {
    throw UsageError(
        fmt::format("there are {} ranks for {} shards; start at most {} ranks or raise --shards",
                    ranks, shards(), shards()));
  }
  return {shards() * rank / ranks, shards() * (rank + 1) / ranks};
}

std::vector<std::uint32_t> ShardPlan::tiles_of(Range range) const {
  std::vector<std::uint32_t> tiles;
  for (std::int64_t shard = range.begin; shard < range.end; ++shard) {
    const auto& members = members_[static_cast<std::size_t>(shard)];
    tiles.insert(tiles.end(), members.begin(), members.end());
  }
  std::sort(tiles.begin(), tiles.end());
  return tiles;
}

ShardPlan::Epoch ShardPlan::epoch(std::uint64_t epoch, Range range) const {
  Epoch result;
  result.per_shard_ = per_shard_;
  for (std::int64_t shard = range.begin; shard < range.end; ++shard) {
    auto order = members_[static_cast<std::size_t>(shard)];
    KeyedRandom random({seed_, kStreamOrder, epoch, static_cast<std::uint64_t>(shard)});
    shuffle(order, random);
    result.orders_.push_back(std::move(order));
  }
  return result;
}

std::vector<std::uint32_t> ShardPlan::Epoch::batch(std::int64_t step) const {
  std::vector<std::uint32_t> tiles;
  for (const auto& order : orders_) {
    const auto begin = std::min<std::int64_t>(step * per_shard_, std::ssize(order));
    const auto end = std::min<std::int64_t>(begin + per_shard_, std::ssize(order));
    tiles.insert(tiles.end(), order.begin() + begin, order.begin() + end);
  }
  return tiles;
}

}  // namespace quadrat
