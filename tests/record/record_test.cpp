#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include "made_records.h"
#include "quadrat/base/error.h"
#include "quadrat/base/random.h"
#include "quadrat/base/tile_folder.h"
#include "quadrat/record/tile_summaries.h"
#include "test_folder.h"

// HDF5 1.10 loses 296 bytes of its own for some damaged object headers.
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5";
}  // NOLINT(bugprone-reserved-identifier)

namespace quadrat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RecordTest : public test::InFolder {
 protected:
  void SetUp() override {
    InFolder::SetUp();
    path_ = folder_ / "run.h5";
  }
  void TearDown() override {
    InFolder::TearDown();
    // Every handle was given back, on every way out.
    EXPECT_EQ(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
  }

  std::string error_of_reading(const Path& path) {
    try {
      read_run_record(path);
    } catch (const InputError& error) {
      return error.what();
    }
    ADD_FAILURE() << "read without an InputError";
    return "";
  }

  /// Changes a valid record with HDF5 itself.
  void tamper(const std::function<void(hid_t file)>& change) {
    RunRecord record = test::made_run("made", 0, 60, 3);
    write_run_record(path_, record);
    const hid_t file = H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    change(file);
    ASSERT_GE(H5Fclose(file), 0);
  }

  Path path_;
};

/// Without the flushing that makes hundreds of files slow.
void write_plainly(const Path& path, std::span<const std::byte> bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

void expect_equal(const Predictions& a, const Predictions& b) {
  EXPECT_EQ(a.tiles, b.tiles);
  EXPECT_EQ(a.labels, b.labels);
  EXPECT_EQ(a.predicted, b.predicted);
  EXPECT_EQ(a.probabilities, b.probabilities);
}

TEST_F(RecordTest, run_reads_back_as_written) {
  RunRecord written = test::made_run("made", 3, 500, 7);
  written.config.emplace_back("folder", "with blanks, \xC3\xA9 and 'quotes'");
  written.config.emplace_back("empty", "");
  written.config.emplace_back("zeros", "007");
  written.config.emplace_back("exponent", "5e-4");
  written.config.emplace_back("flag", "true");
  written.config.emplace_back("digits", "123");
  written.config.emplace_back("below", -3);
  written.config.emplace_back("real", 0.1);
  written.config.emplace_back("whole", 2.0);
  written.config.emplace_back("long", std::string(200000, 'x'));
  write_run_record(path_, written);
  const RunRecord read = read_run_record(path_);
  EXPECT_EQ(read.name, "made");
  EXPECT_EQ(read.status, RunStatus::kComplete);
  EXPECT_EQ(read.program, written.program);
  EXPECT_EQ(read.created, written.created);
  EXPECT_EQ(read.updated.size(), 20U);
  EXPECT_FALSE(read.git_commit.empty());
  EXPECT_EQ(read.config, written.config);
  for (std::size_t i = 0; i < read.config.size(); ++i)
    EXPECT_EQ(read.config[i].type, written.config[i].type) << read.config[i].name;
  EXPECT_EQ(read.environment, written.environment);
  EXPECT_EQ(read.classes, written.classes);
  EXPECT_EQ(read.kept_epoch, written.kept_epoch);
  EXPECT_EQ(read.confusion, written.confusion);
  ASSERT_EQ(read.epochs.size(), 7U);
  for (std::size_t i = 0; i < read.epochs.size(); ++i) {
    EXPECT_EQ(read.epochs[i].epoch, i + 1);
    EXPECT_EQ(read.epochs[i].train_loss, written.epochs[i].train_loss);
    EXPECT_EQ(read.epochs[i].train_error, written.epochs[i].train_error);
    EXPECT_EQ(read.epochs[i].validation_loss, written.epochs[i].validation_loss);
    EXPECT_EQ(read.epochs[i].validation_error, written.epochs[i].validation_error);
    EXPECT_EQ(read.epochs[i].learning_rate, written.epochs[i].learning_rate);
    EXPECT_EQ(read.epochs[i].seconds, written.epochs[i].seconds);
    EXPECT_EQ(read.epochs[i].tiles_per_s, written.epochs[i].tiles_per_s);
  }
  expect_equal(read.validation, written.validation);
}

TEST_F(RecordTest, run_that_has_only_started) {
  RunRecord written = test::made_run("made", 0, 0, 0);
  written.status = RunStatus::kRunning;
  write_run_record(path_, written);
  const RunRecord read = read_run_record(path_);
  EXPECT_TRUE(read.epochs.empty());
  EXPECT_TRUE(read.validation.tiles.empty());
  EXPECT_EQ(read.kept_epoch, 0U);
  EXPECT_EQ(read.confusion, std::vector<std::int64_t>(36));
}

TEST_F(RecordTest, summary_leaves_out_predictions_only) {
  RunRecord written = test::made_run("made");
  write_run_record(path_, written);
  const RunRecord read = read_run_summary(path_);
  EXPECT_TRUE(read.validation.tiles.empty());
  EXPECT_EQ(read.epochs.size(), 10U);
  EXPECT_EQ(read.confusion, written.confusion);
}

TEST_F(RecordTest, scores_read_back_as_written) {
  ScoreRecord written = test::made_scores(1, 40);
  ASSERT_FALSE(written.rejected.empty());
  write_score_record(path_, written);
  const ScoreRecord read = read_score_record(path_);
  EXPECT_EQ(read.status, RunStatus::kComplete);
  EXPECT_EQ(read.seconds, written.seconds);
  EXPECT_EQ(read.config, written.config);
  EXPECT_EQ(read.environment, written.environment);
  EXPECT_EQ(read.classes, written.classes);
  expect_equal(read.predictions, written.predictions);
  ASSERT_EQ(read.corners.size(), written.corners.size());
  for (std::size_t i = 0; i < read.corners.size(); ++i) {
    EXPECT_EQ(read.corners[i].llcrnrlat, written.corners[i].llcrnrlat);
    EXPECT_EQ(read.corners[i].llcrnrlon, written.corners[i].llcrnrlon);
    EXPECT_EQ(read.corners[i].urcrnrlat, written.corners[i].urcrnrlat);
    EXPECT_EQ(read.corners[i].urcrnrlon, written.corners[i].urcrnrlon);
  }
  ASSERT_EQ(read.rejected.size(), written.rejected.size());
  EXPECT_EQ(read.rejected[0].tile, written.rejected[0].tile);
  EXPECT_EQ(read.rejected[0].reason, written.rejected[0].reason);
}

TEST_F(RecordTest, scores_without_corners_and_with_labels) {
  ScoreRecord written = test::made_scores(1, 10);
  written.corners.clear();
  written.predictions.labels = written.predictions.predicted;
  write_score_record(path_, written);
  const ScoreRecord read = read_score_record(path_);
  EXPECT_TRUE(read.corners.empty());
  expect_equal(read.predictions, written.predictions);
}

TEST_F(RecordTest, table_larger_than_one_block) {
  RunRecord written = test::made_run("made", 0, 60000, 1);
  write_run_record(path_, written);
  expect_equal(read_run_record(path_).validation, written.validation);
}

TEST_F(RecordTest, writing_replaces_and_leaves_nothing_beside) {
  RunRecord record = test::made_run("made", 0, 60, 3);
  write_run_record(path_, record);
  record.epochs.pop_back();
  write_run_record(path_, record);
  EXPECT_EQ(read_run_record(path_).epochs.size(), 2U);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(RecordTest, full_disk_keeps_the_old_record) {
  RunRecord record = test::made_run("made", 0, 60, 3);
  write_run_record(path_, record);
  // A limit on file sizes stands for the full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  RunRecord larger = test::made_run("made", 0, 6000, 10);
  EXPECT_THROW(write_run_record(path_, larger), IoError);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(read_run_record(path_).epochs.size(), 3U);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(RecordTest, no_such_folder_is_said) {
  RunRecord record = test::made_run("made", 0, 60, 3);
  try {
    write_run_record(folder_ / "nowhere" / "run.h5", record);
    FAIL();
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), HasSubstr("No such file or directory"));
  }
}

TEST_F(RecordTest, missing_file_and_folder) {
  try {
    read_run_record(folder_ / "none.h5");
    FAIL();
  } catch (const IoError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("none.h5"), HasSubstr("No such file")));
  }
  EXPECT_THAT(error_of_reading(folder_), HasSubstr("not a regular file"));
}

