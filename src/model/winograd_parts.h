#pragma once

#include <array>
#include <cstdint>

#include "quadrat/base/aligned_bytes.h"
#include "quadrat/model/winograd.h"

/// What WinogradConvolution and its weights' gradient are made of.
namespace quadrat::winograd {

constexpr std::int64_t kPatch = 6;  // inputs a side that a block of outputs looks at
constexpr std::int64_t kPoints = kPatch * kPatch;
constexpr std::int64_t kMostChannels = 4096;  // of zeros around a map
/// Between the 36 planes, so that a step from plane to plane does not fall on the same cache lines.
constexpr std::int64_t kStagger = 16;

/// Maps in blocks of `side` x `side` outputs.
struct Grid {
  Grid(WinogradMaps of, std::int64_t side_of_block)
      : maps(of),
        side(side_of_block),
        down((of.height + side - 1) / side),
        across((of.width + side - 1) / side) {}

  struct Corner {
    std::int64_t map, row, column;
  };
  std::int64_t blocks() const { return maps.count * down * across; }
  Corner corner(std::int64_t block) const {
    return {block / (down * across), block / across % down * side, block % across * side};
  }

  WinogradMaps maps;
  std::int64_t side, down, across;
};

/// How many blocks a pass takes, `most` of them at the most and all passes alike. There has to be
/// one.
constexpr std::int64_t blocks_per_pass(std::int64_t blocks, std::int64_t most) {
  const std::int64_t passes = (blocks + most - 1) / most;
  return (blocks + passes - 1) / passes;
}

/// All channels of a pixel outside a map.
template <typename T>
alignas(AlignedBytes::kAlignment) inline constexpr std::array<T, kMostChannels> kNothing{};

/// The Side x Side pixels of all channels from `corner` on, zeros where there is no map.
template <std::size_t Side, typename T>
std::array<const T*, Side * Side> pixels_at(const T* in, WinogradMaps maps, std::int64_t channels,
                                            Grid::Corner corner) {
  std::array<const T*, Side * Side> pixels;
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    const std::int64_t row = corner.row + static_cast<std::int64_t>(i / Side);
    const std::int64_t column = corner.column + static_cast<std::int64_t>(i % Side);
    const bool is_inside = row >= 0 && row < maps.height && column >= 0 && column < maps.width;
    pixels[i] = is_inside ? in + ((corner.map * maps.height + row) * maps.width + column) * channels
                          : kNothing<T>.data();
  }
  return pixels;
}

/// Where the 36 rows of a patch go: from point to point `plane` floats on, and from one panel's
/// channels to the next panel's `panel`.
struct PointRows {
  float* first;
  std::int64_t plane, panel;
};

/// How much of a block of outputs is within its map.
struct Place {
  std::int64_t first;  // offset of its first pixel in the output, in pixels
  std::int64_t rows, columns;
};

/// A matrix whose element (row, k) is at[row * step + k * step_k].
struct Left {
  const float* at;
  std::int64_t step, step_k;
};

/// Vectors lie along channels; T is float, or std::uint16_t for bf16's bits. One source, compiled
/// for each generation of vector registers (winograd_kernels.h).
template <typename T>
struct Kernels {
  std::int64_t lanes;  ///< channels that are taken together
  std::int64_t panel;  ///< columns of a product that are computed together

  /// The kernels of `lanes` output channels and an input channel to the points along both axes.
  /// @param size 3 or 5 @param taps the first kernel's first tap, `step_tap` from the next one
  /// @param step from channel to channel: 1 or more @param points `plane` apart
  void (*kernels_to_points)(std::int64_t size, const float* taps, std::int64_t step_tap,
                            std::int64_t step, float* points, std::int64_t plane);

  /// A patch of all channels: six pixels a side that a block of outputs looks at, or the gradients
  /// of a block of 4 or 2.
  /// @param pixels [side * side]
  void (*patch_to_points)(const T* const* pixels, std::int64_t side, std::int64_t channels,
                          PointRows rows);

  /// out[rows, panel] = left[rows, count] x panel[count, panel], or with `adds` that much more than
  /// it was; rows of `out` are `step_out` apart.
  void (*multiply)(std::int64_t rows, Left left, const float* panel, std::int64_t count, bool adds,
                   float* out, std::int64_t step_out);

  /// From the points to a block of 4 or 2 outputs a side, of all channels.
  void (*points_to_block)(const float* points, std::int64_t plane, std::int64_t side,
                          const float* bias, std::int64_t channels, std::int64_t width, Place place,
                          const T* addend, bool relu, T* out);

  /// From the points to the taps of an output channel's kernels: the adjoint of kernels_to_points.
  /// @param points the first `lanes` input channels', `plane` apart
  /// @param taps the first `lanes` input channels', `step_tap` from tap to tap
  void (*points_to_kernels)(std::int64_t size, const float* points, std::int64_t plane, float* taps,
                            std::int64_t step_tap);
};

/// The kernels for the vector registers this processor has: AVX2 at the least.
template <typename T>
const Kernels<T>& kernels();

namespace avx512 {
template <typename T>
Kernels<T> kernels();
}
namespace avx2 {
template <typename T>
Kernels<T> kernels();
}

}  // namespace quadrat::winograd
