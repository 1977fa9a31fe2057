#include "quadrat/report/run_list.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <limits>
#include <map>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat::report {

namespace fs = std::filesystem;

namespace {

struct MetricInfo {
  Metric metric;
  const char* name;
  double EpochRow::*member;
};
constexpr std::array<MetricInfo, 4> kMetrics{
    {{Metric::kValidationError, "validation_error", &EpochRow::validation_error},
     {Metric::kValidationLoss, "validation_loss", &EpochRow::validation_loss},
     {Metric::kTrainError, "train_error", &EpochRow::train_error},
     {Metric::kTrainLoss, "train_loss", &EpochRow::train_loss}}};

const MetricInfo& info(Metric metric) { return kMetrics[static_cast<std::size_t>(metric)]; }

/// Whether runs that differ in it are of one training.
bool is_of_the_run(const std::string& option) {
  return is_how_it_ran(option) || option == "seed" || option == "output_model_name";
}

std::string missing(const Path& folder) {
  std::error_code error;
  return fs::exists(folder / "run.h5", error) ? "" : "there is no run.h5 in it";
}

/// Asks the system to fetch the files meanwhile: hundreds of small reads one after the other are
/// what a list waits for on a disk or over NFS.
void fetch_ahead(const Path& runs, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const int fd = ::open((runs / name / "run.h5").c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) continue;
    constexpr off_t kSummaryBytes = 1 << 18;
    ::posix_fadvise(fd, 0, kSummaryBytes, POSIX_FADV_WILLNEED);
    ::close(fd);
  }
}

std::vector<std::string> folders_in(const Path& runs) {
  std::error_code error;
  fs::directory_iterator it(runs, error);
  if (error) {
    errno = error.value();
    throw IoError::from_errno("list runs in", runs.native());
  }
  std::vector<std::string> names;
  for (const fs::directory_iterator end; it != end; it.increment(error)) {
    if (error) break;
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    if (!name.starts_with('.') && it->is_directory(ignored)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

const std::vector<std::string>& metric_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const MetricInfo& metric : kMetrics) result.emplace_back(metric.name);
    return result;
  }();
  return names;
}

Metric metric_from(std::string_view option, const std::string& name) {
  for (const MetricInfo& metric : kMetrics) {
    if (metric.name == name) return metric.metric;
  }
  throw UsageError(fmt::format("{} is '{}', but must be one of {}", option, printable(name),
                               enumerate(metric_names())));
}

std::string_view to_string(Metric metric) { return info(metric).name; }

bool is_error(Metric metric) {
  return metric == Metric::kValidationError || metric == Metric::kTrainError;
}

double value_of(const EpochRow& epoch, Metric metric) { return epoch.*info(metric).member; }

std::vector<RunEntry> list_runs(const Path& runs) {
  std::vector<RunEntry> entries;
  const std::vector<std::string> names = folders_in(runs);
  fetch_ahead(runs, names);
  for (const std::string& name : names) {
    RunEntry entry{name, {}, missing(runs / name)};
    if (entry.problem.empty()) {
      try {
        entry.record = read_run_summary(runs / name / "run.h5");
      } catch (const Error& error) {
        entry.problem = error.what();
      }
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

RunRecord load_run(const Path& runs, const std::string& name, bool whole) {
  require_plain_name("the run's name", name);
  const Path path = runs / name / "run.h5";
  std::error_code error;
  if (!fs::exists(path, error)) {
    const std::vector<std::string> there = folders_in(runs);
    if (std::find(there.begin(), there.end(), name) != there.end()) {
      throw InputError("read run", name, fmt::format("there is no '{}'", path.native()),
                       "has it started?");
    }
    const std::string near = closest(name, there);
    throw InputError("find run", name,
                     fmt::format("there is no folder of that name in '{}'", runs.native()),
                     near.empty() ? "'quadrat-runs list' shows what there is"
                                  : fmt::format("did you mean '{}'?", near));
  }
  return whole ? read_run_record(path) : read_run_summary(path);
}

const EpochRow* best_epoch(const RunRecord& run, Metric metric) {
  const EpochRow* best = nullptr;
  for (const EpochRow& epoch : run.epochs) {
    const double value = value_of(epoch, metric);
    if (std::isnan(value)) continue;
    // Of equals the one whose model was kept.
    const bool is_better = best == nullptr || value < value_of(*best, metric) ||
                           (value == value_of(*best, metric) && epoch.epoch == run.kept_epoch);
    if (is_better) best = &epoch;
  }
  return best;
}

void sort_by_metric(std::vector<RunEntry>& entries, Metric metric) {
  const auto key = [&](const RunEntry& entry) {
    const EpochRow* best = best_epoch(entry.record, metric);
    return std::make_tuple(
        !entry.problem.empty(),
        best == nullptr ? std::numeric_limits<double>::infinity() : value_of(*best, metric),
        std::string_view(entry.name));
  };
  std::stable_sort(entries.begin(), entries.end(),
                   [&](const RunEntry& a, const RunEntry& b) { return key(a) < key(b); });
}

std::string model_of(const RunRecord& run) {
  const std::string network = setting(run.config, "pretrained_model_type");
  std::string trained = setting(run.config, "retraining_type");
  if (trained.empty()) trained = setting(run.config, "classifier");
  return network + (network.empty() || trained.empty() ? "" : " ") + trained;
}

double total_seconds(const RunRecord& run) {
  double seconds = 0;
  for (const EpochRow& epoch : run.epochs) seconds += epoch.seconds;
  return seconds;
}

std::vector<RunGroup> group_by_settings(const std::vector<RunEntry>& entries, Metric metric) {
  std::vector<RunGroup> groups;
  std::map<std::string, std::size_t> group_of;
  for (const RunEntry& entry : entries) {
    std::string key;
    if (entry.problem.empty()) {
      Settings settings = entry.record.config;
      std::sort(settings.begin(), settings.end(),
                [](const Setting& a, const Setting& b) { return a.name < b.name; });
      for (const Setting& s : settings) {
        if (!is_of_the_run(s.name)) key += s.name + '\0' + s.value + '\0';
      }
    } else {
      key = "unreadable " + entry.name;
    }
    const auto [it, is_new] = group_of.emplace(key, groups.size());
    if (is_new) groups.emplace_back();
    groups[it->second].entries.push_back(&entry);
  }
  for (RunGroup& group : groups) {
    const auto seed = [](const RunEntry* entry) {
      std::int64_t value = 0;
      return parse_number(setting(entry->record.config, "seed"), value) ? value : 0;
    };
    std::stable_sort(group.entries.begin(), group.entries.end(),
                     [&](const RunEntry* a, const RunEntry* b) { return seed(a) < seed(b); });
    group.name = group.entries[0]->name;
    if (group.entries.size() > 1) group.name += fmt::format(" (+{})", group.entries.size() - 1);
    double squares = 0;
    // Welford's update: no cancellation where the values are close together.
    for (const RunEntry* entry : group.entries) {
      const EpochRow* best = best_epoch(entry->record, metric);
      if (best == nullptr) continue;
      const double value = value_of(*best, metric);
      ++group.measured;
      const double delta = value - group.mean;
      group.mean += delta / static_cast<double>(group.measured);
      squares += delta * (value - group.mean);
    }
    if (group.measured > 1) group.sd = std::sqrt(squares / static_cast<double>(group.measured - 1));
  }
  return groups;
}

}  // namespace quadrat::report
