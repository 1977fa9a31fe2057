#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "made_records.h"
#include "quadrat/base/error.h"
#include "quadrat/report/run_list.h"
#include "quadrat/report/run_text.h"
#include "quadrat/report/text_table.h"
#include "test_folder.h"

namespace quadrat::report {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class RunsTest : public test::InFolder {
 protected:
  /// A run whose validation errors are these, and that differs from others in what `config` says.
  void keep(const std::string& name, const std::vector<double>& errors,
            const Settings& config = {}) {
    RunRecord run = test::made_run(name, 0, 12, static_cast<std::uint32_t>(errors.size()));
    for (std::size_t i = 0; i < errors.size(); ++i) run.epochs[i].validation_error = errors[i];
    for (const Setting& other : config) {
      std::erase_if(run.config, [&](const Setting& s) { return s.name == other.name; });
      run.config.push_back(other);
    }
    make_folder(folder_ / name);
    write_run_record(folder_ / name / "run.h5", run);
  }

  std::vector<std::string> sorted_names() {
    std::vector<RunEntry> entries = list_runs(folder_);
    sort_by_metric(entries, Metric::kValidationError);
    std::vector<std::string> names;
    for (const RunEntry& entry : entries) names.push_back(entry.name);
    return names;
  }
};

TEST_F(RunsTest, of_equal_epochs_the_kept_one_is_best) {
  RunRecord run = test::made_run("tie", 0, 12, 4);
  for (EpochRow& epoch : run.epochs) epoch.validation_error = 0.5;
  for (const std::uint32_t kept : {1U, 3U, 4U}) {
    run.kept_epoch = kept;
    EXPECT_EQ(best_epoch(run, Metric::kValidationError)->epoch, kept);
  }
}

TEST_F(RunsTest, best_epoch_counts_not_the_last) {
  keep("late", {0.5, 0.4, 0.3});
  keep("early", {0.5, 0.2, 0.45});
  keep("begun", {});
  keep("broken", {std::nan(""), std::nan("")});
  keep("half", {std::nan(""), 0.25});
  make_folder(folder_ / "empty");
  make_folder(folder_ / "foreign");
  write_file(folder_ / "foreign" / "run.h5", "text");
  write_file(folder_ / "a_file", "text");
  EXPECT_THAT(sorted_names(),
              ElementsAre("early", "half", "late", "begun", "broken", "empty", "foreign"));
}

TEST_F(RunsTest, list_names_what_it_cannot_read) {
  keep("good", {0.25});
  make_folder(folder_ / "foreign");
  write_file(folder_ / "foreign" / "run.h5", "text");
  const std::vector<RunEntry> entries = list_runs(folder_);
  const std::string text = list_text(entries, Metric::kValidationError, {});
  EXPECT_THAT(text, AllOf(HasSubstr("good"), HasSubstr("25.00 %"), HasSubstr("foreign: unreadable"),
                          HasSubstr("no HDF5 file")));
  EXPECT_THAT(list_csv(entries, Metric::kValidationError),
              AllOf(HasSubstr("\ngood,complete,"), HasSubstr("\nforeign,unreadable,")));
}

TEST_F(RunsTest, seeds_are_grouped_wherever_they_ran) {
  keep("a0", {0.20}, {{"seed", "0"}});
  keep("a1", {0.22}, {{"seed", "1"}, {"device", "cuda"}, {"threads", "4"}});
  keep("a2", {0.24}, {{"seed", "2"}});
  keep("b", {0.30}, {{"learning_rate", "0.1"}});
  const std::vector<RunEntry> entries = list_runs(folder_);
  const std::vector<RunGroup> groups = group_by_settings(entries, Metric::kValidationError);
  ASSERT_EQ(groups.size(), 2U);
  EXPECT_EQ(groups[0].name, "a0 (+2)");
  EXPECT_NEAR(groups[0].mean, 0.22, 1e-12);
  ASSERT_TRUE(groups[0].sd);
  EXPECT_NEAR(*groups[0].sd, 0.02, 1e-12);
  EXPECT_FALSE(groups[1].sd);
  const std::string text = compare_text(entries, Metric::kValidationError, {});
  EXPECT_THAT(text,
              AllOf(HasSubstr("22.00 ± 2.00 %"), HasSubstr("\nlearning_rate"), HasSubstr("\nseed"),
                    Not(HasSubstr("batch_size")), HasSubstr("10 settings are the same in all")));
}

TEST_F(RunsTest, many_runs_are_compared_within_the_width) {
  for (int i = 0; i < 40; ++i)
    keep("run" + std::to_string(i), {0.5, 0.3},
         {{"learning_rate", std::to_string(0.001 * (i + 1))}});
  TextStyle style;
  style.width = 80;
  const std::string text = compare_text(list_runs(folder_), Metric::kValidationError, style);
  std::size_t longest = 0;
  std::string_view settings(text);
  settings = settings.substr(settings.find("Settings"));
  while (!settings.empty()) {
    const std::size_t end = std::min(settings.find('\n'), settings.size() - 1);
    longest = std::max(longest, display_width(settings.substr(0, end)));
    settings.remove_prefix(end + 1);
  }
  EXPECT_LE(longest, 80U);
}

TEST_F(RunsTest, run_that_is_not_there) {
  keep("resnet", {0.2});
  try {
    load_run(folder_, "resent", false);
    FAIL();
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("did you mean 'resnet'"));
  }
  EXPECT_THROW(load_run(folder_, "../resnet", false), UsageError);
  EXPECT_THROW(list_runs(folder_ / "nowhere"), IoError);
}

