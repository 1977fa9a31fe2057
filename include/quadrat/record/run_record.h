#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/base/settings.h"

namespace quadrat {

enum class RunStatus { kRunning, kInterrupted, kComplete, kFailed };
std::string_view to_string(RunStatus status);

/// One row of /epochs. Losses are means over tiles; errors are fractions 0..1.
struct EpochRow {
  std::uint32_t epoch = 0;  ///< from 1
  double train_loss = 0;
  double train_error = 0;
  double validation_loss = 0;
  double validation_error = 0;
  double learning_rate = 0;  ///< at the epoch's end
  double seconds = 0;        ///< wall time of the epoch, validation included
  double tiles_per_s = 0;    ///< training tiles of the epoch / seconds spent training
};

/// What a model said of some tiles, in the catalog's order.
struct Predictions {
  std::vector<std::string> tiles;
  std::vector<std::uint16_t> labels;     ///< true classes; empty where unknown
  std::vector<std::uint16_t> predicted;  ///< most probable classes
  std::vector<float> probabilities;      ///< [tiles, classes], row-major
};

/// Sets `predicted` from `probabilities`: of equally probable classes the first.
void choose_most_probable(Predictions& predictions, std::size_t classes);

/// "1.10.8": of the library that records are written with.
std::string hdf5_version();

/// Whether an option says where and how a run computed, not what: it may differ when the run is
/// gone on with, and does not tell one training from another.
bool is_how_it_ran(std::string_view option);

/// runs/NAME/run.h5: everything known of a training run. Schema "quadrat-run" version 1.
struct RunRecord {
  std::string name;
  RunStatus status = RunStatus::kRunning;
  std::string created;  ///< ISO 8601 UTC; set by write_run_record where empty
  std::string updated;  ///< set by write_run_record
  std::string program;
  std::string git_commit;
  Settings config;       ///< every option as used
  Settings environment;  ///< ranks, hosts, device, threads_per_rank, precision, library versions
  std::vector<std::string> classes;  ///< in index order
  std::vector<EpochRow> epochs;
  std::uint32_t kept_epoch =
      0;                   ///< the epoch whose model was kept, 0 for none: attribute of /epochs
  Predictions validation;  ///< of the kept epoch
  /// [classes, classes], rows true, columns predicted: set by write_run_record from `validation`,
  /// zeros without labels. /per_class is computed from it.
  std::vector<std::int64_t> confusion;
};

/// Replaces `path` atomically by the whole record (see replace_file), so that readers find a whole
/// file always. Sets `updated`, `confusion`, and what is empty of `created` and `git_commit` (from
/// this build).
/// @pre sizes agree: labels and predicted one a tile or none at all, probabilities tiles x classes,
/// both < classes
/// @throws IoError
void write_run_record(const Path& path, RunRecord& record);

/// @throws IoError where there is no such file or it cannot be read; InputError naming what is
///   wrong with it: not HDF5, cut short, not a run record, a newer schema_version, a missing part,
///   classes that are none.
RunRecord read_run_record(const Path& path);

/// Reads all but /predictions, which can be large: what lists and comparisons need. `confusion` is
/// there.
RunRecord read_run_summary(const Path& path);

/// counts[true * classes + predicted].
std::vector<std::int64_t> confusion_matrix(const std::vector<std::uint16_t>& labels,
                                           const std::vector<std::uint16_t>& predicted,
                                           std::size_t classes);

/// One row of /per_class. Ratios with nothing below the line are 0.
struct ClassMetrics {
  std::string label;
  std::int64_t support = 0;  ///< tiles that are truly of the class
  double precision = 0;      ///< correct / predicted as the class
  double recall = 0;         ///< correct / support
  double f1 = 0;             ///< harmonic mean of both
};
std::vector<ClassMetrics> class_metrics(const std::vector<std::int64_t>& confusion,
                                        const std::vector<std::string>& classes);

/// 1 - correct / all; 0 for no tiles.
double error_of(const std::vector<std::int64_t>& confusion, std::size_t classes);

}  // namespace quadrat
