#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "quadrat/train/batches.h"

namespace quadrat {

/// What the frozen layers make of each tile, computed once per view and kept: ten epochs of a last
/// layer cost little more than one forward pass.
class FeatureCache {
 public:
  /// @param tiles ascending @param views how many augmented versions of each tile @param width
  /// values a view @param device that keeps them
  FeatureCache(std::vector<std::uint32_t> tiles, std::int64_t views, std::int64_t width,
               torch::ScalarType dtype, torch::Device device = torch::kCPU);

  /// @param rows [n, width], one a sample, on any device
  void put(const std::vector<Sample>& samples, const torch::Tensor& rows);

  /// Where samples lie, int64 [n], on the device: of a whole epoch at best, since a GPU waits for
  /// what is copied to it.
  torch::Tensor rows_of(const std::vector<Sample>& samples) const;

  /// [n, width], on the device. @param rows part of what rows_of gave
  torch::Tensor gather(const torch::Tensor& rows) const;

 private:
  std::vector<std::uint32_t> tiles_;
  std::int64_t views_;
  torch::Tensor values_;  ///< [tiles * views, width]
};

}  // namespace quadrat
