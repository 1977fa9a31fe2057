#include "quadrat/record/feature_file.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "made_records.h"
#include "quadrat/base/error.h"
#include "quadrat/record/run_record.h"
#include "quadrat/record/score_record.h"
#include "test_folder.h"

namespace quadrat {
namespace {

class FeatureFileTest : public test::InFolder {
 protected:
  void SetUp() override {
    InFolder::SetUp();
    path_ = folder_ / "features.h5";
    file_.made_of = {{"weights_crc32", "0x00c0ffee"}, {"precision", "bf16"}};
    file_.classes = {"Forest", "Shrub"};
    file_.train = {{"Forest/a.png", "Shrub/b.png", "Shrub/c.png"}, {0, 1, 1}};
    file_.validation = {{"Forest/d.png"}, {0}};
    file_.width = 4;
    std::iota(train_.begin(), train_.end(), 0.5F);
    write_features(path_, file_, train_, validation_);
  }

  Path path_;
  FeatureFile file_;
  std::vector<float> train_ = std::vector<float>(12);
  std::vector<float> validation_ = std::vector<float>(4, 7.0F);
};

TEST_F(FeatureFileTest, a_rank_reads_its_rows) {
  EXPECT_EQ(read_features_made_of(path_), file_.made_of);
  EXPECT_EQ(read_feature_rows(path_, "train", 4, 1, 3),
            std::vector<float>(train_.begin() + 4, train_.end()));
  EXPECT_EQ(read_feature_rows(path_, "validation", 4, 0, 1), validation_);
  EXPECT_TRUE(read_feature_rows(path_, "train", 4, 2, 2).empty());
}

TEST_F(FeatureFileTest, what_does_not_fit_is_refused) {
  EXPECT_THROW(read_feature_rows(path_, "train", 4, 2, 4), InputError);
  EXPECT_THROW(read_feature_rows(path_, "train", 5, 0, 1), InputError);
  RunRecord run = test::made_run("made");
  write_run_record(path_, run);
  EXPECT_THROW(read_features_made_of(path_), InputError);
  EXPECT_THROW(read_feature_rows(path_, "train", 4, 0, 1), InputError);
  write_file(path_, std::string_view("no features"));
  EXPECT_THROW(read_features_made_of(path_), InputError);
}

TEST_F(FeatureFileTest, a_file_cut_short_anywhere_is_refused_or_whole) {
  const Bytes whole = read_file(path_);
  for (std::size_t size = 0; size < whole.size(); size += 37) {
    write_file(path_, std::span(whole).first(size));
    EXPECT_THROW(read_feature_rows(path_, "train", 4, 0, 3), Error) << size;
  }
}

#ifndef __SANITIZE_ADDRESS__  // whose allocator keeps what is freed

/// The process's memory in kB, or since when it was set back its most. @param field of proc(5)
std::uint64_t memory_kb(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::stoull(line.substr(field.size() + 1));
  }
  return 0;
}

TEST_F(FeatureFileTest, features_are_in_memory_twice_while_they_are_written) {
  constexpr std::size_t kWidth = 1024;
  const std::vector<float> features(16384 * kWidth, 0.5F);
  ScoreRecord record;
  record.predictions.tiles.resize(features.size() / kWidth, "tile.png");
  std::ofstream("/proc/self/clear_refs") << 5;  // VmHWM becomes VmRSS
  const std::uint64_t before_kb = memory_kb("VmRSS");
  write_score_features(folder_ / "scored.h5", record, features, kWidth);
  const std::uint64_t once_kb = features.size() * sizeof(float) / 1024;
  EXPECT_GT(memory_kb("VmHWM"), before_kb + once_kb / 2) << "the peak was not seen";
  EXPECT_LT(memory_kb("VmHWM"), before_kb + once_kb * 3 / 2);
}

#endif

}  // namespace
}  // namespace quadrat
