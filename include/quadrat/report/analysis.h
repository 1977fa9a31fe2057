#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quadrat/record/run_record.h"

namespace quadrat::report {

/// The sample's second look at its six classes: Developed, Cultivated, and the other four as
/// Undeveloped.
struct Merged {
  std::vector<std::string> classes;
  std::vector<std::int64_t> confusion;  ///< [classes, classes]
};
/// None where `classes` are not the sample's six.
std::optional<Merged> merge_as_sample(const std::vector<std::int64_t>& confusion,
                                      const std::vector<std::string>& classes);

/// A share of the tiles by how sure the model was: its highest probability lies in [low, high).
struct CalibrationBin {
  double low = 0;
  double high = 0;
  std::int64_t tiles = 0;
  double confidence = 0;  ///< mean highest probability of these tiles
  double accuracy = 0;    ///< share of them that is right
};
struct Calibration {
  std::vector<CalibrationBin> bins;
  /// Expected calibration error: mean over tiles of |confidence - accuracy| of their bin
  /// (Guo et al., "On Calibration of Modern Neural Networks", 2017).
  double expected_error = 0;
};
/// @pre predictions have labels
Calibration calibrate(const Predictions& predictions, std::size_t classes, std::size_t bins = 10);

/// Highest probability of tile i; 0 where it is NaN.
float confidence(const Predictions& predictions, std::size_t classes, std::size_t i);

/// Indices of wrong tiles, the surest first. @pre predictions have labels
std::vector<std::size_t> confident_mistakes(const Predictions& predictions, std::size_t classes,
                                            std::size_t at_most);

}  // namespace quadrat::report
