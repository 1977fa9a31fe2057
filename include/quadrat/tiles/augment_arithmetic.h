#pragma once

#include <cstddef>
#include <cstdint>

#include "quadrat/base/host_device.h"

/// What augmentation computes, a pixel or a value at a time. The CPU's TileTransform and the GPU's
/// kernel (quadrat/gpu/augment.h) are both made of these functions, so that tests on any machine
/// test the arithmetic of both.

namespace quadrat {

/// What chance chose for one sample.
struct AugmentDraw {
  /// Bit 0 mirrors columns, bit 1 mirrors rows, bit 2 transposes: together all 8 symmetries of the
  /// square.
  std::uint32_t symmetry = 0;
  bool crops = false;  ///< whether what follows is of use; the symmetry is 0 then
  bool mirrors = false;
  float left_px = 0, top_px = 0;  ///< the crop's origin
  float brightness = 1, contrast = 1, saturation = 1;
};

namespace augment {

/// The sample's crop_ratio.
inline constexpr double kCropSide = 0.85;

/// Where the pixels of a tile's symmetry lie in the tile, in pixels: that of (x, y) at
/// start + x column_step + y row_step.
struct Walk {
  std::int64_t start, column_step, row_step;
};

QUADRAT_HOST_DEVICE inline Walk walk_of(std::uint32_t symmetry, std::int64_t side) {
  const bool mirrors_columns = (symmetry & 1U) != 0, mirrors_rows = (symmetry & 2U) != 0;
  const std::int64_t column_step = mirrors_columns ? -1 : 1;
  const std::int64_t row_step = mirrors_rows ? -side : side;
  const std::int64_t start =
      (mirrors_columns ? side - 1 : 0) + (mirrors_rows ? (side - 1) * side : 0);
  if ((symmetry & 4U) != 0) return {start, row_step, column_step};
  return {start, column_step, row_step};
}

/// Source pixels a step of the output moves by in a crop.
QUADRAT_HOST_DEVICE inline float crop_scale(float side) {
  const float crop = side * static_cast<float>(kCropSide);
  return crop / side;
}

/// The two source pixels, of a row or of a column, that an output pixel lies between.
struct Tap {
  std::uint32_t low, high;
  float weight;  ///< of high
};

/// Bilinear with pixel centres at halves. @param i output pixel @param origin of the crop
QUADRAT_HOST_DEVICE inline Tap tap_of(float origin, float scale, std::uint32_t i,
                                      std::uint32_t side) {
  const float last = static_cast<float>(side) - 1;
  float at = origin + (static_cast<float>(i) + 0.5F) * scale - 0.5F;
  at = at < 0.0F ? 0.0F : (last < at ? last : at);
  const auto low = static_cast<std::uint32_t>(at);
  return {low, low + 1 < side ? low + 1 : side - 1, at - static_cast<float>(low)};
}

QUADRAT_HOST_DEVICE inline float blend(float low, float high, float weight_of_high) {
  return low * (1 - weight_of_high) + high * weight_of_high;
}

struct Rgb {
  float r, g, b;
};

/// A pixel of the crop, 0 to 255 and beyond by what brightness adds. @param upper,lower the rows of
/// `row.low` and `row.high`
QUADRAT_HOST_DEVICE inline Rgb cropped(const std::uint8_t* upper, const std::uint8_t* lower,
                                       const Tap& row, const Tap& column, float brightness) {
  const std::uint8_t* a = upper + 3 * static_cast<std::size_t>(column.low);
  const std::uint8_t* b = upper + 3 * static_cast<std::size_t>(column.high);
  const std::uint8_t* c = lower + 3 * static_cast<std::size_t>(column.low);
  const std::uint8_t* d = lower + 3 * static_cast<std::size_t>(column.high);
  const auto value = [&](int channel) {
    const float above = blend(a[channel], b[channel], column.weight);
    const float below = blend(c[channel], d[channel], column.weight);
    return brightness * blend(above, below, row.weight);
  };
  return {value(0), value(1), value(2)};
}

/// Rec. 601 luma, what saturation is measured against.
QUADRAT_HOST_DEVICE inline float grey_of(const Rgb& pixel) {
  return 0.299F * pixel.r + 0.587F * pixel.g + 0.114F * pixel.b;
}

/// @param grey of the pixel @param mean_grey of the crop
QUADRAT_HOST_DEVICE inline float jittered(float value, float grey, float mean_grey,
                                          const AugmentDraw& draw) {
  const float saturated = grey + draw.saturation * (value - grey);
  const float contrasted = mean_grey + draw.contrast * (saturated - mean_grey);
  return contrasted < 0.0F ? 0.0F : (255.0F < contrasted ? 255.0F : contrasted);
}

/// @param value 0 to 255 @param mean,std in units of full scale
QUADRAT_HOST_DEVICE inline float normalised(float value, float mean, float std) {
  return (value / 255.0F - mean) / std;
}

}  // namespace augment
}  // namespace quadrat
