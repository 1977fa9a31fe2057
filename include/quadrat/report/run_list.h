#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/record/run_record.h"

namespace quadrat::report {

/// What runs are compared by. Lower is better for all.
enum class Metric { kValidationError, kValidationLoss, kTrainError, kTrainLoss };
const std::vector<std::string>& metric_names();
/// @throws UsageError naming the option `option`
Metric metric_from(std::string_view option, const std::string& name);
std::string_view to_string(Metric metric);
bool is_error(Metric metric);  ///< a fraction, shown in percent
double value_of(const EpochRow& epoch, Metric metric);

/// A folder below runs/, whatever state its record is in.
struct RunEntry {
  std::string name;     ///< of the folder, which is what commands call the run
  RunRecord record;     ///< without predictions; empty where there is a problem
  std::string problem;  ///< why the record cannot be read, one line; empty where it can
};

/// Every folder in `runs`, sorted by name. A record that is missing, half there or foreign is an
/// entry with a problem.
/// @throws InputError, IoError where `runs` itself cannot be listed
std::vector<RunEntry> list_runs(const Path& runs);

/// The run's record, with predictions where `whole`.
/// @throws UsageError where the name is not plain, InputError (with the nearest name) where there
///   is no such run, and what read_run_record throws
RunRecord load_run(const Path& runs, const std::string& name, bool whole);

/// The epoch with the lowest value; none where there is no epoch or all are NaN.
const EpochRow* best_epoch(const RunRecord& run, Metric metric);

/// Runs with a finite best value first, best first; then those without, by name; then those that
/// cannot be read.
void sort_by_metric(std::vector<RunEntry>& entries, Metric metric);

/// "resnet18 all", "alexnet random_forest": network and what was trained of it, from the run's
/// settings.
std::string model_of(const RunRecord& run);

/// Sum over the epochs.
double total_seconds(const RunRecord& run);

/// Runs whose settings are the same but for the seed and for names and places.
struct RunGroup {
  std::string name;                      ///< of its first run, "(+2)" after it where there are more
  std::vector<const RunEntry*> entries;  ///< by seed
  std::size_t measured = 0;              ///< runs that have a value of the metric
  double mean = 0;                       ///< of the runs' best values
  std::optional<double> sd;              ///< sample standard deviation (n - 1), from two runs on
};
std::vector<RunGroup> group_by_settings(const std::vector<RunEntry>& entries, Metric metric);

}  // namespace quadrat::report
