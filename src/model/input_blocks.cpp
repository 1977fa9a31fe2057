#include "quadrat/model/input_blocks.h"

namespace quadrat {

namespace {

/// [n, 3, positions * block, positions * block] -> [n, channels, positions, positions]
torch::Tensor space_to_depth(const torch::Tensor& pixels, const InputBlocks& blocks) {
  const std::int64_t block = blocks.block_px, across = pixels.size(2) / block;
  const auto values = pixels.view({pixels.size(0), 3, across, block, across, block})
                          .permute({0, 3, 5, 1, 2, 4})
                          .reshape({pixels.size(0), 3 * block * block, across, across});
  const std::int64_t zeros = blocks.channels - 3 * block * block;
  return torch::constant_pad_nd(values, {0, 0, 0, 0, 0, zeros})
      .contiguous(torch::MemoryFormat::ChannelsLast);
}

}  // namespace

torch::Tensor blocked_weight(const torch::Tensor& weight, const InputBlocks& blocks) {
  const std::int64_t after = std::int64_t{blocks.taps} * blocks.block_px - weight.size(2);
  return space_to_depth(torch::constant_pad_nd(weight.contiguous(), {0, after, 0, after}), blocks);
}

torch::Tensor to_blocks(const torch::Tensor& tiles, const InputBlocks& blocks) {
  if (blocks.block_px == 1) return tiles.contiguous(torch::MemoryFormat::ChannelsLast);
  const std::int64_t before = blocks.before_px;
  const std::int64_t after = std::int64_t{blocks.side} * blocks.block_px - tiles.size(2) - before;
  return space_to_depth(torch::constant_pad_nd(tiles.contiguous(), {before, after, before, after}),
                        blocks);
}

}  // namespace quadrat
