#include "quadrat/geo/synth.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <map>

#include "files.h"
#include "quadrat/base/signals.h"
#include "quadrat/geo/land_cover.h"

namespace quadrat::geo {
namespace {

std::map<int, int> class_shares(const SynthCounty& county) {
  const ClassTable table = ClassTable::nlcd();
  std::map<int, int> shares;
  for (std::int64_t y = 15; y < county.side_px(); y += 30) {
    for (std::int64_t x = 15; x < county.side_px(); x += 30) {
      ++shares[table.class_of(county.code_at(static_cast<double>(x), static_cast<double>(y)))];
    }
  }
  return shares;
}

TEST(Synth, has_every_class_and_water_in_even_shares) {
  for (const std::uint64_t seed : {1U, 2U, 3U, 4U, 5U}) {
    const SynthCounty county({seed, 24, 0, 1});
    const auto shares = class_shares(county);
    ASSERT_EQ(shares.size(), 7U) << "six classes, and water";
    int total = 0;
    for (const auto& [label, count] : shares) total += count;
    for (const auto& [label, count] : shares) {
      if (label == ClassTable::kNoClass) continue;
      EXPECT_GT(count, total / 14) << "class " << label << ", seed " << seed;
      EXPECT_LT(count, total / 4) << "class " << label << ", seed " << seed;
    }
  }
}

TEST(Synth, paints_the_same_however_it_is_divided) {
  const SynthCounty county({7, 3, 0, 1});
  const auto side = county.side_px();
  std::vector<std::uint8_t> whole(static_cast<std::size_t>(3 * side * 101));
  county.paint(200, 101, whole);
  const SynthCounty again({7, 3, 0, 1});
  std::vector<std::uint8_t> part(static_cast<std::size_t>(3 * side * 50));
  again.paint(233, 50, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 3 * side * 33));
}

TEST(Synth, differs_by_seed) {
  const SynthCounty a({1, 3, 0, 1});
  const SynthCounty b({2, 3, 0, 1});
  std::vector<std::uint8_t> one(static_cast<std::size_t>(3 * a.side_px() * 8));
  auto other = one;
  a.paint(0, 8, one);
  b.paint(0, 8, other);
  EXPECT_NE(one, other);
}

TEST(Synth, towns_grow_and_nothing_else_moves_far) {
  const SynthCounty before({3, 24, 0, 1});
  const SynthCounty after({3, 24, 1, 1});
  const ClassTable table = ClassTable::nlcd();
  const int developed = 2;
  int gained = 0;
  int lost = 0;
  int other = 0;
  int total = 0;
  for (double y = 15; y < static_cast<double>(before.side_px()); y += 30) {
    for (double x = 15; x < static_cast<double>(before.side_px()); x += 30) {
      const int was = table.class_of(before.code_at(x, y));
      const int is = table.class_of(after.code_at(x, y));
      ++total;
      if (was == is) continue;
      if (is == developed)
        ++gained;
      else if (was == developed)
        ++lost;
      else
        ++other;
    }
  }
  EXPECT_GT(gained, total / 50);
  EXPECT_LT(gained, total / 4);
  EXPECT_EQ(lost, 0);
  EXPECT_LT(other, total / 200);
}

TEST(Synth, writes_both_rasters_in_their_own_projections) {
  const test::TemporaryFolder folder;
  write_synth_county({5, 3, 0, 2}, folder.path() / "a.tif", folder.path() / "a_nlcd.tif", "none",
                     false);
  Raster image = Raster::open_imagery(folder.path() / "a.tif");
  EXPECT_EQ(image.width_px(), 3 * 224);
  EXPECT_FALSE(image.is_resampled());
  // Every place of the image has the code that the county has there, as far as 30 m pixels can say.
  LandCover cover(folder.path() / "a_nlcd.tif", image.crs_wkt());
  const SynthCounty county({5, 3, 0, 1});
  int same = 0;
  int total = 0;
  std::vector<Point> points;
  std::vector<int> expected;
  for (int y = 20; y < 660; y += 20) {
    for (int x = 20; x < 660; x += 20) {
      points.push_back(image.pixel_to_map().at(x, y));
      expected.push_back(county.code_at(x, y));
    }
  }
  const auto codes = cover.codes_at(points);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    ++total;
    same += codes[i] == expected[i] ? 1 : 0;
  }
  EXPECT_GT(same, total * 9 / 10);
}

TEST(Synth, leaves_nothing_half_when_it_is_told_to_stop) {
  const test::TemporaryFolder folder;
  set_stop_signal(SIGTERM);
  EXPECT_FALSE(write_synth_county({5, 3, 0, 2}, folder.path() / "a.tif",
                                  folder.path() / "a_nlcd.tif", "none", false));
  set_stop_signal(0);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Synth, refuses_counties_that_cannot_be) {
  EXPECT_THROW(SynthCounty({1, 0, 0, 1}), Error);
  EXPECT_THROW(SynthCounty({1, 5000, 0, 1}), Error);
  EXPECT_THROW(SynthCounty({1, 10, 2, 1}), Error);
  EXPECT_THROW(SynthCounty({1, 10, std::int64_t{1} << 32, 1}), Error);
}

}  // namespace
}  // namespace quadrat::geo
