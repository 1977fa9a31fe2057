#pragma once

#include <cstdint>

namespace quadrat {

/// A tile as a first convolution on a GPU wants it: its squares of stride x stride pixels become
/// the channels of one position (space to depth), with the convolution's padding written out. Of 3
/// channels no tensor core makes much: the convolution of 7x7 and stride 2 over 3 channels is one
/// of 4x4 and stride 1 over 12, the same sum in the same products, several times as fast.
///
/// [side, side, channels]: the channels of a position are its pixels' values, row by row, then
/// zeros. Positions and pixels beyond the tile's edges are zeros.
struct InputBlocks {
  std::uint32_t block_px = 1;   ///< 1: pixels as they are, [side_px, side_px, 3]
  std::uint32_t before_px = 0;  ///< rows and columns of zeros before the tile's first
  std::uint32_t side = 0;       ///< positions across
  std::uint32_t channels = 3;   ///< a multiple of 8, as 16-byte loads of bf16 want it
  std::uint32_t taps = 1;       ///< positions across that an output of the convolution sees

  static InputBlocks plain(std::uint32_t side_px) { return {1, 0, side_px, 3, 1}; }

  static InputBlocks for_convolution(std::uint32_t side_px, std::uint32_t kernel,
                                     std::uint32_t stride, std::uint32_t padding) {
    const std::uint32_t out = (side_px + 2 * padding - kernel) / stride + 1;
    const std::uint32_t taps = (kernel + stride - 1) / stride;
    return {stride, padding, out + taps - 1, (3 * stride * stride + 7) / 8 * 8, taps};
  }
};

}  // namespace quadrat
