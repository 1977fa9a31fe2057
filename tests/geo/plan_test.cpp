#include "geo/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>

#include "files.h"
#include "geo/journal.h"

namespace quadrat::geo {
namespace {

using ::testing::HasSubstr;

/// Two images, the second for validation, three classes of unequal size, some tiles of no class.
CutPlan uneven_plan() {
  CutPlan plan;
  plan.classes = {"a", "b", "c"};
  plan.has_sets = true;
  plan.set_of_image = {0, 1};
  for (const int tiles : {400, 200}) {
    std::vector<PlannedTile> image;
    for (int i = 0; i < tiles; ++i) {
      const auto label = static_cast<std::int8_t>(i % 10 == 0 ? 2 : i % 3 == 0 ? 1 : 0);
      if (i % 7 == 3) {
        image.push_back({Fate::kMixed, ClassTable::kNoClass});
      } else {
        image.push_back({Fate::kWanted, label});
      }
    }
    plan.images.push_back(std::move(image));
  }
  return plan;
}

/// As cutting goes: what is chosen is looked at until nothing new is. @return the choice
CutPlan look_at_all_chosen(CutPlan known,
                           const std::function<bool(std::size_t, std::size_t)>& black,
                           std::size_t& looked_at) {
  for (;;) {
    const CutPlan chosen = even_out(known, 5);
    bool is_new = false;
    for (std::size_t i = 0; i < chosen.images.size(); ++i) {
      for (std::size_t t = 0; t < chosen.images[i].size(); ++t) {
        if (chosen.images[i][t].fate != Fate::kWanted) continue;
        known.images[i][t].fate = black(i, t) ? Fate::kBlack : Fate::kKept;
        is_new = true;
        ++looked_at;
      }
    }
    if (!is_new) return chosen;
  }
}

std::vector<Fate> fates(const CutPlan& plan) {
  std::vector<Fate> all;
  for (const auto& tiles : plan.images) {
    for (const PlannedTile& tile : tiles) all.push_back(tile.fate);
  }
  return all;
}

TEST(EvenOut, gives_each_class_of_a_set_as_many_as_its_rarest_has_left) {
  const auto black = [](std::size_t, std::size_t tile) { return tile % 4 == 0; };
  std::size_t looked_at = 0;
  const CutPlan plan = uneven_plan();
  const CutPlan chosen = look_at_all_chosen(plan, black, looked_at);
  std::size_t wanted = 0;
  for (std::size_t i = 0; i < plan.images.size(); ++i) {
    std::map<int, int> have;
    std::map<int, int> could;
    for (std::size_t t = 0; t < plan.images[i].size(); ++t) {
      if (plan.images[i][t].fate != Fate::kWanted) continue;
      ++wanted;
      if (chosen.images[i][t].fate == Fate::kKept) {
        EXPECT_FALSE(black(i, t));
        ++have[plan.images[i][t].label];
      }
      if (!black(i, t)) ++could[plan.images[i][t].label];
    }
    ASSERT_EQ(have.size(), 3U);
    EXPECT_LT(could[2], could[0]);
    for (const auto& [label, count] : have) EXPECT_EQ(count, could[2]) << label;
  }
  EXPECT_LT(looked_at, wanted * 2 / 3) << "nor is more read than needed";
}

TEST(EvenOut, is_the_same_whatever_an_earlier_attempt_looked_at) {
  const auto black = [](std::size_t image, std::size_t tile) {
    return (image + tile * 7) % 5 == 0;
  };
  std::size_t looked_at = 0;
  const CutPlan plan = uneven_plan();
  const CutPlan expected = look_at_all_chosen(plan, black, looked_at);
  std::mt19937 random(1);
  for (int attempt = 0; attempt < 20; ++attempt) {
    CutPlan known = plan;
    for (std::size_t i = 0; i < known.images.size(); ++i) {
      for (std::size_t t = 0; t < known.images[i].size(); ++t) {
        PlannedTile& tile = known.images[i][t];
        if (tile.fate != Fate::kWanted || random() % 20 >= static_cast<unsigned>(attempt)) continue;
        tile.fate = black(i, t) ? Fate::kBlack : Fate::kKept;
      }
    }
    EXPECT_EQ(fates(look_at_all_chosen(known, black, looked_at)), fates(expected));
  }
  EXPECT_NE(fates(even_out(plan, 5)), fates(even_out(plan, 6)));
}

TEST(EvenOut, forgets_a_class_of_black_tiles_only) {
  std::size_t looked_at = 0;
  const CutPlan plan = uneven_plan();
  const auto black = [&](std::size_t i, std::size_t t) { return plan.images[i][t].label == 2; };
  const CutPlan chosen = look_at_all_chosen(plan, black, looked_at);
  std::map<int, int> have;
  for (const PlannedTile& tile : chosen.images[0]) {
    if (tile.fate == Fate::kKept) ++have[tile.label];
  }
  ASSERT_EQ(have.size(), 2U);
  EXPECT_GT(have[0], 50);
  EXPECT_EQ(have[0], have[1]);
}

/// Twelve images of ten wanted tiles each, in four folders of three.
std::vector<SurveyedImage> twelve_images(CutPlan& plan) {
  std::vector<SurveyedImage> images(12);
  for (std::size_t i = 0; i < images.size(); ++i) {
    images[i].name = std::string("m").append(std::to_string(i));
    images[i].path = "county" + std::to_string(i / 3) + "/" + images[i].name + ".tif";
    images[i].folder = "county" + std::to_string(i / 3);
    plan.images.emplace_back(10);
  }
  return images;
}

TEST(Split, takes_whole_images_for_the_share_that_is_asked) {
  CutPlan plan;
  const auto images = twelve_images(plan);
  CutOptions options;
  options.validation_fraction = 0.25;
  const auto sets = split(options, images, plan);
  EXPECT_EQ(std::count(sets.begin(), sets.end(), 1), 3);
  EXPECT_EQ(split(options, images, plan), sets);
  std::set<std::string> seen;
  for (options.seed = 0; options.seed < 5; ++options.seed) {
    const auto drawn = split(options, images, plan);
    seen.emplace(drawn.begin(), drawn.end());
  }
  EXPECT_GT(seen.size(), 2U) << "it depends on the seed";
}

TEST(Split, never_divides_a_folder_where_asked) {
  CutPlan plan;
  const auto images = twelve_images(plan);
  CutOptions options;
  options.split_by = "folder";
  const auto check = [&] {
    const auto sets = split(options, images, plan);
    EXPECT_EQ(std::count(sets.begin(), sets.end(), 1), 3);
    for (std::size_t i = 0; i < sets.size(); ++i) EXPECT_EQ(sets[i], sets[i / 3 * 3]) << i;
  };
  options.validation_fraction = 0.25;
  for (options.seed = 0; options.seed < 5; ++options.seed) check();
  options.validation_fraction = 0;
  options.validation_images = {"m4"};
  check();
  options.validation_images = {"m99"};
  EXPECT_THROW(split(options, images, plan), UsageError);
  options.validation_images = {"m0", "m3", "m6", "m9"};
  EXPECT_THROW(split(options, images, plan), UsageError) << "nothing is left to train on";
}

std::vector<SurveyedImage> two_images() {
  std::vector<SurveyedImage> images(2);
  images[0].name = std::string("a");
  images[1].name = std::string("b");
  for (SurveyedImage& image : images) {
    image.fingerprint = image.name + ".1.2";
    image.columns = 3;
    image.rows = 2;
  }
  return images;
}

TEST(Plan, survives_being_stored_and_refuses_what_is_damaged) {
  const CutPlan plan =
      read_manifest("image,i,label,set\na,1,X,train\nb,5,Y,validation\n", "m.csv", two_images());
  const Bytes stored = plan.serialize();
  const CutPlan again = CutPlan::deserialize(stored, two_images());
  EXPECT_EQ(fates(again), fates(plan));
  EXPECT_TRUE(again.has_sets);
  EXPECT_EQ(again.set_of_image, plan.set_of_image);
  EXPECT_EQ(again.images[1][5].label, 1);
  const auto refusal = [&](const Bytes& bytes, const std::vector<SurveyedImage>& images) {
    return test::message_of([&] { CutPlan::deserialize(bytes, images); });
  };
  EXPECT_THAT(refusal(Bytes(stored.begin(), stored.end() - 5), two_images()),
              HasSubstr("it is damaged"));
  auto larger = two_images();
  larger[1].rows = 3;
  EXPECT_THAT(refusal(stored, larger), HasSubstr("of other images"));
}

TEST(Manifest, names_the_wrong_line) {
  const auto refusal = [](const std::string& lines) {
    return test::message_of(
        [&] { read_manifest("image,i,label,set\n" + lines, "m.csv", two_images()); });
  };
  EXPECT_EQ(refusal("a,1,,\r\nb,5,,\r\n"), "");
  EXPECT_THAT(refusal("a,1,Forest\n"), HasSubstr("line 2, 'a,1,Forest': it has not four fields"));
  EXPECT_THAT(refusal("a,1,,\nc,1,,\n"), HasSubstr("line 3, 'c,1,,': no such image was given"));
  EXPECT_THAT(refusal("a,6,,\n"), HasSubstr("the image has tiles 0 to 5"));
  EXPECT_THAT(refusal("a,-1,,\n"), HasSubstr("the image has tiles 0 to 5"));
  EXPECT_THAT(refusal("a,1,,\na,1,,\n"), HasSubstr("listed twice"));
  EXPECT_THAT(refusal("a,1,,train\na,2,,validation\n"), HasSubstr("in both sets"));
  EXPECT_THAT(refusal("a,1,,validaton\n"), HasSubstr("neither train nor validation"));
  EXPECT_THAT(refusal("a,1,,train\na,2,,\n"), HasSubstr("only some tiles have a set"));
  EXPECT_THAT(refusal("a,1,../x,\n"), HasSubstr("no class name"));
  EXPECT_THAT(refusal("a,1,X,\na,2,,\n"), HasSubstr("only some tiles have a class"));
  EXPECT_THAT(refusal(""), HasSubstr("it lists no tile"));
}

TEST(Journal, believes_whole_lines_about_the_images_as_they_are) {
  const auto images = two_images();
  const std::vector<CutTile> tiles{{0, Fate::kKept, 777}, {2, Fate::kBlack, 0}};
  const std::string line = journal_line(1, images[1], 1, tiles);
  const auto seen = [&](const std::string& text) {
    std::string list;
    for_each_cut_tile(text, images, [&](std::size_t image, std::int64_t row, const CutTile& tile) {
      list += std::to_string(image) + std::to_string(row) + std::to_string(tile.column) +
              (tile.fate == Fate::kKept ? "+" : "-") + std::to_string(tile.file_bytes) + " ";
    });
    return list;
  };
  EXPECT_EQ(seen(line), "110+777 112-0 ");
  for (std::size_t bytes = 0; bytes < line.size(); ++bytes) {
    EXPECT_EQ(seen(line.substr(0, bytes)), "") << "cut short after " << bytes;
  }
  EXPECT_EQ(seen("1\t1\tb.1.3\t0:1:777\n"), "") << "the image has changed";
  EXPECT_EQ(seen("1\t1\tb.1.2\t0:1:777 3:1:777\n"), "") << "no such column";
  EXPECT_EQ(seen("1\t2\tb.1.2\t0:1:777\n"), "") << "no such row";
  EXPECT_EQ(seen("1\t1\tb.1.2\t0:257:777\n"), "") << "no such fate";
  EXPECT_EQ(seen("half a li\n" + line), "110+777 112-0 ");
}

}  // namespace
}  // namespace quadrat::geo
