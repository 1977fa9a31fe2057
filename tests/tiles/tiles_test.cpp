#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <libdeflate.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "quadrat/base/error.h"
#include "quadrat/base/signals.h"
#include "quadrat/image/png.h"
#include "quadrat/tiles/augment.h"
#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/reader.h"
#include "quadrat/tiles/shard.h"
#include "quadrat/tiles/shard_plan.h"
#include "quadrat/tiles/shard_writer.h"
#include "quadrat/tiles/tile_store.h"

namespace quadrat {
namespace {

using testing::HasSubstr;

class Tiles : public testing::Test {
 protected:
  Tiles() {
    std::string name = "/tmp/quadrat-test-XXXXXX";
    root_ = ::mkdtemp(name.data());
  }
  ~Tiles() override { std::filesystem::remove_all(root_); }

  static std::vector<std::uint8_t> pixels(std::uint8_t value, std::uint32_t side = 8) {
    std::vector<std::uint8_t> rgb(std::size_t{3} * side * side);
    for (std::size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<std::uint8_t>(value + i);
    return rgb;
  }
  void put(const std::string& name, std::uint8_t value = 0, std::uint32_t side = 8) {
    make_folder((root_ / name).parent_path());
    write_file(root_ / name, encode_png(pixels(value, side), side, side));
  }
  std::string error(const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  Path root_;
};

TEST_F(Tiles, catalog_sorts_classes_and_tiles) {
  put("b/2.png");
  put("b/1.png");
  put("a/9.png");
  write_file(root_ / "tiles.json", "{}");
  write_file(root_ / "a/notes.txt", "x");
  const Catalog catalog = list_labelled_tiles(root_);
  EXPECT_EQ(catalog.classes, (std::vector<std::string>{"a", "b"}));
  ASSERT_EQ(catalog.tiles.size(), 3U);
  EXPECT_EQ(catalog.tiles[0].name, "a/9.png");
  EXPECT_EQ(catalog.tiles[1].name, "b/1.png");
  EXPECT_EQ(catalog.tiles[2].label, 1);
}

TEST_F(Tiles, catalog_survives_being_sent) {
  put("a/1.png");
  put("b/1.png");
  const Catalog catalog = list_labelled_tiles(root_);
  const Bytes bytes = catalog.serialize();
  const Catalog again = Catalog::deserialize(bytes);
  EXPECT_EQ(again.root, catalog.root);
  EXPECT_EQ(again.classes, catalog.classes);
  ASSERT_EQ(again.tiles.size(), 2U);
  EXPECT_EQ(again.tiles[1].name, "b/1.png");
  EXPECT_EQ(again.tiles[1].label, 1);
  EXPECT_THROW(Catalog::deserialize(std::span(bytes).first(bytes.size() - 1)), CommError);
}

TEST_F(Tiles, catalog_errors_name_the_folder_and_what_is_wrong) {
  EXPECT_THAT(error([&] { list_labelled_tiles(root_ / "none"); }), HasSubstr("no such folder"));
  EXPECT_THAT(error([&] { list_labelled_tiles(root_); }), HasSubstr("no class folder"));
  make_folder(root_ / "empty");
  EXPECT_THAT(error([&] { list_labelled_tiles(root_); }), HasSubstr("no .png"));
  EXPECT_THAT(error([&] { list_tiles(root_); }), HasSubstr("no .png"));
  put("a b/1.png");
  EXPECT_THAT(error([&] { list_labelled_tiles(root_); }), HasSubstr("letters, digits"));
}

TEST_F(Tiles, what_is_not_all_cut_is_refused) {
  for (const char* unfinished : {"set/Forest", "set", "."}) {
    put("set/Forest/1.png");
    make_folder(root_ / unfinished / ".quadrat_cut");
    for (const char* given : {"set", "set/Forest"}) {
      EXPECT_THAT(error([&] { list_tiles(root_ / given); }), HasSubstr("same quadrat-cut again"))
          << given << " in " << unfinished;
    }
    EXPECT_THAT(error([&] { list_labelled_tiles(root_ / "set"); }),
                HasSubstr("same quadrat-cut again"));
    std::filesystem::remove_all(root_ / unfinished / ".quadrat_cut");
    EXPECT_EQ(list_labelled_tiles(root_ / "set").tiles.size(), 1U);
  }
}

TEST_F(Tiles, a_name_that_a_shard_would_give_two_tiles_is_refused) {
  put("a/1.png");
  put("a/1.PNG");
  EXPECT_THAT(error([&] { list_labelled_tiles(root_); }), HasSubstr("'a/1.PNG' ends in .PNG"));
  EXPECT_THAT(error([&] { list_tiles(root_); }), HasSubstr("'a/1.PNG' ends in .PNG"));
}

TEST_F(Tiles, a_set_to_score_may_be_flat_or_in_class_folders) {
  put("x_1.png");
  put("x_0.png");
  Catalog flat = list_tiles(root_);
  EXPECT_TRUE(flat.classes.empty());
  EXPECT_EQ(flat.tiles[0].name, "x_0.png");
  EXPECT_EQ(flat.tiles[0].label, Tile::kNoLabel);
  std::filesystem::remove(root_ / "x_0.png");
  std::filesystem::remove(root_ / "x_1.png");
  put("a/1.png");
  put("b/1.png");
  const Catalog labelled = list_tiles(root_);
  EXPECT_EQ(labelled.classes.size(), 2U);
  EXPECT_EQ(labelled.tiles[1].label, 1);
}

TEST_F(Tiles, sampling_keeps_the_balance_and_depends_on_the_seed_alone) {
  for (int i = 0; i < 20; ++i) {
    put("a/" + std::to_string(i) + ".png");
    if (i < 10) put("b/" + std::to_string(i) + ".png");
  }
  const auto sampled = [&](double fraction, std::uint64_t seed) {
    Catalog catalog = list_labelled_tiles(root_);
    sample_tiles(catalog, fraction, seed);
    std::vector<std::string> names;
    for (const Tile& tile : catalog.tiles) names.push_back(tile.name);
    return names;
  };
  const auto half = sampled(0.5, 1);
  EXPECT_EQ(half.size(), 15U);
  EXPECT_EQ(
      std::count_if(half.begin(), half.end(), [](const auto& name) { return name[0] == 'a'; }), 10);
  EXPECT_TRUE(std::is_sorted(half.begin(), half.end()));
  EXPECT_EQ(half, sampled(0.5, 1));
  EXPECT_NE(half, sampled(0.5, 2));
  EXPECT_EQ(sampled(0.001, 1).size(), 2U);
  EXPECT_THROW(sampled(0, 1), UsageError);
  EXPECT_THROW(sampled(1.5, 1), UsageError);
}

TEST_F(Tiles, a_store_gives_the_same_pixels_from_memory_scratch_and_anew) {
  for (int i = 0; i < 6; ++i)
    put("a/" + std::to_string(i) + ".png", static_cast<std::uint8_t>(10 * i));
  const Catalog catalog = list_labelled_tiles(root_);
  const std::uint64_t tile_bytes = 3 * 8 * 8;
  for (const StoreLimits& limits :
       {StoreLimits{1 << 20, ""}, StoreLimits{2 * tile_bytes, root_}, StoreLimits{0, ""}}) {
    TileStore store(catalog, {0, 1, 2, 4, 5}, 8, limits);
    for (int pass = 0; pass < 2; ++pass) {
      for (const std::uint32_t tile : {5U, 0U, 4U, 2U}) {
        const std::uint8_t* found = store.pixels(tile);
        EXPECT_EQ(std::vector(found, found + tile_bytes),
                  pixels(static_cast<std::uint8_t>(10 * tile)));
      }
    }
    EXPECT_EQ(store.decoded(), limits.memory_bytes == 0 ? 0U : 4U);
  }
}

TEST_F(Tiles, a_store_copies_on_many_threads_what_it_gives_one_by_one) {
  std::vector<std::uint32_t> all;
  for (int i = 0; i < 40; ++i) {
    put("a/" + std::to_string(10 + i) + ".png", static_cast<std::uint8_t>(5 * i));
    all.push_back(static_cast<std::uint32_t>(i));
  }
  const Catalog catalog = list_labelled_tiles(root_);
  const std::uint64_t tile_bytes = 3 * 8 * 8;
  for (const std::uint64_t in_memory : {0U, 15U, 40U}) {
    TileStore store(catalog, all, 8, {in_memory * tile_bytes, ""});
    store.pixels(3);
    for (int pass = 0; pass < 2; ++pass) {
      std::vector<std::uint32_t> asked{7, 3, 39, 0};
      if (pass == 1) asked = all;
      std::vector<std::uint8_t> out(asked.size() * tile_bytes);
      store.copy(asked, out.data(), 5);
      for (std::size_t i = 0; i < asked.size(); ++i) {
        const auto* from = out.data() + i * tile_bytes;
        EXPECT_EQ(std::vector(from, from + tile_bytes),
                  pixels(static_cast<std::uint8_t>(5 * asked[i])));
      }
    }
    EXPECT_EQ(store.decoded(), in_memory);
    for (const std::uint32_t tile : all) {
      const std::uint8_t* found = store.pixels(tile);
      EXPECT_EQ(std::vector(found, found + tile_bytes),
                pixels(static_cast<std::uint8_t>(5 * tile)));
    }
  }
  write_file(root_ / "a/22.png", "no tile");
  TileStore store(catalog, all, 8, {});
  std::vector<std::uint8_t> out(all.size() * tile_bytes);
  EXPECT_THAT(error([&] { store.copy(all, out.data(), 3); }), HasSubstr("a/22.png"));
}

TEST_F(Tiles, a_tile_of_another_size_is_named) {
  put("a/small.png", 0, 4);
  const Catalog catalog = list_labelled_tiles(root_);
  TileStore store(catalog, {0}, 8, {});
  const std::string text = error([&] { store.pixels(0); });
  EXPECT_THAT(text, HasSubstr("a/small.png"));
  EXPECT_THAT(text, HasSubstr("4"));
}

TEST_F(Tiles, shards_are_read_by_their_index_and_damage_is_named) {
  const Bytes png = encode_png(pixels(3), 8, 8);
  std::string shard(512, '\0');
  shard.append(reinterpret_cast<const char*>(png.data()), png.size());
  write_file(root_ / "tiles-000000.tar", shard);
  const auto index = [&](std::uint32_t crc, std::size_t size) {
    char line[128];
    std::snprintf(line, sizeof line, "tiles-000000.tar\tk/1\tForest\t512\t%zu\t%08x\n", size, crc);
    write_file(root_ / kShardIndexName,
               std::string("shard\tkey\tlabel\toffset\tsize\tcrc32\n") + line);
  };
  const std::uint32_t crc = libdeflate_crc32(0, png.data(), png.size());
  index(crc, png.size());
  const Catalog catalog = list_labelled_tiles(root_);
  EXPECT_EQ(catalog.classes, std::vector<std::string>{"Forest"});
  EXPECT_EQ(catalog.tiles.at(0).name, "k/1.png");
  Bytes buffer;
  TileReader(catalog).read(0, buffer);
  EXPECT_EQ(buffer, png);

  // A process's own memory has nothing at that place: the kernel answers EIO, as a failing disk
  // does.
  const auto good = root_ / "good.tar", bad = root_ / "tiles-000000.tar";
  std::filesystem::rename(bad, good);
  std::filesystem::create_symlink("/proc/self/mem", bad);
  TileReader reader(catalog);
  std::jthread repair([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    std::filesystem::rename(good, bad);
  });
  buffer.clear();
  reader.read(0, buffer);
  EXPECT_EQ(buffer, png);
  repair.join();

  index(crc ^ 1, png.size());
  EXPECT_EQ(verify_shards(root_, read_shard_index(root_)).size(), 1U);
  set_stop_signal(SIGTERM);
  EXPECT_TRUE(verify_shards(root_, read_shard_index(root_)).empty());
  set_stop_signal(0);
  const Catalog changed = list_labelled_tiles(root_);
  EXPECT_THAT(error([&] { TileReader(changed).read(0, buffer); }), HasSubstr("tiles-000000.tar"));
  index(crc, png.size() + 1);
  EXPECT_THAT(error([&] { list_labelled_tiles(root_); }), HasSubstr("cut short"));
  const auto refusal = [&](const std::string& content) {
    write_file(root_ / kShardIndexName, content);
    return error([&] { list_labelled_tiles(root_); });
  };
  const std::string header = "shard\tkey\tlabel\toffset\tsize\tcrc32\n";
  EXPECT_THAT(refusal(header + "x\ty\n"), HasSubstr("line 2"));
  EXPECT_THAT(refusal(header + "tiles-000000.tar\tk\tForest\t18446744073709551615\t9\t0\n"),
              HasSubstr("line 2"));
  EXPECT_THAT(refusal(header + "..\tk\tForest\t0\t9\t0\n"), HasSubstr("'..' is no file name"));
  EXPECT_THAT(refusal(header + "../x.tar\tk\tForest\t0\t9\t0\n"), HasSubstr("is no file name"));
  EXPECT_THAT(refusal(header + "gone.tar\tk\tForest\t0\t9\t0\n"), HasSubstr("gone.tar"));
  EXPECT_THAT(refusal(header + "tiles-000000.tar\tk\tForest\t0\t9\t0"),
              HasSubstr("middle of a line"));
  EXPECT_THAT(refusal("shard,key\n"), HasSubstr("line 1: expected the header"));
}

TEST_F(Tiles, a_shard_has_its_name_once_it_is_whole) {
  const Path path = root_ / "tiles-000000.tar";
  const auto is_there = [](const Path& file) { return std::filesystem::exists(file); };
  ShardWriter writer(path);
  writer.add("1", -1, encode_png(pixels(1), 8, 8));
  EXPECT_FALSE(is_there(path));
  EXPECT_TRUE(is_there(temporary_beside(path)));
  writer.close();
  EXPECT_TRUE(is_there(path));
  EXPECT_FALSE(is_there(temporary_beside(path)));
}

TEST_F(Tiles, of_many_shards_few_are_open) {
  const auto count = static_cast<std::uint32_t>(3 * ShardReader::kMostOpen);
  std::vector<std::string> shards;
  for (std::uint32_t i = 0; i < count; ++i) {
    shards.push_back(std::to_string(i) + ".tar");
    write_file(root_ / shards.back(), shards.back());
  }
  const auto open_files = [] {
    const std::filesystem::directory_iterator files("/proc/self/fd");
    return std::distance(begin(files), end(files));
  };
  const auto before = open_files();
  ShardReader reader(root_, shards);
  Bytes buffer;
  // Back to one that is open, and to one that is closed by then.
  for (const std::uint32_t first : {0U, count - 1, 0U}) {
    for (std::uint32_t i = first; i < count; ++i) {
      const auto bytes = std::as_bytes(std::span(shards[i]));
      reader.read(i, 0, static_cast<std::uint32_t>(bytes.size()),
                  libdeflate_crc32(0, bytes.data(), bytes.size()), buffer);
      EXPECT_EQ(buffer, Bytes(bytes.begin(), bytes.end()));
    }
    EXPECT_EQ(open_files(), before + static_cast<std::ptrdiff_t>(ShardReader::kMostOpen));
  }
}

std::vector<std::int32_t> labels(int per_class, int classes) {
  std::vector<std::int32_t> result;
  for (int c = 0; c < classes; ++c)
    result.insert(result.end(), static_cast<std::size_t>(per_class + c), c);
  return result;
}

TEST(ShardPlan, every_epoch_visits_every_tile_once_whatever_the_ranks) {
  const auto all = labels(13, 3);
  const ShardPlan plan(all, 8, 16, 5);
  for (const int ranks : {1, 2, 3, 8}) {
    for (const std::uint64_t epoch : {1U, 2U}) {
      std::multiset<std::uint32_t> seen;
      for (std::int64_t step = 0; step < plan.steps_per_epoch(); ++step) {
        std::int64_t in_step = 0;
        for (int rank = 0; rank < ranks; ++rank) {
          const auto batch = plan.epoch(epoch, plan.shards_of(rank, ranks)).batch(step);
          seen.insert(batch.begin(), batch.end());
          in_step += std::ssize(batch);
        }
        EXPECT_EQ(in_step, plan.batch_tiles(step));
      }
      EXPECT_EQ(seen.size(), all.size());
      EXPECT_EQ(std::set(seen.begin(), seen.end()).size(), all.size());
    }
  }
}

TEST(ShardPlan, batches_are_the_same_sets_on_any_number_of_ranks) {
  const auto all = labels(20, 2);
  const ShardPlan plan(all, 4, 8, 1);
  const auto whole = plan.epoch(3, plan.shards_of(0, 1)).batch(1);
  std::vector<std::uint32_t> parts;
  for (int rank = 0; rank < 4; ++rank) {
    const auto part = plan.epoch(3, plan.shards_of(rank, 4)).batch(1);
    parts.insert(parts.end(), part.begin(), part.end());
  }
  EXPECT_EQ(whole, parts);
}

TEST(ShardPlan, shards_are_balanced_in_size_and_class) {
  const auto all = labels(16, 3);  // 16, 17 and 18 tiles
  const ShardPlan plan(all, 4, 4, 9);
  for (std::int64_t shard = 0; shard < 4; ++shard) {
    std::map<std::int32_t, int> count;
    const auto members = plan.tiles_of({shard, shard + 1});
    for (const auto tile : members) ++count[all[tile]];
    EXPECT_NEAR(static_cast<double>(members.size()), 51.0 / 4, 1);
    for (const auto& [label, n] : count) EXPECT_NEAR(n, (16 + label) / 4.0, 1);
  }
}

TEST(ShardPlan, epochs_differ_and_seeds_differ) {
  const auto all = labels(30, 2);
  const ShardPlan plan(all, 2, 8, 1), other(all, 2, 8, 2);
  const auto range = plan.shards_of(0, 1);
  EXPECT_NE(plan.epoch(1, range).batch(0), plan.epoch(2, range).batch(0));
  EXPECT_NE(plan.epoch(1, range).batch(0), other.epoch(1, range).batch(0));
}

TEST(ShardPlan, refuses_what_cannot_be_dealt) {
  const auto all = labels(5, 2);
  EXPECT_THROW(ShardPlan(all, 4, 6, 0), UsageError);
  EXPECT_THROW(ShardPlan(all, 16, 16, 0), UsageError);
  EXPECT_THROW(ShardPlan(all, 4, 4, 0).shards_of(0, 5), UsageError);
}

TEST(TileTransform, normalises_as_torchvision_does) {
  const TileTransform transform(2, {0.5F, 0.25F, 0.F}, {0.5F, 0.25F, 1.F}, Augment::kNone, 0);
  const std::vector<std::uint8_t> rgb{255, 0, 51, 0, 255, 0, 0, 0, 0, 0, 0, 255};
  std::vector<float> out(12);
  transform.plain(rgb.data(), out.data());
  EXPECT_FLOAT_EQ(out[0], 1);
  EXPECT_FLOAT_EQ(out[1], -1);
  EXPECT_FLOAT_EQ(out[2], 0.2F);
  EXPECT_FLOAT_EQ(out[11], 1);
}

TEST(TileTransform, dihedral_gives_all_eight_symmetries_and_nothing_else) {
  const TileTransform transform(2, {0, 0, 0}, {1, 1, 1}, Augment::kDihedral, 3);
  const std::vector<std::uint8_t> rgb{1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4};
  std::set<std::vector<int>> seen;
  for (std::uint64_t sample = 0; sample < 200; ++sample) {
    std::vector<float> out(12), again(12);
    transform.train(rgb.data(), 1, sample, out.data());
    transform.train(rgb.data(), 1, sample, again.data());
    EXPECT_EQ(out, again);
    std::vector<int> corner;
    for (std::size_t i = 0; i < 12; i += 3)
      corner.push_back(static_cast<int>(std::lround(out[i] * 255)));
    seen.insert(corner);
  }
  const std::set<std::vector<int>> all{{1, 2, 3, 4}, {2, 1, 4, 3}, {3, 4, 1, 2}, {4, 3, 2, 1},
                                       {1, 3, 2, 4}, {3, 1, 4, 2}, {2, 4, 1, 3}, {4, 2, 3, 1}};
  EXPECT_EQ(seen, all);
}

TEST(TileTransform, draws_are_a_function_of_seed_epoch_and_sample) {
  const TileTransform transform(16, {0, 0, 0}, {1, 1, 1}, Augment::kSample, 5);
  EXPECT_EQ(transform.draw(1, 2).left_px, transform.draw(1, 2).left_px);
  EXPECT_NE(transform.draw(1, 2).left_px, transform.draw(2, 2).left_px);
  EXPECT_NE(transform.draw(1, 2).left_px, transform.draw(1, 3).left_px);
  EXPECT_TRUE(transform.draw(1, 2).crops);
  EXPECT_FALSE(TileTransform(16, {0, 0, 0}, {1, 1, 1}, Augment::kNone, 5).draw(1, 2).crops);
}

/// Each adjustment by the sample's own formula, one after the other.
TEST(TileTransform, jitter_is_brightness_then_saturation_then_contrast) {
  AugmentDraw draw;
  draw.brightness = 1.1F;
  draw.saturation = 0.9F;
  draw.contrast = 1.15F;
  const double mean = 90;
  const augment::Jitter jitter = augment::jitter_of(draw, static_cast<float>(mean));
  for (const augment::Rgb& pixel : {augment::Rgb{10, 100, 200}, augment::Rgb{250, 3, 90}}) {
    const double grey = 0.299 * pixel.r + 0.587 * pixel.g + 0.114 * pixel.b;
    for (const double value : {pixel.r, pixel.g, pixel.b}) {
      const double bright = 1.1 * value, bright_grey = 1.1 * grey;
      const double saturated = bright_grey + 0.9 * (bright - bright_grey);
      const double contrasted = 1.1 * mean + 1.15 * (saturated - 1.1 * mean);
      // Seven roundings of numbers below 512.
      EXPECT_NEAR(augment::jittered(static_cast<float>(value), augment::grey_of(pixel), jitter),
                  std::clamp(contrasted, 0.0, 255.0), 7 * 512 * 0x1p-24);
    }
  }
}

TEST(TileTransform, sample_augmentation_stays_near_a_flat_tile) {
  const TileTransform transform(16, {0, 0, 0}, {1, 1, 1}, Augment::kSample, 3);
  const std::vector<std::uint8_t> grey(16 * 16 * 3, 100);
  std::vector<float> out(grey.size());
  float low = 1, high = 0;
  for (std::uint64_t sample = 0; sample < 100; ++sample) {
    transform.train(grey.data(), 1, sample, out.data());
    // A flat grey tile has nothing to crop, contrast or saturate: only the brightness moves, by up
    // to a fifth.
    const auto [least, most] = std::minmax_element(out.begin(), out.end());
    EXPECT_NEAR(*least, *most, 1e-5);
    low = std::min(low, *least);
    high = std::max(high, *most);
  }
  EXPECT_GE(low, 80 / 255.0F - 1e-5F);
  EXPECT_LE(high, 120 / 255.0F + 1e-5F);
  EXPECT_GT(high - low, 20 / 255.0F);
}

}  // namespace
}  // namespace quadrat
