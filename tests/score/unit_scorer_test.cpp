#include "unit_scorer.h"

#include <gtest/gtest.h>
#include <unistd.h>

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

}  // namespace
}  // namespace quadrat::score
