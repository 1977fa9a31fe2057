#include "quadrat/geo/land_cover.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "files.h"

namespace quadrat::geo {
namespace {

using test::TemporaryFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ClassTable, groups_nlcd_codes_as_the_sample_does) {
  const ClassTable table = ClassTable::nlcd();
  ASSERT_THAT(table.classes(),
              ElementsAre("Barren", "Cultivated", "Developed", "Forest", "Herbaceous", "Shrub"));
  const std::map<std::int32_t, int> expected{{21, 2}, {22, 2}, {23, 2}, {24, 2}, {31, 0}, {41, 3},
                                             {42, 3}, {43, 3}, {90, 3}, {51, 5}, {52, 5}, {71, 4},
                                             {72, 4}, {73, 4}, {74, 4}, {95, 4}, {81, 1}, {82, 1}};
  for (std::int32_t code = -1; code < 256; ++code) {
    const auto it = expected.find(code);
    EXPECT_EQ(table.class_of(code), it == expected.end() ? ClassTable::kNoClass : it->second)
        << code;
  }
}

TEST(ClassTable, reads_a_file) {
  const TemporaryFolder folder;
  write_file(folder.path() / "table.csv",
             std::string_view("code,class\n# wet\n90, Wetland\n95,Wetland\r\n41,Forest\n"));
  const ClassTable table = ClassTable::read(folder.path() / "table.csv");
  EXPECT_THAT(table.classes(), ElementsAre("Forest", "Wetland"));
  EXPECT_EQ(table.class_of(90), 1);
  EXPECT_EQ(table.class_of(95), 1);
  EXPECT_EQ(table.class_of(42), ClassTable::kNoClass);
}

TEST(ClassTable, names_the_wrong_line) {
  const TemporaryFolder folder;
  const auto refusal = [&](std::string_view content) {
    write_file(folder.path() / "table.csv", content);
    return test::message_of([&] { ClassTable::read(folder.path() / "table.csv"); });
  };
  EXPECT_THAT(refusal("code,class\n41,Forest\nforty,Shrub\n"), HasSubstr("line 3"));
  EXPECT_THAT(refusal("41,Forest\n42,../x\n"), HasSubstr("line 2"));
  EXPECT_THAT(refusal("41,Forest\n41,Shrub\n"), HasSubstr("is Forest already"));
  EXPECT_THAT(refusal("41\n"), HasSubstr("line 1"));
  EXPECT_THAT(refusal(""), HasSubstr("it has no line"));
  std::string many;
  for (int code = 0; code < 128; ++code) many += fmt::format("{},class{}\n", code, code);
  EXPECT_THAT(refusal(many), HasSubstr("it has 128 classes, there may be 127"));
}

TEST(LabelTile, follows_the_nine_point_rule) {
  const ClassTable table = ClassTable::nlcd();
  std::vector<std::int32_t> codes{41, 42, 43, 90, 41, 41, 41, 41, 41};
  EXPECT_EQ(label_tile(codes, table).fate, Fate::kWanted);
  EXPECT_EQ(label_tile(codes, table).label, 3);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    auto changed = codes;
    changed[i] = 52;
    EXPECT_EQ(label_tile(changed, table).fate, Fate::kMixed) << i;
    changed[i] = 11;
    EXPECT_EQ(label_tile(changed, table).fate, Fate::kNoClass) << i;
    EXPECT_EQ(label_tile(changed, table).code, 11);
    changed[i] = LandCover::kNoCode;
    EXPECT_EQ(label_tile(changed, table).fate, Fate::kNotCovered) << i;
  }
}

TEST(LandCover, finds_the_pixel_a_point_lies_in) {
  const TemporaryFolder folder;
  test::write_codes(folder.path() / "codes.tif", 10, 20, [](std::int64_t x, std::int64_t y) {
    return static_cast<std::uint8_t>(1 + x + 10 * y);
  });
  LandCover cover(folder.path() / "codes.tif", "EPSG:26918");
  const std::vector<Point> points{
      {300000.5, 4499999.5}, {300031.9, 4499968.1}, {300032.1, 4499967.9}, {300319.9, 4499360.1},
      {299999.9, 4499999.5}, {300000.5, 4500000.1}, {300320.1, 4499999.5}, {300000.5, 4499359.9}};
  EXPECT_THAT(cover.codes_at(points), ElementsAre(1, 1, 12, 200, -1, -1, -1, -1));
}

TEST(LandCover, takes_points_from_another_projection) {
  const TemporaryFolder folder;
  test::write_codes(folder.path() / "codes.tif", 10, 10, [](std::int64_t x, std::int64_t y) {
    return static_cast<std::uint8_t>(1 + x + 10 * y);
  });
  std::vector<Point> points{{300000 + 5.5 * 32, 4500000 - 7.5 * 32}};
  Projector("EPSG:26918", "EPSG:5070").transform(points);
  LandCover cover(folder.path() / "codes.tif", "EPSG:5070");
  EXPECT_THAT(cover.codes_at(points), ElementsAre(1 + 5 + 70));
}

}  // namespace
}  // namespace quadrat::geo
