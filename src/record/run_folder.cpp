#include "quadrat/record/run_folder.h"

#include <fmt/format.h>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

int or_mark_failed(const std::function<int()>& work, const std::function<void()>& mark_failed) {
  try {
    return work();
  } catch (...) {
    try {
      mark_failed();
    } catch (const Error&) {  // what stopped the work is what counts
    }
    throw;
  }
}

RunFolder::RunFolder(Path runs, std::string name) : path_(std::move(runs) / std::move(name)) {}

bool RunFolder::is_complete(const Settings& config, bool may_go_on) const {
  std::error_code ignored;
  if (!std::filesystem::exists(record(), ignored)) {
    if (std::filesystem::exists(path_, ignored) && !std::filesystem::is_directory(path_, ignored)) {
      throw InputError("write run", path_.native(), "a file of that name is in the way",
                       "choose another --output_model_name");
    }
    return false;
  }
  const RunRecord earlier = read_run_summary(record());
  std::vector<std::string> differing;
  for (const Setting& now : config) {
    if (is_how_it_ran(now.name)) continue;
    const std::string before = setting(earlier.config, now.name);
    if (before != now.value)
      differing.push_back(fmt::format("--{} was '{}' and is '{}'", now.name, printable(before),
                                      printable(now.value)));
  }
  if (!differing.empty()) {
    constexpr std::size_t kShown = 3;
    const std::size_t more = differing.size() > kShown ? differing.size() - kShown : 0;
    differing.resize(differing.size() - more);
    std::string text = enumerate(differing);
    if (more > 0) text += fmt::format(" and {} more", more);
    throw InputError(
        "go on with run", path_.native(), fmt::format("it has other settings: {}", text),
        "choose another --output_model_name, give the same settings, or remove that folder");
  }
  if (earlier.status == RunStatus::kComplete && !std::filesystem::exists(model(), ignored)) {
    throw InputError(
        "use run", path_.native(),
        fmt::format("its record says complete, but '{}' is gone", model().filename().native()),
        "bring it back, or remove that folder to make it anew");
  }
  if (earlier.status == RunStatus::kComplete) return true;
  if (!may_go_on) {
    throw InputError("start run", path_.native(), "an unfinished run of that name is there",
                     "give --resume auto to go on with it, or remove that folder");
  }
  return false;
}

void RunFolder::prepare() {
  make_folder(path_);
  lock_.take(path_, "write run", "wait for it, or choose another --output_model_name");
  std::error_code ignored;
  if (std::filesystem::exists(record(), ignored) &&
      read_run_summary(record()).status == RunStatus::kComplete) {
    throw InputError("write run", path_.native(), "another process has completed it meanwhile",
                     "look at it with quadrat-runs show");
  }
  remove_stale_temporaries(path_);
}

void RunFolder::write_labels_and_info(
    const std::vector<std::string>& classes,
    const std::vector<std::pair<std::string, std::string>>& info) const {
  std::string labels = "label\tidx\n";
  for (std::size_t i = 0; i < classes.size(); ++i) labels += fmt::format("{}\t{}\n", classes[i], i);
  write_file(path_ / "labels_to_inds.tsv", labels);
  std::string lines;
  for (const auto& [key, value] : info) lines += fmt::format("{},{}\n", key, value);
  write_file(path_ / "model.info", lines);
}

void RunFolder::write_predictions(const Predictions& predictions,
                                  const std::vector<std::string>& classes) const {
  std::string csv = "filename,label,pred_label\n";
  for (std::size_t i = 0; i < predictions.tiles.size(); ++i) {
    csv += fmt::format("{},{},{}\n", csv_field(predictions.tiles[i]),
                       classes[predictions.labels[i]], classes[predictions.predicted[i]]);
  }
  write_file(path_ / "predictions_validation.csv", csv);
}

}  // namespace quadrat
