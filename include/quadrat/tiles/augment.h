#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/tiles/augment_arithmetic.h"

namespace quadrat {

enum class Augment {
  kNone,
  kSample,    ///< the sample's: a random crop of side 0.85 resized back, brightness, contrast and
              ///< saturation +-0.2
  kDihedral,  ///< one of the 8 flips and quarter turns, which overhead imagery allows
};

/// @throws UsageError
Augment parse_augment(std::string_view name);
std::string_view to_string(Augment augment);

/// Turns decoded tiles into network input: augments, normalises per channel, channels last.
/// Thread-safe: const, with its scratch memory per thread.
class TileTransform {
 public:
  /// @param mean,std per channel in units of full scale (ImageNet's are 0.485... and 0.229...)
  TileTransform(std::uint32_t side_px, std::array<float, 3> mean, std::array<float, 3> std,
                Augment augment, std::uint64_t seed);

  /// The augmentation is a pure function of (seed, epoch, sample).
  /// @param rgb [side, side, 3] @param out [side, side, 3], normalised
  void train(const std::uint8_t* rgb, std::uint64_t epoch, std::uint64_t sample, float* out) const;

  /// The chance in it: train() applies it, and so does the GPU's kernel. Nothing is drawn where
  /// nothing augments.
  AugmentDraw draw(std::uint64_t epoch, std::uint64_t sample) const;
  void apply(const AugmentDraw& draw, const std::uint8_t* rgb, float* out) const;

  /// No augmentation: what validation and scoring see.
  void plain(const std::uint8_t* rgb, float* out) const;

  std::uint32_t side_px() const { return side_; }
  std::size_t values_per_tile() const { return std::size_t{3} * side_ * side_; }
  Augment augment() const { return augment_; }
  const std::array<float, 3>& mean() const { return mean_; }
  const std::array<float, 3>& std() const { return std_; }
  const std::array<augment::Normal, 3>& normal() const { return normal_; }

 private:
  void dihedral(std::uint32_t symmetry, const std::uint8_t* rgb, float* out) const;
  void crop_and_jitter(const AugmentDraw& draw, const std::uint8_t* rgb, float* out) const;

  std::uint32_t side_;
  Augment augment_;
  std::uint64_t seed_;
  std::array<float, 3> mean_;
  std::array<float, 3> std_;
  std::array<augment::Normal, 3> normal_;
  std::vector<float> lookup_;  // [256, 3]: the normalised value of a byte in each channel
};

}  // namespace quadrat
