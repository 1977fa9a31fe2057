#include "predictions.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "quadrat/base/text.h"

namespace quadrat {

namespace {

using hdf5::Column;
using hdf5::ColumnType;
using hdf5::Failure;
using hdf5::Layout;

struct Corner {
  const char* name;
  double TileCorners::*member;
};
constexpr Corner kCorners[] = {{"llcrnrlat", &TileCorners::llcrnrlat},
                               {"llcrnrlon", &TileCorners::llcrnrlon},
                               {"urcrnrlat", &TileCorners::urcrnrlat},
                               {"urcrnrlon", &TileCorners::urcrnrlon}};

std::string probability_column(const std::string& label) { return "p_" + label; }

std::vector<Column> prediction_columns(const std::vector<std::string>& classes, bool labels,
                                       bool corners, std::size_t name_bytes) {
  std::vector<Column> columns{
      {"tile", ColumnType::kText, name_bytes, "path below the folder of tiles"}};
  if (labels)
    columns.push_back({"label", ColumnType::kU16, 0, "true class, an index into /classes"});
  columns.push_back(
      {"predicted", ColumnType::kU16, 0, "most probable class, an index into /classes"});
  for (const std::string& label : classes) {
    columns.push_back({probability_column(label), ColumnType::kF32, 0,
                       fmt::format("probability of class {} (0..1)", label)});
  }
  if (corners) {
    for (const Corner& corner : kCorners) {
      const bool lower = corner.name[0] == 'l';
      const bool latitude = std::string_view(corner.name).ends_with("lat");
      columns.push_back(
          {corner.name, ColumnType::kF64, 0,
           fmt::format("{} of the tile's {} corner (degrees, WGS 84)",
                       latitude ? "latitude" : "longitude", lower ? "lower left" : "upper right")});
    }
  }
  return columns;
}

}  // namespace

void write_predictions(hid_t parent, const char* name, const Predictions& predictions,
                       bool with_labels, const std::vector<TileCorners>& corners,
                       const std::vector<std::string>& classes, std::string_view description) {
  const std::size_t tiles = predictions.tiles.size();
  assert(!with_labels || predictions.labels.size() == tiles);
  assert(predictions.predicted.size() == tiles);
  assert(predictions.probabilities.size() == tiles * classes.size());
  assert(corners.empty() || corners.size() == tiles);
  std::size_t name_bytes = 1;
  for (const std::string& tile : predictions.tiles) name_bytes = std::max(name_bytes, tile.size());
  const Layout layout(prediction_columns(classes, with_labels, !corners.empty(), name_bytes));
  hdf5::write_table(parent, name, layout, tiles, description, [&](std::uint64_t i, std::byte* row) {
    std::size_t column = 0;
    layout.put(row, column++, std::string_view(predictions.tiles[i]));
    if (with_labels) layout.put(row, column++, predictions.labels[i]);
    layout.put(row, column++, predictions.predicted[i]);
    const float* probabilities = predictions.probabilities.data() + i * classes.size();
    for (std::size_t c = 0; c < classes.size(); ++c) layout.put(row, column++, probabilities[c]);
    if (!corners.empty()) {
      for (const Corner& corner : kCorners) layout.put(row, column++, corners[i].*corner.member);
    }
  });
}

Predictions read_predictions(const hdf5::FileOnDisk& file, const std::string& path,
                             const std::vector<std::string>& classes,
                             std::vector<TileCorners>* corners) {
  const std::vector<std::string> there = hdf5::table_columns(file, path);
  const auto has = [&](const char* name) {
    return std::find(there.begin(), there.end(), name) != there.end();
  };
  const bool labels = has("label");
  const bool with_corners =
      corners != nullptr && std::all_of(std::begin(kCorners), std::end(kCorners),
                                        [&](const Corner& corner) { return has(corner.name); });
  Predictions predictions;
  const auto checked = [&](std::uint64_t i, std::uint16_t label) {
    if (label < classes.size()) return label;
    throw Failure(fmt::format("'{}' row {} has class {}, but there are {} classes", path, i, label,
                              classes.size()));
  };
  hdf5::TableReader reader;
  reader.begin = [&](std::uint64_t rows) {
    predictions.tiles.reserve(rows);
    predictions.predicted.reserve(rows);
    predictions.probabilities.reserve(rows * classes.size());
    if (labels) predictions.labels.reserve(rows);
    if (with_corners) corners->reserve(rows);
  };
  reader.row = [&](std::uint64_t i, const Layout& layout, const std::byte* row) {
    std::size_t column = 0;
    predictions.tiles.push_back(layout.text(row, column++));
    if (labels) predictions.labels.push_back(checked(i, layout.get<std::uint16_t>(row, column++)));
    predictions.predicted.push_back(checked(i, layout.get<std::uint16_t>(row, column++)));
    for (std::size_t c = 0; c < classes.size(); ++c) {
      predictions.probabilities.push_back(layout.get<float>(row, column++));
    }
    if (with_corners) {
      TileCorners& to = corners->emplace_back();
      for (const Corner& corner : kCorners) to.*corner.member = layout.get<double>(row, column++);
    }
  };
  hdf5::read_table(file, path, prediction_columns(classes, labels, with_corners, 0), reader);
  return predictions;
}

void write_record(const char* action, const Path& path, const std::function<void(hid_t)>& fill) {
  const hdf5::QuietErrors quiet;
  try {
    hdf5::FileInMemory file;
    fill(file.id());
    write_file(path, file.image());
  } catch (const hdf5::Failure& failure) {
    throw IoError(action, path.native(), failure.what());
  }
}

void check_schema(hid_t file, const std::string& schema, std::int64_t version) {
  const std::string found = hdf5::read_attribute(file, "schema");
  if (found != schema)
    throw Failure(fmt::format("its schema is '{}', not '{}'", printable(found), schema));
  const std::string text = hdf5::read_attribute(file, "schema_version");
  std::int64_t number = 0;
  if (!parse_number(text, number) || number < 1) {
    throw Failure(fmt::format("its schema_version is '{}'", printable(text)));
  }
  if (number > version) {
    throw Failure(fmt::format(
        "its schema_version is {}, this program knows up to {}: use a newer one", number, version));
  }
}

RunStatus status_from(const std::string& text) {
  for (const RunStatus status :
       {RunStatus::kRunning, RunStatus::kInterrupted, RunStatus::kComplete, RunStatus::kFailed}) {
    if (to_string(status) == text) return status;
  }
  throw Failure(fmt::format("its status is '{}', which is none", printable(text)));
}

}  // namespace quadrat
