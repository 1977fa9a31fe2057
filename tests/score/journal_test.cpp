#include "quadrat/score/journal.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "quadrat/base/error.h"
#include "quadrat/score/units.h"

namespace {

std::vector<std::filesystem::path> synced;  ///< what fsync was called for

}  // namespace

// In the place of the C library's.
extern "C" int fsync(int descriptor) {
  synced.push_back(std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor)));
  return static_cast<int>(::syscall(SYS_fsync, descriptor));
}

namespace quadrat::score {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kFingerprint = 0x0123456789abcdef;
constexpr std::uint32_t kClasses = 3;

class Journal : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "journal_test_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  static UnitResult unit(std::uint64_t number, std::size_t tiles = 4, std::size_t width = 0) {
    UnitResult result;
    result.unit = number;
    result.seconds = 0.5;
    for (std::size_t i = 0; i < tiles * kClasses; ++i) {
      result.probabilities.push_back(static_cast<float>(number) + static_cast<float>(i) / 64);
    }
    for (std::size_t i = 0; i < tiles * width; ++i)
      result.features.push_back(-static_cast<float>(i));
    result.rejected.push_back({1, "cut short: 3 bytes"});
    return result;
  }

  void write(int rank, const std::vector<std::uint64_t>& numbers) const {
    JournalWriter writer(folder_, rank, 2, kFingerprint, kClasses);
    for (const std::uint64_t number : numbers) writer.append(unit(number));
    writer.close();
  }

  std::map<std::uint64_t, UnitResult> read(double* seconds = nullptr) const {
    std::map<std::uint64_t, UnitResult> found;
    const double read = read_journals(folder_, kFingerprint, kClasses, [&](UnitResult&& result) {
      const std::uint64_t number = result.unit;
      EXPECT_TRUE(found.emplace(number, std::move(result)).second)
          << "unit " << number << " came twice";
    });
    if (seconds != nullptr) *seconds = read;
    return found;
  }

  /// The one journal there is, as bytes that can be damaged.
  Bytes bytes() const { return read_file(only()); }
  void replace(const Bytes& content) const {
    write_file(only(), std::span<const std::byte>(content));
  }
  Path only() const {
    Path path;
    for (const auto& entry : fs::directory_iterator(folder_)) path = entry.path();
    return path;
  }

  Path folder_;
};

TEST_F(Journal, gives_back_what_was_appended) {
  {
    JournalWriter writer(folder_, 0, 2, kFingerprint, kClasses);
    writer.append(unit(7, 4, 5));
    writer.append(unit(2, 2));
    writer.close();
  }
  double seconds = 0;
  const auto found = read(&seconds);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found.at(7).probabilities, unit(7).probabilities);
  EXPECT_EQ(found.at(7).features, unit(7, 4, 5).features);
  EXPECT_TRUE(found.at(2).features.empty());
  ASSERT_EQ(found.at(7).rejected.size(), 1U);
  EXPECT_EQ(found.at(7).rejected[0].tile, 1U);
  EXPECT_EQ(found.at(7).rejected[0].reason, "cut short: 3 bytes");
  EXPECT_DOUBLE_EQ(seconds, 0.5)
      << "two units of 0.5 s on one of two ranks that worked side by side";
}

TEST_F(Journal, is_on_disk_with_its_name) {
  synced.clear();
  write(0, {1, 2});
  EXPECT_EQ(std::count(synced.begin(), synced.end(), folder_), 1);
  EXPECT_GE(std::count(synced.begin(), synced.end(), only()), 2);
}

TEST_F(Journal, is_not_made_for_nothing) {
  write(0, {});
  EXPECT_TRUE(fs::is_empty(folder_));
  EXPECT_TRUE(read().empty());
}

TEST_F(Journal, every_start_of_a_rank_has_its_own_file_and_units_count_once) {
  write(0, {1, 2});
  write(0, {2, 3});
  write(1, {3});
  const fs::directory_iterator files(folder_);
  EXPECT_EQ(std::distance(begin(files), end(files)), 3);
  EXPECT_EQ(read().size(), 3U);
  remove_journals(folder_);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(Journal, cut_off_anywhere_keeps_the_whole_units_before) {
  write(0, {1, 2});
  const Bytes whole = bytes();
  std::size_t last = 0;
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    replace(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
    const std::size_t units = read().size();
    ASSERT_GE(units, last) << "of " << size << " bytes";
    ASSERT_LE(units, 2U);
    last = units;
  }
  EXPECT_EQ(last, 2U);
}

TEST_F(Journal, a_flipped_bit_never_becomes_a_result) {
  write(0, {1, 2});
  const Bytes whole = bytes();
  for (std::size_t at = 0; at < whole.size(); ++at) {
    Bytes damaged = whole;
    damaged[at] ^= std::byte{0x10};
    replace(damaged);
    try {
      for (const auto& [number, result] : read()) {
        ASSERT_EQ(result.probabilities, unit(number).probabilities) << "byte " << at;
        ASSERT_EQ(result.rejected[0].reason, unit(number).rejected[0].reason) << "byte " << at;
      }
    } catch (const InputError&) {
      FAIL() << "byte " << at
             << " made the journal one of other settings, though its header has a checksum";
    }
  }
}

TEST_F(Journal, of_other_settings_is_refused) {
  write(0, {1});
  const auto ignore = [](UnitResult&&) {};
  EXPECT_THROW(read_journals(folder_, kFingerprint + 1, kClasses, ignore), InputError);
  EXPECT_THROW(read_journals(folder_, kFingerprint, kClasses + 1, ignore), InputError);
}

TEST(Units, hold_every_tile_once_in_whole_batches) {
  for (const std::size_t tiles : {1U, 7U, 64U, 120U, 480U, 5'000U, 65'001U, 1'000'000U}) {
    for (const std::size_t batch : {8U, 64U, 96U}) {
      const Units units(tiles, batch);
      std::size_t next = 0;
      for (std::size_t u = 0; u < units.count(); ++u) {
        ASSERT_EQ(units.first(u), next);
        ASSERT_GT(units.size(u), 0U);
        ASSERT_LE(units.size(u), 1024U + batch);
        ASSERT_TRUE(u + 1 == units.count() || units.size(u) % batch == 0);
        ASSERT_TRUE(u == 0 || units.size(u) <= units.size(u - 1)) << "they shrink towards the end";
        next += units.size(u);
      }
      ASSERT_EQ(next, tiles);
    }
  }
  EXPECT_EQ(Units(195'000'000, 8).size(0), 1024U);
  EXPECT_EQ(Units(0, 8).count(), 0U);
}

}  // namespace
}  // namespace quadrat::score
