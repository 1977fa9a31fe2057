#pragma once

#include <torch/torch.h>

#include "quadrat/tiles/augment.h"
#include "quadrat/tiles/input_blocks.h"

namespace quadrat::score {

/// Tiles on a GPU as a network there takes them, by gpu::augment. In src/cuda, and null until
/// choose_device() has loaded it.
/// @param bytes uint8 [n, side, side, 3], on the GPU @param dtype float32 or bfloat16
/// @return [n, blocks.channels, blocks.side, blocks.side], channels last
inline torch::Tensor (*normalise_on_gpu)(const torch::Tensor& bytes, const TileTransform& transform,
                                         const InputBlocks& blocks,
                                         torch::ScalarType dtype) = nullptr;

}  // namespace quadrat::score
