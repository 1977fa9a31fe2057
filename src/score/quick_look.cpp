#include "quick_look.h"

#include <algorithm>
#include <cmath>

namespace quadrat::score {

bool is_possible(const QuickLook& look, std::uint32_t tile_px) {
  constexpr std::uint32_t kSmallest_px = 32;  // what ResNet18 makes one place of
  return !look ||
         (look.side_px >= kSmallest_px && look.side_px <= tile_px && std::isfinite(look.threshold));
}

void copy_middle(const std::uint8_t* tile, std::uint32_t tile_px, std::uint32_t side_px,
                 std::uint8_t* middle) {
  const std::size_t margin = (tile_px - side_px) / 2;
  for (std::size_t row = 0; row < side_px; ++row) {
    std::copy_n(tile + ((margin + row) * tile_px + margin) * 3, std::size_t{3} * side_px,
                middle + row * side_px * 3);
  }
}

Settlement lowest_threshold(std::vector<Compared> tiles, std::int64_t most_more_wrong) {
  std::sort(tiles.begin(), tiles.end(),
            [](const Compared& a, const Compared& b) { return a.confidence > b.confidence; });
  Settlement best;
  std::int64_t more_wrong = 0;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    more_wrong +=
        static_cast<int>(tiles[i].whole_is_right) - static_cast<int>(tiles[i].look_is_right);
    // Tiles of the same confidence are settled together.
    if (i + 1 < tiles.size() && tiles[i + 1].confidence == tiles[i].confidence) continue;
    if (more_wrong > most_more_wrong) break;
    best = {tiles[i].confidence, i + 1, more_wrong};
  }
  return best;
}

}  // namespace quadrat::score
