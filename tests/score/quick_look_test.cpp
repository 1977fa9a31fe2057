#include "quick_look.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

namespace quadrat::score {
namespace {

TEST(CopyMiddle, takes_the_pixels_around_the_centre) {
  std::vector<std::uint8_t> tile(6 * 6 * 3);
  for (std::size_t i = 0; i < tile.size(); ++i) tile[i] = static_cast<std::uint8_t>(i);
  std::vector<std::uint8_t> middle(2 * 2 * 3);
  copy_middle(tile.data(), 6, 2, middle.data());
  // Rows 2 and 3, columns 2 and 3.
  const std::vector<std::uint8_t> wanted{42, 43, 44, 45, 46, 47, 60, 61, 62, 63, 64, 65};
  EXPECT_EQ(middle, wanted);
}

TEST(QuickLook, of_a_file_is_possible_within_the_tile_only) {
  EXPECT_TRUE(is_possible({}, 224));
  EXPECT_TRUE(is_possible({160, 0.9F}, 224));
  EXPECT_TRUE(is_possible({224, 0.9F}, 224));
  EXPECT_FALSE(is_possible({225, 0.9F}, 224));
  EXPECT_FALSE(is_possible({4294967295U, 0.9F}, 224));
  EXPECT_FALSE(is_possible({1, 0.9F}, 224));
  EXPECT_FALSE(is_possible({160, std::nanf("")}, 224));
}

TEST(LowestThreshold, settles_all_that_the_look_has_right) {
  const Settlement settlement =
      lowest_threshold({{0.6F, true, true}, {0.9F, true, false}, {0.5F, true, true}}, 0);
  EXPECT_EQ(settlement.threshold, 0.5F);
  EXPECT_EQ(settlement.settled, 3U);
  EXPECT_EQ(settlement.more_wrong, -1);
}

TEST(LowestThreshold, stops_where_the_look_is_wrong_more_often_than_allowed) {
  const std::vector<Compared> tiles{{0.9F, true, true},
                                    {0.8F, false, true},
                                    {0.7F, true, true},
                                    {0.6F, false, true},
                                    {0.5F, true, true}};
  EXPECT_EQ(lowest_threshold(tiles, 0).settled, 1U);
  EXPECT_EQ(lowest_threshold(tiles, 0).threshold, 0.9F);
  EXPECT_EQ(lowest_threshold(tiles, 1).settled, 3U);
  EXPECT_EQ(lowest_threshold(tiles, 1).more_wrong, 1);
  EXPECT_EQ(lowest_threshold(tiles, 2).settled, 5U);
}

TEST(LowestThreshold, counts_what_only_the_look_has_right) {
  // Right where the whole network is wrong makes room for one the other way round.
  EXPECT_EQ(
      lowest_threshold({{0.9F, true, false}, {0.8F, false, true}, {0.7F, false, true}}, 0).settled,
      2U);
  EXPECT_EQ(lowest_threshold({{0.9F, false, false}, {0.8F, false, false}}, 0).settled, 2U)
      << "both wrong costs nothing";
}

TEST(LowestThreshold, goes_past_no_bad_one_to_a_lucky_one) {
  const std::vector<Compared> tiles{{0.9F, false, true}, {0.8F, true, false}, {0.7F, true, true}};
  EXPECT_EQ(lowest_threshold(tiles, 0).settled, 0U);
}

TEST(LowestThreshold, settles_equals_together) {
  const std::vector<Compared> tiles{
      {0.9F, true, true}, {0.8F, true, true}, {0.8F, false, true}, {0.8F, true, false}};
  EXPECT_EQ(lowest_threshold(tiles, 0).settled, 4U) << "0 more wrong over the three of them";
  EXPECT_EQ(lowest_threshold({tiles[0], tiles[1], tiles[2]}, 0).settled, 1U);
}

TEST(LowestThreshold, of_nothing_settles_nothing) {
  EXPECT_EQ(lowest_threshold({}, 3).settled, 0U);
}

}  // namespace
}  // namespace quadrat::score