TEST_F(RecordTest, foreign_bytes_are_named) {
  write_file(path_, "this is no HDF5 file at all");
  EXPECT_THAT(error_of_reading(path_), AllOf(HasSubstr(path_.native()), HasSubstr("no HDF5 file")));
  write_file(path_, "");
  EXPECT_THAT(error_of_reading(path_), HasSubstr("empty"));
}

TEST_F(RecordTest, cut_short_anywhere_is_refused) {
  RunRecord record = test::made_run("made", 0, 300, 3);
  write_run_record(path_, record);
  const Bytes whole = read_file(path_);
  for (std::size_t size = 0; size < whole.size(); size += 97) {
    const Path cut = folder_ / "cut.h5";
    write_plainly(cut, std::span(whole).first(size));
    EXPECT_THAT(error_of_reading(cut), HasSubstr("cut.h5")) << size;
  }
}

// One flipped byte may be in a name or a number and so go unseen; what must not happen is anything
// but a record or an error. Most of the file's structure carries checksums.
class DamagedRecordTest : public RecordTest {
 protected:
  /// Reads a record with up to three bytes changed, many times. @return how often it was refused
  int read_damaged(int times) {
    RunRecord record = test::made_run("made", 0, 300, 3);
    write_run_record(path_, record);
    const Bytes bytes = read_file(path_);
    KeyedRandom random({5});
    int refused = 0;
    for (int trial = 0; trial < times; ++trial) {
      Bytes changed = bytes;
      // Where the structure is: the head of the file.
      const std::uint64_t range =
          trial % 2 == 0 ? std::min<std::uint64_t>(4096, bytes.size()) : bytes.size();
      for (int i = 0; i <= trial % 3; ++i) {
        changed[random.below(range)] = static_cast<std::byte>(random.below(256));
      }
      const Path path = folder_ / "changed.h5";
      write_plainly(path, changed);
      try {
        read_run_record(path);
      } catch (const InputError&) {
        ++refused;
      }
    }
    return refused;
  }

