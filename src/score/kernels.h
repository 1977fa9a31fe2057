#pragma once

#include <array>
#include <cstdint>

namespace quadrat::score {

/// Values of one pixel byte, per channel: table[channel][byte].
template <typename T>
using PixelTable = std::array<std::array<T, 256>, 3>;

/// out[i] = table[i % 3][in[i]] for `pixels` RGB pixels.
template <typename T>
void look_up_pixels(const std::uint8_t* in, std::int64_t pixels, const PixelTable<T>& table,
                    T* out);

/// Geometry of a pooling over one channels-last map [height, width, channels].
struct PoolShape {
  std::int64_t height, width, channels;
  std::int64_t kernel, stride, padding;
  std::int64_t out_height() const { return (height + 2 * padding - kernel) / stride + 1; }
  std::int64_t out_width() const { return (width + 2 * padding - kernel) / stride + 1; }
};

/// Rows `first` to before `last` of the maximum over windows of values that are not negative, given
/// as integers of their width: floating-point numbers that are not negative order as their bits do.
/// Padding counts as 0. T is int32 for float32, int16 for bf16, uint8. The kernel is at least 2.
/// @param in rows of the map, from `in_first` on
/// @param out [last - first, out_width, channels]
template <typename T>
void max_pool(const T* in, const PoolShape& shape, std::int64_t first, std::int64_t last,
              std::int64_t in_first, T* out);

/// Mean over the positions of a channels-last map. @param in [positions, channels] @param out
/// [channels]
void mean_over_positions(const float* in, std::int64_t positions, std::int64_t channels,
                         float* out);
void mean_over_positions_bf16(const std::uint16_t* in, std::int64_t positions,
                              std::int64_t channels, float* out);
/// @param scale what one step of the bytes is worth
void mean_over_positions_u8(const std::uint8_t* in, std::int64_t positions, std::int64_t channels,
                            float scale, float* out);

/// The smallest and the largest of `count` values, and 0.
struct Extremes {
  float low = 0;
  float high = 0;
};
Extremes extremes(const float* values, std::int64_t count);

}  // namespace quadrat::score
