#include "unit_scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <libdeflate.h>
#include <unistd.h>

#include "quadrat/base/error.h"
#include "quadrat/image/png.h"
#include "quadrat/tiles/catalog.h"
#include "reference.h"

namespace quadrat::score {
namespace {

TEST(UnitScorer, many_threads_decode_what_one_does) {
  std::string name = "/tmp/quadrat-test-XXXXXX";
  const Path root = ::mkdtemp(name.data());
  const WeightsFile weights = testing::random_weights(Architecture::kResNet18, 3, 1);
  const ModelCard card = read_model_card(weights, "model");
  constexpr std::size_t kTiles = 13;
  const auto pixels = testing::random_tiles(kTiles, card.tile_px, 2);
  const std::size_t bytes = pixels.size() / kTiles;
  for (std::size_t i = 0; i < kTiles; ++i) {
    write_file(root / (std::to_string(10 + i) + ".png"),
               encode_png(std::span(pixels).subspan(i * bytes, bytes), card.tile_px, card.tile_px));
  }
  write_file(root / "15.png", "no tile");
  const Catalog catalog = list_tiles(root);
  const auto scored = [&](int threads) {
    Plan plan(fuse_network(weights, card, "model"), Precision::kFp32, 8);
    TileFeed feed(catalog, threads == 1 ? 64 : 0);
    feed.add(0, 6);
    feed.add(6, kTiles);
    UnitScorer scorer(plan, feed);
    if (threads > 1) scorer.read_and_decode_on(threads, catalog);
    return *scorer.score(0, kTiles, [](std::size_t) { return true; });
  };
  const UnitResult one = scored(1), many = scored(5);
  EXPECT_EQ(many.probabilities, one.probabilities);
  ASSERT_EQ(many.rejected.size(), 1U);
  EXPECT_EQ(many.rejected[0].tile, 5U);
  EXPECT_EQ(many.rejected[0].reason, one.rejected.at(0).reason);
  std::filesystem::remove_all(root);
}

TEST(TileFeed, what_is_no_fault_of_a_tiles_is_not_made_one) {
  Catalog catalog;
  catalog.tiles.resize(1);
  TileFeed feed(catalog, 4);
  feed.add(0, 2);  // one more than there are
  TileFeed::Item item;
  feed.next(item);
  EXPECT_FALSE(item.refusal.reason.empty());
  EXPECT_THROW(feed.next(item), std::out_of_range);
}

TEST(UnitScorer, a_bad_block_costs_a_tile_and_a_lost_disk_the_unit) {
  std::string name = "/tmp/quadrat-test-XXXXXX";
  const Path root = ::mkdtemp(name.data());
  const WeightsFile weights = testing::random_weights(Architecture::kResNet18, 3, 1);
  const ModelCard card = read_model_card(weights, "model");
  const auto png =
      encode_png(testing::random_tiles(1, card.tile_px, 2), card.tile_px, card.tile_px);
  write_file(root / "good.tar", png);
  // A process's own memory has nothing at that place: the kernel answers EIO.
  std::filesystem::create_symlink("/proc/self/mem", root / "bad.tar");
  const auto scored = [&](const std::vector<int>& of_shard, int threads) {
    Catalog catalog;
    catalog.root = root;
    catalog.shards = {"good.tar", "bad.tar"};
    for (const int shard : of_shard) {
      catalog.tiles.push_back({"tile " + std::to_string(catalog.tiles.size()), Tile::kNoLabel,
                               shard, 0, static_cast<std::uint32_t>(png.size()),
                               libdeflate_crc32(0, png.data(), png.size())});
    }
    Plan plan(fuse_network(weights, card, "model"), Precision::kFp32, 2);
    TileFeed feed(catalog, threads == 1 ? 64 : 0);
    feed.add(0, of_shard.size());
    UnitScorer scorer(plan, feed);
    if (threads > 1) scorer.read_and_decode_on(threads, catalog);
    return *scorer.score(0, of_shard.size(), [](std::size_t) { return true; });
  };
  const UnitResult two = scored({1, 0, 1}, 1);
  ASSERT_EQ(two.rejected.size(), 2U);
  EXPECT_EQ(two.rejected[0].tile, 0U);
  EXPECT_EQ(two.rejected[1].tile, 2U);
  EXPECT_THAT(two.rejected[0].reason, ::testing::HasSubstr("Input/output error"));
  for (const int threads : {1, 3}) {
    try {
      scored({0, 1, 1, 0}, threads);  // the two are of different batches
      ADD_FAILURE() << "no error";
    } catch (const IoError& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("start the same command again"));
    }
  }
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace quadrat::score
