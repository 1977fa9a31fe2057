#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "quadrat/base/files.h"

namespace quadrat {

/// What the frozen layers make of each tile, computed once per view and kept: ten epochs of a last layer cost little
/// more than one forward pass.
class FeatureCache {
 public:
  /// @param tiles ascending @param views how many augmented versions of each tile @param width values a view
  FeatureCache(std::vector<std::uint32_t> tiles, std::int64_t views, std::int64_t width);

  /// Rows of one view, to be filled: [tiles, width] float32.
  torch::Tensor view(std::int64_t view) { return values_[view]; }

  /// [n, width]: of each tile the view that `view_of` names.
  torch::Tensor gather(const std::vector<std::uint32_t>& tiles,
                       const std::function<std::int64_t(std::uint32_t tile)>& view_of) const;

  const std::vector<std::uint32_t>& tiles() const { return tiles_; }
  std::int64_t views() const { return values_.size(0); }

 private:
  std::vector<std::uint32_t> tiles_;
  torch::Tensor values_;  ///< [views, tiles, width]
};

}  // namespace quadrat
