#include "quadrat/geo/cut.h"

#include <fmt/format.h>
#include <gdal_priv.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

#include "files.h"
#include "quadrat/base/signals.h"
#include "quadrat/image/png.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat::geo {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

std::array<std::uint8_t, 3> pattern(std::int64_t x, std::int64_t y) {
  return {static_cast<std::uint8_t>(1 + (x * 7 + y) % 250),
          static_cast<std::uint8_t>(1 + (x + 3 * y) % 250),
          static_cast<std::uint8_t>(1 + (x ^ y) % 250)};
}

/// A folder all ranks know; made and removed by rank 0.
class Cut : public ::testing::Test {
 protected:
  void SetUp() override {
    if (ranks.is_root()) own_.emplace();
    folder = ranks.broadcast(own_ ? own_->path().native() : std::string());
  }
  void TearDown() override {
    set_stop_signal(0);
    ranks.barrier();
  }

  template <typename Work>
  void on_root(Work work) {
    mpi::together(ranks, [&] {
      if (ranks.is_root()) work();
    });
  }

  CutOptions options(const std::vector<std::string>& images) const {
    CutOptions result;
    for (const std::string& name : images) result.images.push_back((folder / name).native());
    result.output = folder / "tiles";
    return result;
  }

  std::set<std::string> files_below(const Path& root) const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      if (!entry.is_directory())
        names.insert(std::filesystem::relative(entry.path(), root).string());
    }
    return names;
  }

  const mpi::Communicator ranks = mpi::Communicator::world();
  Path folder;

 private:
  std::optional<test::TemporaryFolder> own_;
};

TEST_F(Cut, cuts_every_whole_tile_pixel_by_pixel) {
  on_root([&] { test::write_image(folder / "a.tif", 224 * 5 + 100, 224 * 3 + 1, pattern); });
  const CutSummary summary = cut_tiles(options({"a.tif"}), ranks);
  on_root([&] {
    EXPECT_EQ(summary.kept, 15U);
    EXPECT_EQ(summary.cut_now, 15U);
    EXPECT_EQ(summary.discarded.at("past_edge"), 6U * 4U - 15U);
    for (std::int64_t i = 0; i < 15; ++i) {
      const Image tile = decode_png(read_file(folder / fmt::format("tiles/a_{}.png", i)));
      ASSERT_EQ(tile.width_px, 224U);
      ASSERT_EQ(tile.height_px, 224U);
      for (std::int64_t at = 0; at < 224 * 224; ++at) {
        const auto expected = pattern(i % 5 * 224 + at % 224, i / 5 * 224 + at / 224);
        for (std::size_t c = 0; c < 3; ++c) {
          ASSERT_EQ(tile.rgb[static_cast<std::size_t>(3 * at) + c], expected[c])
              << "tile " << i << " at " << at;
        }
      }
    }
    EXPECT_EQ(files_below(folder / "tiles").size(), 15U + 3U)
        << "and tile_summaries.csv, manifest.csv, tiles.json";
    std::istringstream lines(test::text_of(folder / "tiles/tile_summaries.csv"));
    std::string line;
    std::getline(lines, line);
    EXPECT_EQ(line, "filename,llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon");
  });
}

TEST_F(Cut, takes_paths_that_are_not_utf8) {
  const std::vector<std::string> names{"Qu\xE9.tif", "Qu\xE8.tif"};
  on_root([&] {
    for (const std::string& name : names) test::write_image(folder / name, 224, 224, pattern);
  });
  EXPECT_FALSE(cut_tiles(options({names[0]}), ranks).was_complete);
  EXPECT_TRUE(cut_tiles(options({names[0]}), ranks).was_complete);
  EXPECT_THAT(test::message_of([&] { cut_tiles(options({names[1]}), ranks); }),
              HasSubstr("other settings or images"));
  on_root([&] {
    EXPECT_THAT(
        files_below(folder / "tiles"),
        UnorderedElementsAre("Qu__0.png", "manifest.csv", "tile_summaries.csv", "tiles.json"));
  });
}

TEST_F(Cut, discards_black_tiles_by_count) {
  on_root([&] {
    test::write_image(folder / "a.tif", 448, 224, [](std::int64_t x, std::int64_t y) {
      // Ten black pixels in the first tile, eleven in the second.
      const bool black = y == 5 && (x < 10 || (x >= 224 && x < 235));
      return black ? std::array<std::uint8_t, 3>{} : pattern(x, y);
    });
  });
  const CutSummary summary = cut_tiles(options({"a.tif"}), ranks);
  on_root([&] {
    EXPECT_THAT(files_below(folder / "tiles"), UnorderedElementsAre("a_0.png", "tile_summaries.csv",
                                                                    "manifest.csv", "tiles.json"));
    EXPECT_EQ(summary.discarded.at("black_pixels"), 1U);
  });
}

