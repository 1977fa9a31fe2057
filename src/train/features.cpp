#include "quadrat/train/features.h"

#include <algorithm>

namespace quadrat {

FeatureCache::FeatureCache(std::vector<std::uint32_t> tiles, std::int64_t views, std::int64_t width,
                           torch::ScalarType dtype, torch::Device device)
    : tiles_(std::move(tiles)),
      views_(views),
      values_(torch::empty({std::ssize(tiles_) * views, width},
                           torch::TensorOptions(dtype).device(device))) {}

torch::Tensor FeatureCache::rows_of(const std::vector<Sample>& samples) const {
  auto rows = torch::empty({std::ssize(samples)}, torch::kLong);
  auto* row = rows.data_ptr<std::int64_t>();
  for (const Sample& sample : samples) {
    const auto position =
        std::lower_bound(tiles_.begin(), tiles_.end(), sample.tile) - tiles_.begin();
    *row++ = position * views_ + static_cast<std::int64_t>(sample.view);
  }
  return rows.to(values_.device());
}

void FeatureCache::put(const std::vector<Sample>& samples, const torch::Tensor& rows) {
  const torch::NoGradGuard no_gradients;
  values_.index_copy_(0, rows_of(samples), rows.to(values_.options()));
}

torch::Tensor FeatureCache::gather(const torch::Tensor& rows) const {
  return values_.index_select(0, rows);
}

}  // namespace quadrat
