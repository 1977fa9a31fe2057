#pragma once

#include <torch/torch.h>

#include "quadrat/tiles/input_blocks.h"

namespace quadrat {

/// A first convolution's weights for tiles in blocks. Differentiable.
/// @param weight [out, 3, kernel, kernel] @return [out, blocks.channels, blocks.taps, blocks.taps],
/// channels last
torch::Tensor blocked_weight(const torch::Tensor& weight, const InputBlocks& blocks);

/// Tiles in blocks, as gpu::augment writes them. @param tiles [n, 3, side_px, side_px]
/// @return [n, blocks.channels, blocks.side, blocks.side], channels last
torch::Tensor to_blocks(const torch::Tensor& tiles, const InputBlocks& blocks);

}  // namespace quadrat
