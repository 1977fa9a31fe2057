#include "quadrat/report/analysis.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

namespace quadrat::report {

std::optional<Merged> merge_as_sample(const std::vector<std::int64_t>& confusion,
                                      const std::vector<std::string>& classes) {
  static const std::vector<std::string> kSample{"Barren", "Cultivated", "Developed",
                                                "Forest", "Herbaceous", "Shrub"};
  if (classes != kSample) return std::nullopt;
  Merged merged{{"Developed", "Cultivated", "Undeveloped"}, std::vector<std::int64_t>(9)};
  constexpr std::size_t kMergedOf[] = {2, 1, 0, 2, 2, 2};
  for (std::size_t row = 0; row < 6; ++row) {
    for (std::size_t column = 0; column < 6; ++column) {
      merged.confusion[kMergedOf[row] * 3 + kMergedOf[column]] += confusion[row * 6 + column];
    }
  }
  return merged;
}

float confidence(const Predictions& predictions, std::size_t classes, std::size_t i) {
  if (classes == 0) return 0;
  const float value = predictions.probabilities[i * classes + predictions.predicted[i]];
  return std::isfinite(value) ? std::clamp(value, 0.0F, 1.0F) : 0.0F;
}

Calibration calibrate(const Predictions& predictions, std::size_t classes, std::size_t bins) {
  assert(predictions.labels.size() == predictions.tiles.size());
  Calibration result;
  for (std::size_t b = 0; b < bins; ++b) {
    result.bins.push_back({static_cast<double>(b) / static_cast<double>(bins),
                           static_cast<double>(b + 1) / static_cast<double>(bins), 0, 0, 0});
  }
  for (std::size_t i = 0; i < predictions.tiles.size(); ++i) {
    const double sure = confidence(predictions, classes, i);
    CalibrationBin& bin =
        result.bins[std::min(static_cast<std::size_t>(sure * static_cast<double>(bins)), bins - 1)];
    ++bin.tiles;
    bin.confidence += sure;
    bin.accuracy += predictions.predicted[i] == predictions.labels[i] ? 1 : 0;
  }
  for (CalibrationBin& bin : result.bins) {
    if (bin.tiles == 0) continue;
    const auto tiles = static_cast<double>(bin.tiles);
    bin.confidence /= tiles;
    bin.accuracy /= tiles;
    result.expected_error += tiles / static_cast<double>(predictions.tiles.size()) *
                             std::abs(bin.confidence - bin.accuracy);
  }
  return result;
}

std::vector<std::size_t> confident_mistakes(const Predictions& predictions, std::size_t classes,
                                            std::size_t at_most) {
  assert(predictions.labels.size() == predictions.tiles.size());
  std::vector<std::size_t> wrong;
  for (std::size_t i = 0; i < predictions.tiles.size(); ++i) {
    if (predictions.predicted[i] != predictions.labels[i]) wrong.push_back(i);
  }
  const std::size_t count = std::min(at_most, wrong.size());
  std::partial_sort(wrong.begin(), wrong.begin() + static_cast<std::ptrdiff_t>(count), wrong.end(),
                    [&](std::size_t a, std::size_t b) {
                      const float sure_a = confidence(predictions, classes, a);
                      const float sure_b = confidence(predictions, classes, b);
                      return sure_a != sure_b ? sure_a > sure_b : a < b;
                    });
  wrong.resize(count);
  return wrong;
}

}  // namespace quadrat::report