/// Four by four tiles, classes by quarter: Forest, Shrub / Barren, water; a mixed one in the first.
void write_quarters(const Path& image, const Path& codes, double east = 300000) {
  const PixelToMap place{{east, 1, 0, 4500000, 0, -1}};
  test::write_image(image, 896, 896, pattern, place);
  test::write_codes(codes, 28, 28,
                    [](std::int64_t x, std::int64_t y) -> std::uint8_t {
                      if (x == 1 && y == 1) return 52;
                      if (y < 14) return x < 14 ? 41 : 52;
                      return x < 14 ? 31 : 11;
                    },
                    {{east, 32, 0, 4500000, 0, -32}});
}

TEST_F(Cut, sorts_labelled_tiles_into_class_folders) {
  on_root([&] { write_quarters(folder / "a.tif", folder / "nlcd.tif"); });
  CutOptions asked = options({"a.tif"});
  asked.nlcd = folder / "nlcd.tif";
  const CutSummary summary = cut_tiles(asked, ranks);
  on_root([&] {
    EXPECT_THAT(
        files_below(folder / "tiles"),
        UnorderedElementsAre("Forest/a_1.png", "Forest/a_4.png", "Forest/a_5.png", "Shrub/a_2.png",
                             "Shrub/a_3.png", "Shrub/a_6.png", "Shrub/a_7.png", "Barren/a_8.png",
                             "Barren/a_9.png", "Barren/a_12.png", "Barren/a_13.png",
                             "tile_summaries.csv", "manifest.csv", "tiles.json"));
    EXPECT_EQ(summary.discarded.at("mixed_classes"), 1U);
    EXPECT_EQ(summary.discarded.at("code_without_class"), 4U);
    EXPECT_THAT(test::text_of(folder / "tiles/tiles.json"), HasSubstr("\"11\": 4"));
    EXPECT_THAT(test::text_of(folder / "tiles/tile_summaries.csv"), HasSubstr("Forest/a_1.png,"));
  });
}

TEST_F(Cut, balances_by_seed_and_a_manifest_repeats_it) {
  on_root([&] { write_quarters(folder / "a.tif", folder / "nlcd.tif"); });
  CutOptions asked = options({"a.tif"});
  asked.nlcd = folder / "nlcd.tif";
  asked.balance = true;
  const CutSummary first = cut_tiles(asked, ranks);
  asked.output = folder / "again";
  cut_tiles(asked, ranks);
  CutOptions listed = options({"a.tif"});
  listed.manifest = folder / "tiles/manifest.csv";
  listed.output = folder / "listed";
  cut_tiles(listed, ranks);
  asked.output = folder / "other";
  asked.seed = 1;
  cut_tiles(asked, ranks);
  on_root([&] {
    EXPECT_EQ(first.counts.size(), 3U);
    for (const auto& [key, count] : first.counts) EXPECT_EQ(count, 3U) << key.second;
    EXPECT_EQ(first.discarded.at("removed_to_balance"), 2U);
    EXPECT_EQ(files_below(folder / "tiles"), files_below(folder / "again"));
    EXPECT_EQ(files_below(folder / "tiles"), files_below(folder / "listed"));
    EXPECT_EQ(test::text_of(folder / "tiles/manifest.csv"),
              test::text_of(folder / "listed/manifest.csv"));
    EXPECT_EQ(test::text_of(folder / "tiles/tile_summaries.csv"),
              test::text_of(folder / "listed/tile_summaries.csv"));
  });
}

