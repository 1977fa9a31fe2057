#include "merge.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <optional>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/text.h"
#include "quadrat/base/tile_folder.h"
#include "quadrat/record/tile_summaries.h"

namespace quadrat::score {

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

  const Path path = catalog_.root / tile_folder::kSummaries;
  std::error_code error;
  std::optional<TileSummaries> summaries;
  if (std::filesystem::is_regular_file(path, error)) summaries.emplace(path);
  Predictions& predictions = record.predictions;
  for (std::size_t i = 0; i < catalog_.tiles.size(); ++i) {
    if (is_wanted[i] == 0) continue;
    const Tile& tile = catalog_.tiles[i];
    const auto row = probabilities_.begin() + static_cast<std::ptrdiff_t>(i * classes_);
    const auto row_end = row + static_cast<std::ptrdiff_t>(classes_);
    predictions.tiles.push_back(tile.name);
    predictions.probabilities.insert(predictions.probabilities.end(), row, row_end);
    if (use_labels) predictions.labels.push_back(static_cast<std::uint16_t>(tile.label));
    if (!summaries) continue;
    if (const TileCorners* corners = summaries->find(tile.name)) {
      record.corners.push_back(*corners);
    } else {
      log::warn("'{}' has no line for tile '{}': corners are left out", path.native(), tile.name);
      summaries.reset();
      record.corners.clear();
    }
  }
  choose_most_probable(predictions, classes_);
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
