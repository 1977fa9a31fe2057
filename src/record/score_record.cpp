#include "quadrat/record/score_record.h"

#include <algorithm>

#include "hdf5.h"
#include "predictions.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {

using hdf5::Column;
using hdf5::ColumnType;
using hdf5::Layout;

constexpr const char* kSchema = "quadrat-scores";
constexpr std::int64_t kVersion = 1;

std::vector<Column> rejected_columns(std::size_t tile_bytes, std::size_t reason_bytes) {
  return {{"tile", ColumnType::kText, tile_bytes, "path below the folder of tiles"},
          {"reason", ColumnType::kText, reason_bytes, "why it could not be classified"}};
}

void write_rejected(hid_t file, const std::vector<RejectedTile>& rejected) {
  std::size_t tile_bytes = 1;
  std::size_t reason_bytes = 1;
  for (const RejectedTile& row : rejected) {
    tile_bytes = std::max(tile_bytes, row.tile.size());
    reason_bytes = std::max(reason_bytes, row.reason.size());
  }
  const Layout layout(rejected_columns(tile_bytes, reason_bytes));
  hdf5::write_table(file, "rejected", layout, rejected.size(), "tiles that could not be classified",
                    [&](std::uint64_t i, std::byte* row) {
                      layout.put(row, 0, std::string_view(rejected[i].tile));
                      layout.put(row, 1, std::string_view(rejected[i].reason));
                    });
}

ScoreRecord read(const Path& path) {
  const hdf5::FileOnDisk file(path);
  check_schema(file.id(), kSchema, kVersion);
  ScoreRecord record;
  record.status = status_from(hdf5::read_attribute(file.id(), "status"));
  record.created = hdf5::read_attribute(file.id(), "created");
  record.updated = hdf5::read_attribute(file.id(), "updated");
  // A foreign value that is no number says nothing.
  if (!parse_number(hdf5::read_attribute(file.id(), "seconds"), record.seconds)) record.seconds = 0;
  record.config = hdf5::read_settings(file.id(), "config");
  record.environment = hdf5::read_settings(file.id(), "environment");
  record.classes = hdf5::read_strings(file, "classes");
  record.predictions = read_predictions(file, "predictions", record.classes, &record.corners);
  hdf5::TableReader reader;
  reader.begin = [&](std::uint64_t rows) { record.rejected.reserve(rows); };
  reader.row = [&](std::uint64_t, const Layout& layout, const std::byte* row) {
    record.rejected.push_back({layout.text(row, 0), layout.text(row, 1)});
  };
  hdf5::read_table(file, "rejected", rejected_columns(0, 0), reader);
  return record;
}

}  // namespace

void write_score_record(const Path& path, ScoreRecord& record) {
  record.updated = utc_now();
  if (record.created.empty()) record.created = record.updated;
  const std::size_t tiles = record.predictions.tiles.size();
  write_record("write score record", path, [&](hid_t file) {
    hdf5::write_attribute(file, "schema", std::string_view(kSchema));
    hdf5::write_attribute(file, "schema_version", kVersion);
    hdf5::write_attribute(file, "status", to_string(record.status));
    hdf5::write_attribute(file, "created", std::string_view(record.created));
    hdf5::write_attribute(file, "updated", std::string_view(record.updated));
    hdf5::write_attribute(file, "tiles", static_cast<std::uint64_t>(tiles));
    hdf5::write_attribute(file, "rejected", static_cast<std::uint64_t>(record.rejected.size()));
    hdf5::write_attribute(file, "seconds", record.seconds);
    hdf5::write_attribute(file, "tiles_per_s",
                          record.seconds > 0 ? static_cast<double>(tiles) / record.seconds : 0.0);
    hdf5::write_settings(file, "config", record.config, "every option as used");
    hdf5::write_settings(file, "environment", record.environment, "what the run ran on and with");
    hdf5::write_strings(file, "classes", record.classes, "class names, in index order");
    write_predictions(file, "predictions", record.predictions, !record.predictions.labels.empty(),
                      record.corners, record.classes,
                      "one row a tile, in the order of the tiles' names");
    write_rejected(file, record.rejected);
  });
}

void write_score_features(const Path& path, const ScoreRecord& record,
                          std::span<const float> features, std::size_t width) {
  write_record("write features", path, [&](hid_t id) {
    hdf5::write_attribute(id, "schema", std::string_view("quadrat-score-features"));
    hdf5::write_attribute(id, "schema_version", kVersion);
    hdf5::write_settings(id, "config", record.config, "options as used");
    hdf5::write_settings(id, "environment", record.environment, "what it was computed with");
    hdf5::write_strings(id, "tiles", record.predictions.tiles,
                        "path below the folder of tiles, one a row of /features");
    hdf5::write_floats(id, "features", features, width,
                       "what the network's last layer saw, one row a tile");
  });
}

ScoreRecord read_score_record(const Path& path) {
  return read_record("read score record", path, [&] { return read(path); });
}

}  // namespace quadrat