TEST_F(RunsTest, show_says_all) {
  keep("made", {0.5, 0.25, 0.3});
  const std::string text = show_text(load_run(folder_, "made", false), {});
  EXPECT_THAT(text, AllOf(HasSubstr("25.00 % at epoch 2"), HasSubstr("learning_rate"),
                          HasSubstr("threads_per_rank"), HasSubstr("true \\ predicted"),
                          HasSubstr("precision")));
}

TEST_F(RunsTest, export_is_csv) {
  keep("made", {0.5, 0.25});
  const RunRecord run = load_run(folder_, "made", true);
  const std::string epochs = export_csv(run, "epochs");
  EXPECT_THAT(epochs, AllOf(HasSubstr("epoch,train_loss"), HasSubstr("\n2,"), HasSubstr(",0.25,")));
  EXPECT_EQ(std::count(epochs.begin(), epochs.end(), '\n'), 3);
  const std::string predictions = export_csv(run, "predictions");
  EXPECT_EQ(std::count(predictions.begin(), predictions.end(), '\n'), 13);
  EXPECT_THAT(export_csv(run, "confusion"), HasSubstr("true,Barren,"));
  EXPECT_THAT(export_csv(run, "per_class"), HasSubstr("Shrub,2,"));
  EXPECT_THAT(export_csv(run, "config"), HasSubstr("batch_size,64"));
  EXPECT_THROW(export_csv(run, "nothing"), UsageError);
}

TEST(TextTable, counts_characters_not_bytes) {
  TextTable table({"name", "n"});
  table.add({"Caf\xC3\xA9", "5"});
  table.add({"Tea", "12"});
  EXPECT_EQ(table.text(), "name   n\nCaf\xC3\xA9   5\nTea   12\n");
  EXPECT_EQ(shortened("Caf\xC3\xA9s are", 5), "Caf\xC3\xA9~");
}

TEST(Plot, curves_of_any_shape) {
  TextStyle style;
  EXPECT_EQ(plot_text({}, "t", true, style), "");
  EXPECT_EQ(plot_text({{"a", {std::nan("")}}}, "t", true, style), "");
  EXPECT_THAT(plot_text({{"a", {0.5}}}, "t", true, style), HasSubstr("a a"));
  EXPECT_THAT(plot_text({{"a", {0.5, std::nan(""), 0.1}}, {"b", {0.2}}}, "t", false, style),
              HasSubstr("b b"));
  style.width = 1;
  EXPECT_NE(plot_text({{"a", {1, 2, 3}}}, "t", false, style), "");
}

}  // namespace
}  // namespace quadrat::report