TEST_F(Cut, balances_what_is_not_black_and_leaves_nothing_else) {
  // 12 tiles of forest, 4 of shrub; of these the second column is black: 8 and 3.
  on_root([&] {
    const auto colour = [](std::int64_t x, std::int64_t y) {
      const bool black = x / 224 == 1 && y / 224 != 2;
      return black ? std::array<std::uint8_t, 3>{} : pattern(x, y);
    };
    test::write_image(folder / "a.tif", 896, 896, colour);
    test::write_codes(folder / "nlcd.tif", 28, 28, [](auto, std::int64_t y) {
      return static_cast<std::uint8_t>(y < 7 ? 52 : 41);
    });
  });
  for (const int seed : {0, 1, 2, 3}) {
    CutOptions asked = options({"a.tif"});
    asked.nlcd = folder / "nlcd.tif";
    asked.balance = true;
    asked.seed = seed;
    asked.output = folder / fmt::format("tiles{}", seed);
    const CutSummary summary = cut_tiles(asked, ranks);
    on_root([&] {
      EXPECT_EQ((summary.counts.at({"", "Forest"})), 3U);
      EXPECT_EQ((summary.counts.at({"", "Shrub"})), 3U);
      EXPECT_THAT(files_below(asked.output / "Shrub"),
                  UnorderedElementsAre("a_0.png", "a_2.png", "a_3.png"));
      const auto forest = files_below(asked.output / "Forest");
      EXPECT_EQ(forest.size(), 3U);
      EXPECT_EQ(forest.count("a_5.png") + forest.count("a_13.png"), 0U) << "they are black";
      EXPECT_EQ(files_below(asked.output).size(), 9U);
    });
  }
}

TEST_F(Cut, counts_every_tile_of_an_image_without_data) {
  on_root([&] {
    test::write_image(
        folder / "a.tif", 448, 448,
        [](auto, auto) {
          return std::array<std::uint8_t, 3>{255, 255, 255};
        },
        {{300000, 1, 0, 4500000, 0, -1}}, 255);
    test::write_codes(folder / "nlcd.tif", 14, 14, [](auto, auto) { return std::uint8_t{41}; });
  });
  CutOptions asked = options({"a.tif"});
  asked.nlcd = folder / "nlcd.tif";
  for (const bool balance : {false, true}) {
    asked.balance = balance;
    asked.output = folder / (balance ? "balanced" : "all");
    const CutSummary summary = cut_tiles(asked, ranks);
    on_root([&] {
      EXPECT_EQ(summary.kept, 0U);
      EXPECT_EQ(summary.discarded.at("black_pixels"), 4U);
      EXPECT_EQ(files_below(asked.output).size(), 2U) << "manifest.csv and tiles.json";
    });
  }
}

TEST_F(Cut, counts_tiles_that_land_cover_ends_under) {
  on_root([&] {
    test::write_image(folder / "a.tif", 448, 448, pattern);
    test::write_codes(folder / "nlcd.tif", 13, 14, [](auto, auto) { return std::uint8_t{41}; });
    test::write_codes(folder / "narrow.tif", 12, 14, [](auto, auto) { return std::uint8_t{41}; });
  });
  CutOptions asked = options({"a.tif"});
  asked.nlcd = folder / "nlcd.tif";
  EXPECT_EQ(cut_tiles(asked, ranks).discarded.count("no_land_cover"), 0U)
      << "416 m reach the point at 410.7 m";
  asked.nlcd = folder / "narrow.tif";
  asked.output = folder / "narrow";
  const CutSummary summary = cut_tiles(asked, ranks);
  on_root([&] {
    EXPECT_EQ(summary.discarded.at("no_land_cover"), 2U) << "384 m do not";
    EXPECT_EQ(summary.kept, 2U);
  });
}

TEST_F(Cut, leaves_no_folder_for_a_class_of_black_tiles) {
  on_root([&] {
    const auto colour = [](std::int64_t x, std::int64_t y) {
      return y < 224 ? std::array<std::uint8_t, 3>{} : pattern(x, y);
    };
    test::write_image(folder / "a.tif", 448, 448, colour);
    test::write_codes(folder / "nlcd.tif", 14, 14, [](auto, std::int64_t y) {
      return static_cast<std::uint8_t>(y < 7 ? 52 : 41);
    });
  });
  CutOptions asked = options({"a.tif"});
  asked.nlcd = folder / "nlcd.tif";
  cut_tiles(asked, ranks);
  on_root([&] {
    EXPECT_TRUE(std::filesystem::exists(asked.output / "Forest/a_2.png"));
    EXPECT_FALSE(std::filesystem::exists(asked.output / "Shrub"));
  });
}

