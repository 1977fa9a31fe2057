#include "quadrat/score/units.h"

#include <algorithm>

namespace quadrat::score {

namespace {

constexpr std::size_t kLargest = 1024;
constexpr std::size_t kSmallest = 64;
/// A rank is taken to be worth starting for this many tiles, a minute or two of work, and there to
/// be at least so many.
constexpr std::size_t kTilesPerRank = 16384;
constexpr std::size_t kFewestRanks = 16;
/// Each of that many ranks would get so many more units of this size.
constexpr std::size_t kUnitsAhead = 8;

}  // namespace

Units::Units(std::size_t tiles, std::size_t batch) {
  const std::size_t ranks = std::max(kFewestRanks, tiles / kTilesPerRank);
  std::size_t first = 0;
  firsts_.push_back(first);
  while (first < tiles) {
    const std::size_t wanted =
        std::clamp((tiles - first) / (ranks * kUnitsAhead), kSmallest, kLargest);
    first = std::min(tiles, first + (wanted + batch - 1) / batch * batch);
    firsts_.push_back(first);
  }
}

}  // namespace quadrat::score
