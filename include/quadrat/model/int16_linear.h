#pragma once

#include <cstdint>
#include <vector>

#include "quadrat/base/aligned_bytes.h"

namespace quadrat {

/// A fully connected layer whose products are of integers, as those of WinogradProducts::kInt16:
/// some inputs at a time, each row, and each output's weights, rounded in units of their own.
///
/// Torch's threads share the outputs; what a row becomes does not depend on the others, nor on
/// which thread computes it.
class Int16Linear {
 public:
  /// For x86-64 with AVX2 or AVX-512.
  static bool is_supported(std::int64_t inputs, std::int64_t outputs);

  /// @param weight [outputs, inputs] @param bias [outputs]
  Int16Linear(std::int64_t inputs, std::int64_t outputs, const float* weight, const float* bias);

  std::int64_t outputs() const { return static_cast<std::int64_t>(bias_.size()); }

  /// @param in [rows, inputs] @param out [rows, outputs]
  void run(const float* in, std::int64_t rows, bool relu, float* out) const;

 private:
  /// Which of the inputs are summed as integers.
  struct Part {
    std::int64_t first, count;
  };
  Part part(std::int64_t number) const;

  std::int64_t inputs_, parts_;
  AlignedBytes weights_;       ///< int16 [outputs / panel, inputs / 2, panel, 2]
  std::vector<float> scales_;  ///< [parts, outputs]
  std::vector<float> bias_;
};

}  // namespace quadrat
