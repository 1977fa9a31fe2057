#pragma once

#include <vector>

#include "quadrat/record/score_record.h"
#include "quadrat/score/journal.h"
#include "quadrat/score/units.h"
#include "quadrat/tiles/catalog.h"

namespace quadrat::score {

/// Collects units in any order and lays them out in the catalog's.
class Merger {
 public:
  Merger(const Catalog& catalog, const Units& units, std::size_t classes);

  void add(UnitResult&& result);

  std::size_t tiles_done() const { return tiles_done_; }

  /// Fills predictions, rejected tiles, labels where `use_labels`, and corners where
  /// tile_summaries.csv beside the tiles has them.
  void fill(ScoreRecord& record, bool use_labels) const;

 private:
  const Catalog& catalog_;
  const Units& units_;
  std::size_t classes_;
  std::size_t tiles_done_ = 0;
  std::vector<float> probabilities_;      // [tiles, classes]
  std::vector<char> is_done_;             // [tiles]
  std::vector<RejectedTile> rejected_;    // sorted by tile when filled
  std::vector<std::size_t> rejected_at_;  // their indices
};

/// predictions.csv of the contract: filepath,pred_label.
std::string predictions_csv(const ScoreRecord& record);

}  // namespace quadrat::score