  static constexpr int kTimes = 1500;
};

TEST_F(DamagedRecordTest, never_crashes) { EXPECT_GT(read_damaged(kTimes), kTimes / 10); }

/// HDF5 1.10 cannot close some of what it opened in damaged files, and would say so.
TEST_F(DamagedRecordTest, leaves_nothing_to_be_said_at_exit) {
  const auto read_and_exit = [this] {
    read_damaged(kTimes);
    std::exit(0);
  };
  EXPECT_EXIT(read_and_exit(), testing::ExitedWithCode(0), testing::Not(HasSubstr("HDF5")));
}

TEST_F(RecordTest, score_record_is_no_run_record) {
  ScoreRecord scores = test::made_scores(1, 5);
  write_score_record(path_, scores);
  EXPECT_THAT(error_of_reading(path_),
              AllOf(HasSubstr("quadrat-scores"), HasSubstr("quadrat-run")));
}

TEST_F(RecordTest, newer_schema_is_named) {
  tamper([](hid_t file) {
    const hid_t attribute = H5Aopen(file, "schema_version", H5P_DEFAULT);
    const std::int64_t version = 2;
    H5Awrite(attribute, H5T_NATIVE_INT64, &version);
    H5Aclose(attribute);
  });
  EXPECT_THAT(error_of_reading(path_), AllOf(HasSubstr("schema_version is 2"), HasSubstr("newer")));
}

TEST_F(RecordTest, missing_parts_are_named) {
  for (const char* part :
       {"config", "environment", "classes", "epochs", "confusion", "predictions"}) {
    tamper([&](hid_t file) { H5Ldelete(file, part, H5P_DEFAULT); });
    EXPECT_THAT(error_of_reading(path_), HasSubstr(part));
  }
  for (const char* attribute : {"schema", "name", "status", "created"}) {
    tamper([&](hid_t file) { H5Adelete(file, attribute); });
    EXPECT_THAT(error_of_reading(path_), HasSubstr(std::string("no attribute '") + attribute));
  }
}

TEST_F(RecordTest, huge_claims_are_refused_before_anything_is_allocated) {
  tamper([](hid_t file) {
    const hid_t dataset = H5Dopen2(file, "predictions/validation", H5P_DEFAULT);
    const hsize_t size = hsize_t{1} << 40;
    H5Dset_extent(dataset, &size);
    H5Dclose(dataset);
  });
  EXPECT_THAT(error_of_reading(path_),
              AllOf(HasSubstr("predictions/validation"), HasSubstr("claims")));
}

