#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quadrat/score/journal.h"
#include "quadrat/score/plan.h"
#include "tile_feed.h"

namespace quadrat::score {

/// What is made of a tile beside its class probabilities.
struct Extras {
  bool all_views = false;  ///< mean probabilities of the 8 flips and quarter turns instead of the tile's own
  bool features = false;   ///< what the head sees, of the tile as it is
};

/// Turns tiles into probabilities, batch by batch: decode, compute, softmax.
class UnitScorer {
 public:
  UnitScorer(Plan& plan, TileFeed& feed, Extras extras = {});

  /// Scores the next `tiles` tiles that the feed was told of.
  /// @param between called after every batch with the tiles it had; false stops
  /// @return nothing where it was stopped
  std::optional<UnitResult> score(std::uint64_t unit, std::size_t tiles,
                                  const std::function<bool(std::size_t)>& between);

 private:
  /// @return why the tile is rejected; empty where `pixels` was filled
  static std::string decode(const TileFeed::Item& item, std::uint32_t side_px, std::span<std::uint8_t> pixels);

  std::vector<float> infer(std::span<const std::uint8_t> tiles, std::vector<float>& features);

  Plan& plan_;
  TileFeed& feed_;
  Extras extras_;
  std::vector<std::uint8_t> pixels_;  // [batch, side, side, 3]
  std::vector<std::uint8_t> view_;    // the same, of another view of the tiles
};

}  // namespace quadrat::score
