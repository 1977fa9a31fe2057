#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "quadrat/base/random.h"

/// What synthetic land is painted with: colours, noise, crowns of trees and shrubs.
namespace quadrat::geo::synth {

constexpr int kSwatch = 1024;  // side of a texture that repeats, in metres
constexpr int kSwatchMask = kSwatch - 1;

struct Colour {
  int r = 0;
  int g = 0;
  int b = 0;
};

/// `t` of the way from `a` to `b`.
Colour mix(Colour a, Colour b, double t);

inline Colour scaled(Colour c, double by) { return mix({0, 0, 0}, c, by); }

/// Never 0: black is where an image has nothing.
inline std::uint8_t clamp_byte(int value) {
  return static_cast<std::uint8_t>(std::clamp(value, 1, 255));
}

/// Smooth noise that repeats at `size`, one octave for each wavelength, with amplitude as the
/// wavelength's square root; scaled to a standard deviation of 1. @return [size, size]
std::vector<float> fractal_noise(int size, std::initializer_list<int> wavelengths,
                                 KeyedRandom& random);

/// The same as signed bytes with a standard deviation of 32.
std::vector<std::int8_t> noise_bytes(int size, std::initializer_list<int> wavelengths,
                                     KeyedRandom& random);

/// Crowns seen from above, in a texture that repeats. A crown is there where the density asked for
/// exceeds its rank, so one texture serves all densities. All are [kSwatch, kSwatch].
struct Crowns {
  std::vector<std::uint8_t> rank;   // of the lowest-ranked crown over this metre; 255 for none
  std::vector<std::uint8_t> light;  // of that crown, 128 is its own colour
  std::vector<std::uint8_t> shadow_rank;  // of the lowest-ranked crown whose shadow falls here

  /// @param cover crowns' area over the texture's, overlaps counted again
  Crowns(double min_radius_m, double max_radius_m, double cover, KeyedRandom& random);
};

}  // namespace quadrat::geo::synth