// HDF5 1.10 itself reads past the end of a chunk that unpacks to less than it should.
TEST_F(RecordTest, chunk_that_unpacks_to_less_is_refused) {
  RunRecord record = test::made_run("made", 0, 600, 3);
  write_run_record(path_, record);
  const hid_t file = H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(file, "predictions/validation", H5P_DEFAULT);
  const hsize_t first = 0;
  // A zlib stream of a single byte: header, stored block, Adler-32.
  const unsigned char one_byte[] = {0x78, 0x01, 0x01, 0x01, 0x00, 0xFE,
                                    0xFF, 'x',  0x00, 0x79, 0x00, 0x79};
  ASSERT_GE(H5Dwrite_chunk(dataset, H5P_DEFAULT, 0, &first, sizeof one_byte, one_byte), 0);
  H5Dclose(dataset);
  H5Fclose(file);
  EXPECT_THAT(error_of_reading(path_),
              AllOf(HasSubstr("predictions/validation"), HasSubstr("damaged")));
}

TEST_F(RecordTest, links_to_other_files_are_not_followed) {
  RunRecord other = test::made_run("other", 1, 60, 3);
  const Path other_path = folder_ / "other.h5";
  write_run_record(other_path, other);
  tamper([&](hid_t file) {
    H5Ldelete(file, "epochs", H5P_DEFAULT);
    H5Lcreate_external(other_path.c_str(), "/epochs", file, "epochs", H5P_DEFAULT, H5P_DEFAULT);
  });
  EXPECT_THAT(error_of_reading(path_), HasSubstr("epochs"));
}

TEST_F(RecordTest, class_out_of_range_is_refused) {
  tamper([](hid_t file) {
    const hid_t dataset = H5Dopen2(file, "predictions/validation", H5P_DEFAULT);
    const hid_t type = H5Tcreate(H5T_COMPOUND, 2);
    H5Tinsert(type, "predicted", 0, H5T_NATIVE_UINT16);
    std::vector<std::uint16_t> values(60, 9);
    H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    H5Tclose(type);
    H5Dclose(dataset);
  });
  EXPECT_THAT(error_of_reading(path_), HasSubstr("class 9, but there are 6"));
}

TEST_F(RecordTest, reading_says_nothing_on_stderr) {
  write_file(path_, std::string("\x89HDF\r\n\x1a\n garbage that looks like HDF5", 30));
  ::testing::internal::CaptureStderr();
  EXPECT_NE(error_of_reading(path_), "");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(RunRecord, tells_how_a_run_ran_from_what_it_computed) {
  EXPECT_TRUE(is_how_it_ran("threads"));
  EXPECT_TRUE(is_how_it_ran("device"));
  EXPECT_FALSE(is_how_it_ran("seed"));
  EXPECT_FALSE(is_how_it_ran("precision"));
}

class TileSummariesTest : public test::InFolder {
 protected:
  TileSummaries of(const std::string& lines) {
    const Path path = folder_ / tile_folder::kSummaries;
    write_file(path, "filename,llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon\n" + lines);
    return TileSummaries(path);
  }
};

TEST_F(TileSummariesTest, finds_tiles_by_path_and_else_by_name) {
  const TileSummaries summaries =
      of("a_0.png,1,2,3,4\r\nForest/a_1.png,5,-6,7e0,8\n\n\"b,\"\"2\"\".png\",9,10,11,12\n");
  EXPECT_EQ(summaries.size(), 3U);
  ASSERT_NE(summaries.find("a_0.png"), nullptr);
  EXPECT_EQ(summaries.find("a_0.png")->llcrnrlon, 2);
  EXPECT_EQ(summaries.find("Shrub/a_0.png"), summaries.find("a_0.png"));
  ASSERT_NE(summaries.find("Forest/a_1.png"), nullptr);
  EXPECT_EQ(summaries.find("Forest/a_1.png")->urcrnrlat, 7);
  EXPECT_EQ(summaries.find("a_1.png"), nullptr);
  ASSERT_NE(summaries.find("b,\"2\".png"), nullptr);
  EXPECT_EQ(summaries.find("b,\"2\".png")->urcrnrlon, 12);
}

TEST_F(TileSummariesTest, names_the_line_that_is_none) {
  for (const char* line : {"a_0.png,1,2,3", "a_0.png,1,2,3,x", "a_0.png,1,2,3,4 ", "a_0.png"}) {
    try {
      of("a_1.png,1,2,3,4\n" + std::string(line) + "\n");
      FAIL() << line;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find("line 3, '" + std::string(line)), std::string::npos)
          << error.what();
    }
  }
}

