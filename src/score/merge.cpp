#include "merge.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <numeric>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/text.h"

namespace quadrat::score {

namespace {

constexpr const char* kSummariesName = "tile_summaries.csv";

std::vector<std::string_view> split(std::string_view line, char separator) {
  std::vector<std::string_view> fields;
  while (true) {
    const auto end = line.find(separator);
    fields.push_back(line.substr(0, end));
    if (end == std::string_view::npos) return fields;
    line.remove_prefix(end + 1);
  }
}

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Corners by tile name, as quadrat-cut writes them; empty where there is no such file.
std::unordered_map<std::string, TileCorners> read_corners(const Path& root) {
  std::unordered_map<std::string, TileCorners> corners;
  const Path path = root / kSummariesName;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return corners;
  const Bytes bytes = read_file(path);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  bool is_header = true;
  while (!text.empty()) {
    std::string_view line = take_until(text, '\n');
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    if (is_header) {
      is_header = false;
      if (line == "filename,llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon") continue;
      throw InputError("read", path.native(),
                       "its header is not 'filename,llcrnrlat,llcrnrlon,urcrnrlat,urcrnrlon'",
                       "remove the file, or write it again with quadrat-cut");
    }
    const auto fields = split(line, ',');
    TileCorners value;
    bool good = fields.size() == 5;
    for (std::size_t i = 1; good && i < 5; ++i) {
      const auto parsed = number(fields[i]);
      good = parsed.has_value();
      if (!good) break;
      (i == 1   ? value.llcrnrlat
       : i == 2 ? value.llcrnrlon
       : i == 3 ? value.urcrnrlat
                : value.urcrnrlon) = *parsed;
    }
    if (!good) {
      throw InputError("read", path.native(),
                       "a line is not a name and four numbers: '" + printable(line) + "'",
                       "remove the file, or write it again with quadrat-cut");
    }
    corners.emplace(fields[0], value);
  }
  return corners;
}

}  // namespace

Merger::Merger(const Catalog& catalog, const Units& units, std::size_t classes)
    : catalog_(catalog),
      units_(units),
      classes_(classes),
      probabilities_(catalog.tiles.size() * classes),
      is_done_(catalog.tiles.size()) {}

void Merger::add(UnitResult&& result) {
  const std::size_t count = result.probabilities.size() / classes_;
  if (result.unit >= units_.count() || count != units_.size(result.unit)) {
    throw InputError("merge journals", "", "a unit lies outside the list of tiles",
                     "remove the folder");
  }
  const std::size_t first = units_.first(result.unit);
  std::copy(result.probabilities.begin(), result.probabilities.end(),
            probabilities_.begin() + static_cast<std::ptrdiff_t>(first * classes_));
  std::fill_n(is_done_.begin() + static_cast<std::ptrdiff_t>(first), count, char{1});
  tiles_done_ += count;
  for (UnitResult::Rejected& entry : result.rejected) {
    rejected_at_.push_back(first + entry.tile);
    rejected_.push_back({catalog_.tiles[first + entry.tile].name, std::move(entry.reason)});
  }
}

void Merger::fill(ScoreRecord& record, bool use_labels) const {
  std::vector<std::size_t> order(rejected_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return rejected_at_[a] < rejected_at_[b]; });
  std::vector<char> is_wanted = is_done_;
  for (const std::size_t i : order) {
    record.rejected.push_back(rejected_[i]);
    is_wanted[rejected_at_[i]] = 0;
  }

  const auto corners = read_corners(catalog_.root);
  bool all_corners = !corners.empty();
  Predictions& predictions = record.predictions;
  for (std::size_t i = 0; i < catalog_.tiles.size(); ++i) {
    if (is_wanted[i] == 0) continue;
    const Tile& tile = catalog_.tiles[i];
    const auto row = probabilities_.begin() + static_cast<std::ptrdiff_t>(i * classes_);
    const auto row_end = row + static_cast<std::ptrdiff_t>(classes_);
    predictions.tiles.push_back(tile.name);
    predictions.predicted.push_back(
        static_cast<std::uint16_t>(std::max_element(row, row_end) - row));
    predictions.probabilities.insert(predictions.probabilities.end(), row, row_end);
    if (use_labels) predictions.labels.push_back(static_cast<std::uint16_t>(tile.label));
    if (!all_corners) continue;
    auto found = corners.find(tile.name);
    if (found == corners.end()) found = corners.find(Path(tile.name).filename().string());
    if (found == corners.end()) {
      all_corners = false;
      log::warn("'{}' has no line for tile '{}': corners are left out",
                (catalog_.root / kSummariesName).native(), tile.name);
    } else {
      record.corners.push_back(found->second);
    }
  }
  if (!all_corners) record.corners.clear();
}

std::string predictions_csv(const ScoreRecord& record) {
  std::string text = "filepath,pred_label\n";
  for (std::size_t i = 0; i < record.predictions.tiles.size(); ++i) {
    text += csv_field(record.predictions.tiles[i]);
    text += ',';
    text += record.classes[record.predictions.predicted[i]];
    text += '\n';
  }
  return text;
}

}  // namespace quadrat::score
