#include "image/filters.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <vector>

namespace quadrat::png {
namespace {

/// As the PNG specification words it (9.4).
int paeth_predictor(int a, int b, int c) {
  const int p = a + b - c;
  const int pa = std::abs(p - a);
  const int pb = std::abs(p - b);
  const int pc = std::abs(p - c);
  if (pa <= pb && pa <= pc) return a;
  if (pb <= pc) return b;
  return c;
}

TEST(Unfilter, paeth_predicts_as_specified_for_all_neighbours) {
  // Two pixels: the first becomes `left` in all channels; three values of `above` at a time.
  std::vector<std::uint8_t> coded(6 + kPadding);
  std::vector<std::uint8_t> above(6 + 1);
  std::vector<std::uint8_t> row(6);
  long wrong = 0;
  for (int left = 0; left < 256; ++left) {
    for (int corner = 0; corner < 256; ++corner) {
      for (int top = 0; top < 256; top += 3) {
        for (std::size_t i = 0; i < 3; ++i) {
          above[i] = static_cast<std::uint8_t>(corner);
          above[3 + i] = static_cast<std::uint8_t>(top + static_cast<int>(i));
          coded[i] = static_cast<std::uint8_t>(left - paeth_predictor(0, corner, 0));
        }
        unfilter_row(kPaeth, coded.data(), above.data(), row.data(), 2);
        for (std::size_t i = 0; i < 3; ++i) {
          wrong += row[3 + i] != paeth_predictor(left, above[3 + i], corner);
        }
      }
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST(Unfilter, equals_the_portable_way_for_all_filters_and_widths) {
  std::mt19937 random(5);
  for (std::size_t width = 1; width < 70; ++width) {
    for (std::uint8_t filter = 0; filter < 5; ++filter) {
      std::vector<std::uint8_t> coded(3 * width + kPadding);
      std::vector<std::uint8_t> above(3 * width + 1);
      for (auto& byte : coded) byte = static_cast<std::uint8_t>(random());
      for (auto& byte : above) byte = static_cast<std::uint8_t>(random());
      std::vector<std::uint8_t> row(3 * width);  // a byte written past its end is caught under asan
      std::vector<std::uint8_t> expected(3 * width);
      unfilter_row(filter, coded.data(), above.data(), row.data(), width);
      unfilter_row_portable(filter, coded.data(), above.data(), expected.data(), width);
      EXPECT_EQ(row, expected) << width << ' ' << int{filter};
    }
  }
}

TEST(Filter, is_undone_and_each_kind_is_chosen_where_it_is_best) {
  const std::size_t width = 50;
  std::vector<std::uint8_t> scratch(5 * 3 * width);
  std::vector<std::uint8_t> coded(1 + 3 * width + kPadding);
  std::vector<std::uint8_t> above(3 * width + 1);
  std::vector<std::uint8_t> row(3 * width);
  std::vector<std::uint8_t> back(3 * width);
  std::mt19937 random(9);
  const auto chosen = [&] {
    filter_row(row.data(), above.data(), width, scratch.data(), coded.data());
    unfilter_row_portable(coded[0], coded.data() + 1, above.data(), back.data(), width);
    EXPECT_EQ(back, row);
    return int{coded[0]};
  };
  for (auto& byte : above) byte = static_cast<std::uint8_t>(random());
  row.assign(row.size(), 0);
  EXPECT_EQ(chosen(), kNone);
  row.assign(row.size(), 100);
  EXPECT_EQ(chosen(), kSub);
  row.assign(above.begin(), above.end() - 1);
  EXPECT_EQ(chosen(), kUp);
  for (std::size_t i = 0; i < row.size(); ++i) {
    row[i] = static_cast<std::uint8_t>(((i < 3 ? 0 : row[i - 3]) + above[i]) / 2);
  }
  EXPECT_EQ(chosen(), kAverage);
  for (std::size_t i = 0; i < row.size(); ++i) {
    row[i] = static_cast<std::uint8_t>(
        (random() % 8 == 0 ? random() : 0) +
        paeth_predictor(i < 3 ? 0 : row[i - 3], above[i], i < 3 ? 0 : above[i - 3]));
  }
  EXPECT_EQ(chosen(), kPaeth);
}

}  // namespace
}  // namespace quadrat::png