// DESIGN, section 8: true and false positives and false negatives of 384 tiles, and the ratios that
// follow.
TEST(Metrics, published_example) {
  const std::vector<std::string> classes{"Barren", "Cultivated", "Developed",
                                         "Forest", "Herbaceous", "Shrub"};
  const std::int64_t tp[] = {43, 51, 64, 59, 31, 49};
  const std::int64_t fp[] = {3, 16, 3, 17, 12, 36};
  const std::int64_t fn[] = {27, 5, 6, 5, 26, 18};
  // The off-diagonal counts are not published; any with these margins will do. Filled greedily,
  // never the diagonal.
  std::vector<std::int64_t> confusion(36);
  std::vector<std::int64_t> rows(fn, fn + 6), columns(fp, fp + 6);
  for (int c = 0; c < 6; ++c) confusion[static_cast<std::size_t>(c * 7)] = tp[c];
  for (int round = 0; round < 87; ++round) {
    // The most constrained cell first keeps the rest possible.
    int row = 0, column = -1;
    for (int i = 1; i < 6; ++i) {
      if (rows[static_cast<std::size_t>(i)] + columns[static_cast<std::size_t>(i)] >
          rows[static_cast<std::size_t>(row)] + columns[static_cast<std::size_t>(row)]) {
        row = i;
      }
    }
    if (rows[static_cast<std::size_t>(row)] == 0) {
      column = row;
      row = -1;
      for (int i = 0; i < 6; ++i) {
        if (i != column &&
            (row < 0 || rows[static_cast<std::size_t>(i)] > rows[static_cast<std::size_t>(row)]))
          row = i;
      }
    } else {
      for (int i = 0; i < 6; ++i) {
        if (i != row && (column < 0 || columns[static_cast<std::size_t>(i)] >
                                           columns[static_cast<std::size_t>(column)])) {
          column = i;
        }
      }
    }
    --rows[static_cast<std::size_t>(row)];
    --columns[static_cast<std::size_t>(column)];
    ++confusion[static_cast<std::size_t>(row * 6 + column)];
  }
  ASSERT_THAT(rows, ::testing::Each(0));
  ASSERT_THAT(columns, ::testing::Each(0));

  EXPECT_NEAR(1 - error_of(confusion, 6), 0.773, 5e-4);
  const std::vector<ClassMetrics> metrics = class_metrics(confusion, classes);
  const double recall[] = {.614, .911, .914, .922, .544, .731};
  const double precision[] = {.935, .761, .955, .776, .721, .576};
  for (std::size_t c = 0; c < 6; ++c) {
    EXPECT_EQ(metrics[c].label, classes[c]);
    EXPECT_EQ(metrics[c].support, tp[c] + fn[c]);
    EXPECT_NEAR(metrics[c].recall, recall[c], 5e-4) << classes[c];
    EXPECT_NEAR(metrics[c].precision, precision[c], 5e-4) << classes[c];
    EXPECT_NEAR(
        metrics[c].f1,
        2 * metrics[c].precision * metrics[c].recall / (metrics[c].precision + metrics[c].recall),
        1e-12);
  }
}

TEST(Metrics, confusion_has_rows_true_and_columns_predicted) {
  EXPECT_THAT(confusion_matrix({0, 0, 1, 1, 1}, {0, 1, 1, 1, 0}, 2), ElementsAre(1, 1, 1, 2));
}

TEST(Metrics, nothing_below_the_line_is_zero) {
  const auto metrics = class_metrics({0, 0, 0, 5}, {"a", "b"});
  EXPECT_EQ(metrics[0].precision, 0);
  EXPECT_EQ(metrics[0].recall, 0);
  EXPECT_EQ(metrics[0].f1, 0);
  EXPECT_EQ(metrics[1].f1, 1);
  EXPECT_EQ(error_of(std::vector<std::int64_t>(4), 2), 0);
}

}  // namespace
}  // namespace quadrat
