#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <span>

#include "quadrat/score/network.h"
#include "quadrat/score/plan.h"
#include "quadrat/tiles/augment.h"
#include "quadrat/tiles/input_blocks.h"

namespace quadrat::score {

/// A fused network on a device of LibTorch's, by LibTorch's own operators: batch norm is folded
/// into the convolutions, additions and ReLU too where it is cuDNN that computes them; tiles are
/// taken in blocks (InputBlocks), activations are channels-last in `dtype`, pooled features and the
/// head float32. For GPUs; on the CPU it is slower than Plan and there to be tested.
class DeviceNetwork {
 public:
  /// @param dtype float32 or bfloat16
  DeviceNetwork(FusedNetwork network, torch::Device device, torch::ScalarType dtype);

  /// @param tiles [n, tile_px, tile_px, 3] RGB, row by row. In pinned memory, the host does not
  /// wait for them to be read: they must stay as they are until the result has been copied.
  /// @return on the device, where it may be still being computed; a forest's logits on the CPU
  Plan::Result infer(std::span<const std::uint8_t> tiles) const;

  /// As infer, of tiles that were augmented and normalised already.
  /// @param tiles [n, 3, tile_px, tile_px] or in blocks, any floating-point type, on any device
  Plan::Result infer(const torch::Tensor& tiles) const;

 private:
  FusedNetwork network_;  ///< its weights on the device, in the types they are used in
  torch::Device device_;
  torch::ScalarType dtype_;
  InputBlocks blocks_;
  TileTransform transform_;
};

}  // namespace quadrat::score
