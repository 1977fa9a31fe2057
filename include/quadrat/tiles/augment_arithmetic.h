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

/// a b + c, rounded once: an instruction on every GPU, and on CPUs since 2013.
QUADRAT_HOST_DEVICE inline float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return fmaf(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

QUADRAT_HOST_DEVICE inline float blend(float low, float high, float weight_of_high) {
  return multiply_add(weight_of_high, high - low, low);
}

struct Rgb {
  float r, g, b;
};

inline Rgb rgb_of(const std::uint8_t* bytes) {
  return {static_cast<float>(bytes[0]), static_cast<float>(bytes[1]), static_cast<float>(bytes[2])};
}

QUADRAT_HOST_DEVICE inline Rgb blend(const Rgb& low, const Rgb& high, float weight_of_high) {
  return {blend(low.r, high.r, weight_of_high), blend(low.g, high.g, weight_of_high),
          blend(low.b, high.b, weight_of_high)};
}

/// Rec. 601 luma, what saturation is measured against.
QUADRAT_HOST_DEVICE inline float grey_of(const Rgb& pixel) {
  return multiply_add(0.299F, pixel.r, multiply_add(0.587F, pixel.g, 0.114F * pixel.b));
}

/// Brightness, saturation and contrast, one after the other, of a value from 0 to 255: all are
/// linear, so that together they are a product and a sum.
struct Jitter {
  float gain, grey_gain, offset;
};

/// brightness b makes b v; saturation s, with the pixel's grey g: b g + s (b v - b g); contrast c,
/// with the crop's mean m: b m + c (that - b m). @param mean_grey m, before any of it
QUADRAT_HOST_DEVICE inline Jitter jitter_of(const AugmentDraw& draw, float mean_grey) {
  const float both = draw.brightness * draw.contrast;
  return {both * draw.saturation, both * (1 - draw.saturation),
          (1 - draw.contrast) * (draw.brightness * mean_grey)};
}

/// @param grey of the pixel
QUADRAT_HOST_DEVICE inline float jittered(float value, float grey, const Jitter& jitter) {
  const float changed =
      multiply_add(jitter.gain, value, multiply_add(jitter.grey_gain, grey, jitter.offset));
#if defined(__CUDA_ARCH__)
  return fminf(fmaxf(changed, 0.0F), 255.0F);  // an instruction each
#else
  return changed < 0.0F ? 0.0F : (255.0F < changed ? 255.0F : changed);
#endif
}

/// (value / 255 - mean) / std as a product and a sum.
struct Normal {
  float scale = 1, offset = 0;
};

/// @param mean,std in units of full scale
inline Normal normal_of(double mean, double std) {
  return {static_cast<float>(1 / (255 * std)), static_cast<float>(-mean / std)};
}

/// @param value 0 to 255
QUADRAT_HOST_DEVICE inline float normalised(float value, const Normal& normal) {
  return multiply_add(value, normal.scale, normal.offset);
}

}  // namespace augment
}  // namespace quadrat
