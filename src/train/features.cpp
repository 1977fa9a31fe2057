#include "quadrat/train/features.h"

#include <algorithm>

namespace quadrat {

FeatureCache::FeatureCache(std::vector<std::uint32_t> tiles, std::int64_t views, std::int64_t width)
    : tiles_(std::move(tiles)), values_(torch::empty({views, std::ssize(tiles_), width}, torch::kFloat)) {}

torch::Tensor FeatureCache::gather(const std::vector<std::uint32_t>& tiles,
                                   const std::function<std::int64_t(std::uint32_t)>& view_of) const {
  auto rows = torch::empty({std::ssize(tiles)}, torch::kLong);
  auto* row = rows.data_ptr<std::int64_t>();
  const auto per_view = std::ssize(tiles_);
  for (const std::uint32_t tile : tiles) {
    const auto position = std::lower_bound(tiles_.begin(), tiles_.end(), tile) - tiles_.begin();
    *row++ = view_of(tile) * per_view + position;
  }
  return values_.view({-1, values_.size(2)}).index_select(0, rows);
}

}  // namespace quadrat
