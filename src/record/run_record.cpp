#include "quadrat/record/run_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>

#include "hdf5.h"
#include "predictions.h"
#include "quadrat/base/text.h"
#include "quadrat/base/version.h"

namespace quadrat {

namespace {

using hdf5::Column;
using hdf5::ColumnType;
using hdf5::Failure;
using hdf5::Layout;

constexpr const char* kSchema = "quadrat-run";
constexpr std::int64_t kVersion = 1;

std::vector<Column> epoch_columns() {
  return {
      {"epoch", ColumnType::kU32, 0, "from 1"},
      {"train_loss", ColumnType::kF64, 0, "mean cross-entropy of the training tiles (nats)"},
      {"train_error", ColumnType::kF64, 0, "share of training tiles misclassified (0..1)"},
      {"validation_loss", ColumnType::kF64, 0, "mean cross-entropy of the validation tiles (nats)"},
      {"validation_error", ColumnType::kF64, 0, "share of validation tiles misclassified (0..1)"},
      {"learning_rate", ColumnType::kF64, 0, "at the epoch's end"},
      {"seconds", ColumnType::kF64, 0, "wall time of the epoch, validation included (s)"},
      {"tiles_per_s", ColumnType::kF64, 0, "training tiles over the time spent training (1/s)"}};
}

void write_epochs(hid_t file, const RunRecord& record) {
  const Layout layout(epoch_columns());
  hdf5::write_table(file, "epochs", layout, record.epochs.size(),
                    "one row an epoch; attribute kept_epoch: whose model was kept, 0 for none",
                    [&](std::uint64_t i, std::byte* row) {
                      const EpochRow& epoch = record.epochs[i];
                      layout.put(row, 0, epoch.epoch);
                      layout.put(row, 1, epoch.train_loss);
                      layout.put(row, 2, epoch.train_error);
                      layout.put(row, 3, epoch.validation_loss);
                      layout.put(row, 4, epoch.validation_error);
                      layout.put(row, 5, epoch.learning_rate);
                      layout.put(row, 6, epoch.seconds);
                      layout.put(row, 7, epoch.tiles_per_s);
                    });
  hdf5::write_attribute(hdf5::open_attributes_of(file, "epochs"), "kept_epoch",
                        std::uint64_t{record.kept_epoch});
}

void read_epochs(const hdf5::FileOnDisk& file, RunRecord& record) {
  hdf5::TableReader reader;
  reader.begin = [&](std::uint64_t rows) { record.epochs.reserve(rows); };
  reader.row = [&](std::uint64_t, const Layout& layout, const std::byte* row) {
    record.epochs.push_back({layout.get<std::uint32_t>(row, 0), layout.get<double>(row, 1),
                             layout.get<double>(row, 2), layout.get<double>(row, 3),
                             layout.get<double>(row, 4), layout.get<double>(row, 5),
                             layout.get<double>(row, 6), layout.get<double>(row, 7)});
  };
  hdf5::read_table(file, "epochs", epoch_columns(), reader);
  const std::string kept =
      hdf5::read_attribute(hdf5::open_attributes_of(file.id(), "epochs"), "kept_epoch");
  // A foreign value that is no number keeps nothing.
  if (!parse_number(kept, record.kept_epoch)) record.kept_epoch = 0;
}

void write_per_class(hid_t file, const std::vector<ClassMetrics>& metrics) {
  std::size_t width = 1;
  for (const ClassMetrics& row : metrics) width = std::max(width, row.label.size());
  const Layout layout(
      {{"label", ColumnType::kText, width, "the class's name"},
       {"support", ColumnType::kI64, 0, "validation tiles that are truly of the class"},
       {"precision", ColumnType::kF64, 0, "correct / predicted as the class (0..1)"},
       {"recall", ColumnType::kF64, 0, "correct / support (0..1)"},
       {"f1", ColumnType::kF64, 0, "harmonic mean of precision and recall (0..1)"}});
  hdf5::write_table(file, "per_class", layout, metrics.size(),
                    "of the kept epoch, one row a class, in index order",
                    [&](std::uint64_t i, std::byte* row) {
                      layout.put(row, 0, std::string_view(metrics[i].label));
                      layout.put(row, 1, metrics[i].support);
                      layout.put(row, 2, metrics[i].precision);
                      layout.put(row, 3, metrics[i].recall);
                      layout.put(row, 4, metrics[i].f1);
                    });
}

RunRecord read(const Path& path, bool with_predictions) {
  const hdf5::FileOnDisk file(path);
  check_schema(file.id(), kSchema, kVersion);
  RunRecord record;
  record.name = hdf5::read_attribute(file.id(), "name");
  record.status = status_from(hdf5::read_attribute(file.id(), "status"));
  record.created = hdf5::read_attribute(file.id(), "created");
  record.updated = hdf5::read_attribute(file.id(), "updated");
  record.program = hdf5::read_attribute(file.id(), "program");
  record.git_commit = hdf5::read_attribute(file.id(), "git_commit");
  record.config = hdf5::read_settings(file.id(), "config");
  record.environment = hdf5::read_settings(file.id(), "environment");
  record.classes = hdf5::read_strings(file, "classes");
  read_epochs(file, record);
  record.confusion = hdf5::read_matrix(file, "confusion", record.classes.size());
  if (with_predictions) {
    record.validation = read_predictions(file, "predictions/validation", record.classes, nullptr);
  }
  return record;
}

}  // namespace

void choose_most_probable(Predictions& predictions, std::size_t classes) {
  predictions.predicted.clear();
  const auto columns = static_cast<std::ptrdiff_t>(classes);
  const auto& all = predictions.probabilities;
  assert(all.size() % classes == 0);
  for (auto row = all.begin(); row != all.end(); row += columns) {
    predictions.predicted.push_back(
        static_cast<std::uint16_t>(std::max_element(row, row + columns) - row));
  }
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

bool is_how_it_ran(std::string_view option) {
  constexpr std::array<std::string_view, 9> kHow{"resume", "device", "threads", "memory_limit",
                                                 "scratch", "features", "runs",
                                                 // Another spelling of --classifier.
                                                 "mmlspark_model_type", "watchdog_seconds"};
  return std::find(kHow.begin(), kHow.end(), option) != kHow.end();
}

std::string_view to_string(RunStatus status) {
  switch (status) {
    case RunStatus::kRunning:
      return "running";
    case RunStatus::kInterrupted:
      return "interrupted";
    case RunStatus::kComplete:
      return "complete";
    case RunStatus::kFailed:
      return "failed";
  }
  return "failed";
}

void write_run_record(const Path& path, RunRecord& record) {
  record.updated = utc_now();
  if (record.created.empty()) record.created = record.updated;
  if (record.git_commit.empty()) record.git_commit = git_commit();
  const std::size_t classes = record.classes.size();
  record.confusion =
      record.validation.labels.empty()
          ? std::vector<std::int64_t>(classes * classes)
          : confusion_matrix(record.validation.labels, record.validation.predicted, classes);
  write_record("write run record", path, [&](hid_t file) {
    hdf5::write_attribute(file, "schema", std::string_view(kSchema));
    hdf5::write_attribute(file, "schema_version", kVersion);
    hdf5::write_attribute(file, "name", std::string_view(record.name));
    hdf5::write_attribute(file, "status", to_string(record.status));
    hdf5::write_attribute(file, "created", std::string_view(record.created));
    hdf5::write_attribute(file, "updated", std::string_view(record.updated));
    hdf5::write_attribute(file, "program", std::string_view(record.program));
    hdf5::write_attribute(file, "git_commit", std::string_view(record.git_commit));
    hdf5::write_settings(file, "config", record.config, "every option as used");
    hdf5::write_settings(file, "environment", record.environment, "what the run ran on and with");
    hdf5::write_strings(file, "classes", record.classes, "class names, in index order");
    write_epochs(file, record);
    hdf5::write_matrix(
        file, "confusion", record.confusion, classes,
        "validation tiles of the kept epoch: rows true class, columns predicted, in index order");
    write_per_class(file, class_metrics(record.confusion, record.classes));
    const hdf5::Group predictions = hdf5::create_group(file, "predictions");
    write_predictions(predictions, "validation", record.validation, /*with_labels=*/true, {},
                      record.classes, "validation tiles as the kept epoch's model sees them");
  });
}

RunRecord read_run_record(const Path& path) {
  return read_record("read run record", path, [&] { return read(path, true); });
}

RunRecord read_run_summary(const Path& path) {
  return read_record("read run record", path, [&] { return read(path, false); });
}

}  // namespace quadrat
