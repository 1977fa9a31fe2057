#include "quadrat/model/int16_linear.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "quadrat/base/cpu.h"
#include "winograd_parts.h"

namespace quadrat {

namespace {

/// Inputs that are summed as integers: with more, weights are rounded further.
constexpr std::int64_t kMostAtOnce = 512;
static_assert(kMostAtOnce <= winograd::kMostChannels);
constexpr std::int64_t kMultiple = 16;

const winograd::Kernels<float>& cpu() { return winograd::kernels<float>(); }

}  // namespace

bool Int16Linear::is_supported(std::int64_t inputs, std::int64_t outputs) {
  return cpu_features().avx2 && inputs % kMultiple == 0 && outputs % cpu().panel == 0;
}

Int16Linear::Part Int16Linear::part(std::int64_t number) const {
  const std::int64_t first = number * kMostAtOnce;
  return {first, std::min(kMostAtOnce, inputs_ - first)};
}

Int16Linear::Int16Linear(std::int64_t inputs, std::int64_t outputs, const float* weight,
                         const float* bias)
    : inputs_(inputs),
      parts_((inputs + kMostAtOnce - 1) / kMostAtOnce),
      scales_(static_cast<std::size_t>(parts_ * outputs)),
      bias_(bias, bias + outputs) {
  const std::int64_t width = cpu().panel;
  weights_.grow(static_cast<std::size_t>(outputs * inputs) * sizeof(std::int16_t));
  auto* rounded = reinterpret_cast<std::int16_t*>(weights_.get());
  std::vector<float> panel(static_cast<std::size_t>(kMostAtOnce * width));
  for (std::int64_t k = 0; k < outputs; k += width) {
    for (std::int64_t number = 0; number < parts_; ++number) {
      const auto [first, count] = part(number);
      for (std::int64_t column = 0; column < width; ++column) {
        const float* const from = weight + (k + column) * inputs + first;
        for (std::int64_t i = 0; i < count; ++i)
          panel[static_cast<std::size_t>(i * width + column)] = from[i];
      }
      cpu().round_panel(panel.data(), count, rounded, scales_.data() + number * outputs + k);
      rounded += count * width;
    }
  }
}

void Int16Linear::run(const float* in, std::int64_t rows, bool relu, float* out) const {
  static thread_local AlignedBytes rounded;
  static thread_local std::vector<float> scales;
  rounded.grow(static_cast<std::size_t>(rows * inputs_) * sizeof(std::int16_t));
  scales.resize(static_cast<std::size_t>(rows * parts_));
  auto* const integers = reinterpret_cast<std::int16_t*>(rounded.get());
  const float* const row_scales = scales.data();
  for (std::int64_t number = 0; number < parts_; ++number) {
    const auto [first, count] = part(number);
    cpu().round_rows(rows, in + first, inputs_, count, integers + first, inputs_,
                     scales.data() + number * rows, 1);
  }
  const std::int64_t width = cpu().panel, outputs = this->outputs();
  const auto* const weights = reinterpret_cast<const std::int16_t*>(weights_.get());
  at::parallel_for(0, outputs / width, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy(bias_.begin() + begin * width, bias_.begin() + end * width,
                out + r * outputs + begin * width);
    }
    for (std::int64_t number = 0; number < parts_; ++number) {
      const auto [first, count] = part(number);
      for (std::int64_t k = begin * width; k < end * width; k += width) {
        cpu().multiply_rounded(rows, {integers + first, inputs_, row_scales + number * rows},
                               weights + k * inputs_ + first * width,
                               scales_.data() + number * outputs + k, count / 2, /*adds=*/true,
                               out + k, outputs);
      }
    }
    if (!relu) return;
    for (std::int64_t r = 0; r < rows; ++r) {
      float* const row = out + r * outputs;
      for (std::int64_t k = begin * width; k < end * width; ++k) row[k] = row[k] < 0 ? 0 : row[k];
    }
  });
}

}  // namespace quadrat
