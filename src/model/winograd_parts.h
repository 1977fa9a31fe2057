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

/// A convolution's outputs in blocks.
inline Grid grid_of(const WinogradShape& shape, WinogradMaps inputs) {
  return {shape.outputs_of(inputs), kPatch + 1 - shape.taps()};
}

/// A phase's taps of a kernel, null where it has none.
/// @param first the kernel's first tap, of a channel that the next taps lie channels_in behind
template <typename T>
std::array<T*, kPoints> taps_of(const WinogradShape& shape, std::int64_t phase, T* first) {
  const std::int64_t side = shape.taps();
  std::array<T*, kPoints> taps{};
  for (std::int64_t i = 0; i < side * side; ++i) {
    const std::int64_t y = i / side * shape.stride + phase / shape.stride;
    const std::int64_t x = i % side * shape.stride + phase % shape.stride;
    if (y < shape.kernel && x < shape.kernel)
      taps[static_cast<std::size_t>(i)] = first + (y * shape.kernel + x) * shape.channels_in;
  }
  return taps;
}

/// How many phases along an axis have a last tap. What others become is zero at the last point,
/// which is the kernels' leading coefficient.
inline std::int64_t whole_phases(const WinogradShape& shape) {
  return shape.kernel - (shape.taps() - 1) * shape.stride;
}

/// The first pixel of a phase that a block of outputs at `corner` looks at.
inline Grid::Corner corner_of(const WinogradShape& shape, Grid::Corner corner, std::int64_t phase) {
  return {corner.map, corner.row * shape.stride + phase / shape.stride - shape.padding,
          corner.column * shape.stride + phase % shape.stride - shape.padding};
}

/// All channels of a pixel outside a map.
template <typename T>
alignas(AlignedBytes::kAlignment) inline constexpr std::array<T, kMostChannels> kNothing{};

/// Pixels of all channels, `side` x `side` of them `step` apart from `corner` on: those of `in`,
/// and zeros where there is no map.
template <typename T>
std::array<const T*, kPoints> pixels_at(const T* in, WinogradMaps maps, std::int64_t channels,
                                        Grid::Corner corner, std::int64_t side,
                                        std::int64_t step = 1) {
  std::array<const T*, kPoints> pixels;
  for (std::int64_t i = 0; i < side * side; ++i) {
    const std::int64_t row = corner.row + i / side * step;
    const std::int64_t column = corner.column + i % side * step;
    const bool is_inside = row >= 0 && row < maps.height && column >= 0 && column < maps.width;
    pixels[static_cast<std::size_t>(i)] =
        is_inside ? in + ((corner.map * maps.height + row) * maps.width + column) * channels
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

/// As Left, with element (row, k) times scales[row] for what it stands for. Channels lie next to
/// each other, and are taken in pairs.
struct RoundedLeft {
  const std::int16_t* at;
  std::int64_t step;
  const float* scales;
};

/// The largest integer in a row, and what the magnitudes of an output's weights add up to at the
/// most before they are rounded, so that no sum of products has more than 31 bits. Sums in float32
/// are off by up to 2.4e-4, which the rest below 2^31 is enough for.
constexpr float kMostRounded = 8191;
constexpr float kMostSum = 259'000;
constexpr float kMostWeight = 32'767;
static_assert(static_cast<std::int64_t>(kMostRounded) *
                  (static_cast<std::int64_t>(kMostSum) * 1'000'240 / 1'000'000 +
                   kMostChannels / 2) <
              std::int64_t{1} << 31);

/// Vectors lie along channels; T is float, or std::uint16_t for bf16's bits. One source, compiled
/// for each generation of vector registers (winograd_kernels.h).
template <typename T>
struct Kernels {
  std::int64_t lanes;  ///< channels that are taken together
  std::int64_t panel;  ///< columns of a product that are computed together

  /// The kernels of `lanes` channels to the points along both axes.
  /// @param size taps a side: 2 to 5
  /// @param taps [size * size] of the first channel; null: zeros
  /// @param step from channel to channel: 1 or more @param points `plane` apart
  void (*kernels_to_points)(std::int64_t size, const float* const* taps, std::int64_t step,
                            float* points, std::int64_t plane);

  /// A patch of all channels: six pixels a side that a block of outputs looks at, or the gradients
  /// of a block of 2 to 5.
  /// @param pixels [side * side]
  void (*patch_to_points)(const T* const* pixels, std::int64_t side, std::int64_t channels,
                          PointRows rows);

  /// out[rows, panel] = left[rows, count] x panel[count, panel], or with `adds` that much more than
  /// it was; rows of `out` are `step_out` apart.
  void (*multiply)(std::int64_t rows, Left left, const float* panel, std::int64_t count, bool adds,
                   float* out, std::int64_t step_out);

  /// Rounds each row to integers up to kMostRounded, of a scale of its own. One with something that
  /// is no number gets a scale that is none.
  /// @param from rows of `count` values, a multiple of lanes, `step` apart
  /// @param rounded `step_rounded` apart @param scales `step_scales` apart
  void (*round_rows)(std::int64_t rows, const float* from, std::int64_t step, std::int64_t count,
                     std::int16_t* rounded, std::int64_t step_rounded, float* scales,
                     std::int64_t step_scales);

  /// Rounds a panel's columns, each to a scale of its own.
  /// @param panel [channels, panel]; channels even
  /// @param rounded [channels / 2, panel, 2] @param scales [panel]
  void (*round_panel)(const float* panel, std::int64_t channels, std::int16_t* rounded,
                      float* scales);

  /// As multiply, of integers: sums are exact, then scaled.
  /// @param panel [pairs, panel, 2] @param scales [panel]
  void (*multiply_rounded)(std::int64_t rows, RoundedLeft left, const std::int16_t* panel,
                           const float* scales, std::int64_t pairs, bool adds, float* out,
                           std::int64_t step_out);

  /// From the points to a block of 2 to 5 outputs a side, of all channels.
  void (*points_to_block)(const float* points, std::int64_t plane, std::int64_t side,
                          const float* bias, std::int64_t channels, std::int64_t width, Place place,
                          const T* addend, bool relu, T* out);

  /// From the points to the taps of `lanes` channels' kernels: the adjoint of kernels_to_points.
  /// @param points `plane` apart
  /// @param taps [size * size] of the first channel, the others behind it; null: not wanted
  void (*points_to_kernels)(std::int64_t size, const float* points, std::int64_t plane,
                            float* const* taps);
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