TEST_F(Cut, never_puts_neighbours_into_both_sets) {
  // Three images side by side, all forest, the second for validation: its neighbours lose a column
  // each.
  on_root([&] {
    for (int i = 0; i < 3; ++i) {
      test::write_image(folder / fmt::format("m{}.tif", i), 896, 448, pattern,
                        {{300000.0 + 896 * i, 1, 0, 4500000, 0, -1}});
    }
    test::write_codes(folder / "nlcd.tif", 90, 20, [](auto, auto) { return std::uint8_t{42}; });
  });
  CutOptions asked = options({"m0.tif", "m1.tif", "m2.tif"});
  asked.nlcd = folder / "nlcd.tif";
  asked.validation_images = {"m1.tif"};
  const CutSummary summary = cut_tiles(asked, ranks);
  on_root([&] {
    EXPECT_EQ((summary.counts.at({"validation", "Forest"})), 8U);
    EXPECT_EQ((summary.counts.at({"train", "Forest"})), 12U);
    EXPECT_EQ(summary.discarded.at("beside_validation"), 4U);
    const auto files = files_below(folder / "tiles");
    EXPECT_EQ(files.count("train/Forest/m0_2.png"), 1U);
    EXPECT_EQ(files.count("train/Forest/m0_3.png"), 0U) << "it touches m1";
    EXPECT_EQ(files.count("train/Forest/m2_0.png"), 0U) << "it touches m1";
    EXPECT_EQ(files.count("validation/tile_summaries.csv"), 1U);
  });
}

TEST_F(Cut, cuts_what_outgrows_the_cache_in_parts_and_ends_with_the_same_files) {
  // 35 columns, in blocks of 256 x 256 pixels: 6 MB a row of them.
  on_root([&] { test::write_image(folder / "a.tif", 224 * 35, 224 * 6, pattern); });
  CutOptions asked = options({"a.tif"});
  asked.output = folder / "whole";
  cut_tiles(asked, ranks);
  const GIntBig cache = GDALGetCacheMax64();
  GDALSetCacheMax64(GIntBig{4} << 20);
  EXPECT_TRUE(Raster::open_imagery(folder / "a.tif").outgrows_cache());
  asked.output = folder / "tiles";
  const CutSummary summary = cut_tiles(asked, ranks);
  GDALSetCacheMax64(cache);
  EXPECT_FALSE(Raster::open_imagery(folder / "a.tif").outgrows_cache());
  on_root([&] {
    EXPECT_EQ(summary.cut_now, 35U * 6U);
    EXPECT_EQ(files_below(folder / "tiles"), files_below(folder / "whole"));
    for (int i = 0; i < 35 * 6; ++i) {
      ASSERT_EQ(read_file(folder / fmt::format("tiles/a_{}.png", i)),
                read_file(folder / fmt::format("whole/a_{}.png", i)))
          << i;
    }
  });
}

TEST_F(Cut, goes_on_after_a_signal_and_ends_with_the_same_files) {
  on_root([&] { test::write_image(folder / "a.tif", 224 * 3, 224 * 12, pattern); });
  const CutOptions asked = options({"a.tif"});
  set_stop_signal(SIGTERM);
  EXPECT_TRUE(cut_tiles(asked, ranks).interrupted);
  set_stop_signal(0);
  const CutSummary done = cut_tiles(asked, ranks);
  EXPECT_FALSE(done.interrupted);
  EXPECT_EQ(done.cut_now, 36U);
  EXPECT_TRUE(cut_tiles(asked, ranks).was_complete);
}

