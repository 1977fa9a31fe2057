#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>
#include <vector>

#include "quadrat/score/network.h"

namespace quadrat::score::testing {

/// Random weights under torchvision's names, scaled so that activations keep their size through the
/// network (He et al., 2015), batch norms with statistics of their own, and the metadata of the
/// contract.
WeightsFile random_weights(Architecture architecture, std::int64_t classes, std::uint64_t seed);

struct ReferenceResult {
  torch::Tensor features;
  torch::Tensor logits;
};

/// The network as torchvision writes it, layer by layer with ATen's plain operators in float64,
/// unfused and in torch's own memory order, from the weights file.
ReferenceResult reference_forward(const WeightsFile& weights, const ModelCard& card,
                                  const std::vector<std::uint8_t>& tiles);

/// Tiles with structure: seeded blobs of colour with noise on top. [count, side, side, 3]
std::vector<std::uint8_t> random_tiles(std::int64_t count, std::int64_t side_px,
                                       std::uint64_t seed);

}  // namespace quadrat::score::testing
