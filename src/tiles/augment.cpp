#include "quadrat/tiles/augment.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "quadrat/base/error.h"
#include "quadrat/base/random.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {
// The sample's own: crop_ratio 0.85, brightness, contrast and saturation radius 0.2.
constexpr double kCropSide = 0.85;
constexpr double kJitter = 0.2;
// Rec. 601 luma, what saturation is measured against.
constexpr std::array<float, 3> kLuma{0.299F, 0.587F, 0.114F};
}  // namespace

Augment parse_augment(std::string_view name) {
  for (const Augment augment : {Augment::kNone, Augment::kSample, Augment::kDihedral}) {
    if (to_string(augment) == name) return augment;
  }
  throw UsageError(fmt::format("--augment is '{}', but must be one of none, sample and dihedral",
                               printable(name)));
}

std::string_view to_string(Augment augment) {
  switch (augment) {
    case Augment::kNone:
      return "none";
    case Augment::kSample:
      return "sample";
    case Augment::kDihedral:
      return "dihedral";
  }
  return "?";
}

TileTransform::TileTransform(std::uint32_t side_px, std::array<float, 3> mean,
                             std::array<float, 3> std, Augment augment, std::uint64_t seed)
    : side_(side_px),
      augment_(augment),
      seed_(seed),
      mean_(mean),
      std_(std),
      lookup_(std::size_t{256} * 3) {
  for (std::size_t value = 0; value < 256; ++value) {
    for (std::size_t c = 0; c < 3; ++c) {
      lookup_[value * 3 + c] = (static_cast<float>(value) / 255.0F - mean[c]) / std[c];
    }
  }
}

void TileTransform::plain(const std::uint8_t* rgb, float* out) const {
  const float* lookup = lookup_.data();
  const std::size_t pixels = std::size_t{side_} * side_;
  for (std::size_t i = 0; i < pixels; ++i, rgb += 3, out += 3) {
    out[0] = lookup[rgb[0] * 3];
    out[1] = lookup[rgb[1] * 3 + 1];
    out[2] = lookup[rgb[2] * 3 + 2];
  }
}

void TileTransform::train(const std::uint8_t* rgb, std::uint64_t epoch, std::uint64_t sample,
                          float* out) const {
  switch (augment_) {
    case Augment::kNone:
      plain(rgb, out);
      return;
    case Augment::kDihedral: {
      KeyedRandom random({seed_, kStreamAugment, epoch, sample});
      dihedral(rgb, static_cast<unsigned>(random.below(8)), out);
      return;
    }
    case Augment::kSample:
      crop_and_jitter(rgb, epoch, sample, out);
      return;
  }
}

void TileTransform::dihedral(const std::uint8_t* rgb, unsigned which, float* out) const {
  // Bit 0 mirrors columns, bit 1 mirrors rows, bit 2 transposes: together all 8 symmetries of the
  // square.
  if (which == 0) return plain(rgb, out);
  const auto side = static_cast<std::ptrdiff_t>(side_);
  std::ptrdiff_t column_step = (which & 1U) != 0 ? -1 : 1;
  std::ptrdiff_t row_step = (which & 2U) != 0 ? -side : side;
  std::ptrdiff_t start =
      ((which & 1U) != 0 ? side - 1 : 0) + ((which & 2U) != 0 ? (side - 1) * side : 0);
  if ((which & 4U) != 0) std::swap(column_step, row_step);
  const float* lookup = lookup_.data();
  for (std::ptrdiff_t y = 0; y < side; ++y) {
    const std::uint8_t* pixel = rgb + 3 * (start + y * row_step);
    for (std::ptrdiff_t x = 0; x < side; ++x, pixel += 3 * column_step, out += 3) {
      out[0] = lookup[pixel[0] * 3];
      out[1] = lookup[pixel[1] * 3 + 1];
      out[2] = lookup[pixel[2] * 3 + 2];
    }
  }
}

void TileTransform::crop_and_jitter(const std::uint8_t* rgb, std::uint64_t epoch,
                                    std::uint64_t sample, float* out) const {
  KeyedRandom random({seed_, kStreamAugment, epoch, sample});
  const auto side = static_cast<float>(side_);
  const float crop = side * static_cast<float>(kCropSide);
  const auto left = static_cast<float>(random.uniform(0, side - crop));
  const auto top = static_cast<float>(random.uniform(0, side - crop));
  const bool mirror =
      random.below(2) == 1;  // the crop transform of the sample's reader mirrors as well
  const auto brightness = static_cast<float>(random.uniform(1 - kJitter, 1 + kJitter));
  const auto contrast = static_cast<float>(random.uniform(1 - kJitter, 1 + kJitter));
  const auto saturation = static_cast<float>(random.uniform(1 - kJitter, 1 + kJitter));

  // Bilinear with pixel centres at halves. The columns are the same in every row.
  struct Tap {
    std::uint32_t low, high;
    float weight;  // of high
  };
  const float scale = crop / side;
  const auto tap = [&](float origin, std::uint32_t i) {
    const float at =
        std::clamp(origin + (static_cast<float>(i) + 0.5F) * scale - 0.5F, 0.0F, side - 1);
    const auto low = static_cast<std::uint32_t>(at);
    return Tap{low, std::min(low + 1, side_ - 1), at - static_cast<float>(low)};
  };
  thread_local std::vector<Tap> columns;
  columns.resize(side_);
  for (std::uint32_t x = 0; x < side_; ++x) columns[mirror ? side_ - 1 - x : x] = tap(left, x);

  double grey_sum = 0;
  float* value = out;
  for (std::uint32_t y = 0; y < side_; ++y) {
    const Tap row = tap(top, y);
    const std::uint8_t* upper = rgb + std::size_t{3} * side_ * row.low;
    const std::uint8_t* lower = rgb + std::size_t{3} * side_ * row.high;
    float row_grey = 0;
    for (std::uint32_t x = 0; x < side_; ++x, value += 3) {
      const Tap column = columns[x];
      float grey = 0;
      for (std::size_t c = 0; c < 3; ++c) {
        const std::size_t a = std::size_t{3} * column.low + c;
        const std::size_t b = std::size_t{3} * column.high + c;
        const float above = static_cast<float>(upper[a]) * (1 - column.weight) +
                            static_cast<float>(upper[b]) * column.weight;
        const float below = static_cast<float>(lower[a]) * (1 - column.weight) +
                            static_cast<float>(lower[b]) * column.weight;
        value[c] = brightness * (above * (1 - row.weight) + below * row.weight);
        grey += kLuma[c] * value[c];
      }
      row_grey += grey;
    }
    grey_sum += row_grey;
  }
  const std::size_t pixels = std::size_t{side_} * side_;
  const auto mean_grey = static_cast<float>(grey_sum / static_cast<double>(pixels));
  value = out;
  for (std::size_t i = 0; i < pixels; ++i, value += 3) {
    const float grey = kLuma[0] * value[0] + kLuma[1] * value[1] + kLuma[2] * value[2];
    for (std::size_t c = 0; c < 3; ++c) {
      const float saturated = grey + saturation * (value[c] - grey);
      const float contrasted = mean_grey + contrast * (saturated - mean_grey);
      value[c] = (std::clamp(contrasted, 0.0F, 255.0F) / 255.0F - mean_[c]) / std_[c];
    }
  }
}

}  // namespace quadrat