TEST_F(Cut, cuts_again_what_a_crash_left_half) {
  on_root([&] { test::write_image(folder / "a.tif", 224 * 3, 224 * 4, pattern); });
  CutOptions asked = options({"a.tif"});
  asked.output = folder / "whole";
  cut_tiles(asked, ranks);
  // The state of a run whose disk lost power after row 1: row 0 whole, a tile of row 1 empty, a
  // torn line for row 2.
  asked.output = folder / "tiles";
  set_stop_signal(SIGTERM);
  cut_tiles(asked, ranks);
  set_stop_signal(0);
  on_root([&] {
    const Path state = asked.output / ".quadrat_cut";
    for (int i = 0; i < 6; ++i) {
      std::filesystem::copy_file(folder / fmt::format("whole/a_{}.png", i),
                                 asked.output / fmt::format("a_{}.png", i));
    }
    std::ofstream(asked.output / "a_4.png", std::ios::trunc);
    std::ofstream(asked.output / ".a_7.png.tmp.0.1") << "half";
    const auto fingerprint = [&] {
      struct stat status {};
      ::stat((folder / "a.tif").c_str(), &status);
      return fmt::format("{}.{}.{}", status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
    }();
    std::ofstream journal(state / "rows.000000.000000.tsv");
    for (int row = 0; row < 2; ++row) {
      journal << "0\t" << row << '\t' << fingerprint << '\t';
      for (int c = 0; c < 3; ++c) {
        const auto size =
            std::filesystem::file_size(folder / fmt::format("whole/a_{}.png", 3 * row + c));
        journal << (c == 0 ? "" : " ") << c << ":1:" << size;
      }
      journal << '\n';
    }
    journal << "0\t2\t" << fingerprint << "\t0:1:99";
  });
  const CutSummary summary = cut_tiles(asked, ranks);
  on_root([&] {
    EXPECT_EQ(summary.cut_now, 7U) << "all but row 0 and the two whole tiles of row 1";
    EXPECT_EQ(files_below(folder / "tiles"), files_below(folder / "whole"));
    for (int i = 0; i < 12; ++i) {
      EXPECT_EQ(read_file(folder / fmt::format("tiles/a_{}.png", i)),
                read_file(folder / fmt::format("whole/a_{}.png", i)));
    }
  });
}

TEST_F(Cut, says_what_is_wrong_on_all_ranks) {
  on_root([&] {
    test::write_image(folder / "a.tif", 300, 300, pattern);
    test::write_image(folder / "small.tif", 223, 500, pattern);
    test::write_codes(folder / "elsewhere.tif", 5, 5, [](auto, auto) { return std::uint8_t{41}; },
                      {{900000, 32, 0, 4500000, 0, -32}});
    make_folder(folder / "full");
    write_file(folder / "full/mine.txt", std::string_view("keep"));
    make_folder(folder / "b");
    test::write_image(folder / "b/a.tif", 300, 300, pattern);
    write_file(folder / "m.csv", std::string_view("image,i,label,set\na,1,Forest,\n"));
  });
  const auto refusal = [&](const CutOptions& asked) {
    return test::message_of([&] { cut_tiles(asked, ranks); });
  };
  CutOptions asked = options({"small.tif"});
  asked.output = folder / "t1";
  EXPECT_THAT(refusal(asked), HasSubstr("it covers 223 x 500 m, a tile is 224 x 224 m"));
  asked = options({"a.tif"});
  asked.output = folder / "t2";
  asked.nlcd = folder / "elsewhere.tif";
  EXPECT_THAT(refusal(asked), HasSubstr("covers nothing of the images"));
  asked = options({"a.tif"});
  asked.output = folder / "full";
  EXPECT_THAT(refusal(asked), HasSubstr("it is not empty: it holds 'mine.txt'"));
  asked = options({"a.tif", "b/a.tif"});
  asked.output = folder / "t3";
  EXPECT_THAT(refusal(asked), HasSubstr("both be called a_0.png"));
  asked = options({"a.tif"});
  asked.output = folder / "t4";
  asked.validation_fraction = 0.5;
  EXPECT_THAT(refusal(asked), HasSubstr("at least two images"));
  // However a folder is written, it is one.
  asked = options({"./a.tif", "b/../small.tif"});
  asked.split_by = "folder";
  on_root([&] { test::write_image(folder / "small.tif", 224, 500, pattern); });
  asked.output = folder / "t4";
  asked.validation_fraction = 0.5;
  EXPECT_THAT(refusal(asked), HasSubstr("at least two folders"));
  // Two of one name are two. That the land cover does not exist is found after the folders.
  on_root([&] {
    for (const char* county : {"x", "y"}) {
      make_folder(folder / county / "images");
      test::write_image(folder / county / "images" / (county + std::string(".tif")), 300, 300,
                        pattern);
    }
  });
  asked = options({"x/images/x.tif", "y/images/y.tif"});
  asked.output = folder / "t4";
  asked.nlcd = folder / "none.tif";
  asked.split_by = "folder";
  asked.validation_fraction = 0.5;
  EXPECT_THAT(refusal(asked), HasSubstr("none.tif"));
  // Before any labelling: this land cover does not exist.
  asked = options({"a.tif"});
  asked.output = folder / "t4";
  asked.nlcd = folder / "none.tif";
  asked.validation_images = {"c.tif"};
  EXPECT_THAT(refusal(asked), HasSubstr("--validation_images names 'c.tif', which is not among"));
  asked.validation_images = {"a.tif"};
  EXPECT_THAT(refusal(asked), HasSubstr("leaves no image for training"));
  asked = options({"a.tif"});
  asked.output = folder / "t5";
  asked.manifest = folder / "m.csv";
  EXPECT_THAT(refusal(asked), HasSubstr("line 2"));
  asked = options({"a.tif"});
  cut_tiles(asked, ranks);
  asked.png_level = 1;
  EXPECT_THAT(refusal(asked), HasSubstr("other settings"));
}

}  // namespace
}  // namespace quadrat::geo
