#include "quadrat/tiles/augment.h"

#include <fmt/format.h>

#include <cstddef>

#include "quadrat/base/error.h"
#include "quadrat/base/random.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {
// The sample's own radius of brightness, contrast and saturation.
constexpr double kJitter = 0.2;

// Compiled twice where GCC 12 or newer does it: a processor that multiplies and adds at once is
// several times as quick at it, and the other has the same bits.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define QUADRAT_ALSO_FOR_FMA __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define QUADRAT_ALSO_FOR_FMA
#endif

/// @param columns of the output @param out the crop, 0 to 255 @return its grey, summed
QUADRAT_ALSO_FOR_FMA double crop(const AugmentDraw& draw, std::uint32_t side,
                                 const std::uint8_t* rgb, const augment::Tap* columns, float* out) {
  const float scale = augment::crop_scale(static_cast<float>(side));
  double grey_sum = 0;
  for (std::uint32_t y = 0; y < side; ++y) {
    const augment::Tap row = augment::tap_of(draw.top_px, scale, y, side);
    const std::uint8_t* upper = rgb + std::size_t{3} * side * row.low;
    const std::uint8_t* lower = rgb + std::size_t{3} * side * row.high;
    float row_grey = 0;
    for (std::uint32_t x = 0; x < side; ++x, out += 3) {
      const auto blended = [&](const std::uint8_t* source) {
        const std::uint8_t* low = source + std::size_t{3} * columns[x].low;
        const std::uint8_t* high = source + std::size_t{3} * columns[x].high;
        return augment::blend(augment::rgb_of(low), augment::rgb_of(high), columns[x].weight);
      };
      const augment::Rgb pixel = augment::blend(blended(upper), blended(lower), row.weight);
      out[0] = pixel.r;
      out[1] = pixel.g;
      out[2] = pixel.b;
      row_grey += augment::grey_of(pixel);
    }
    grey_sum += row_grey;
  }
  return grey_sum;
}

/// @param values [side, side, 3], 0 to 255; normalised then
QUADRAT_ALSO_FOR_FMA void jitter(const augment::Jitter& jitter,
                                 const std::array<augment::Normal, 3>& normal, std::uint32_t side,
                                 float* values) {
  const std::size_t pixels = std::size_t{side} * side;
  for (std::size_t i = 0; i < pixels; ++i, values += 3) {
    const float grey = augment::grey_of({values[0], values[1], values[2]});
    for (std::size_t c = 0; c < 3; ++c)
      values[c] = augment::normalised(augment::jittered(values[c], grey, jitter), normal[c]);
  }
}

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
  for (std::size_t c = 0; c < 3; ++c) normal_[c] = augment::normal_of(mean[c], std[c]);
  for (std::size_t value = 0; value < 256; ++value) {
    for (std::size_t c = 0; c < 3; ++c) {
      lookup_[value * 3 + c] = augment::normalised(static_cast<float>(value), normal_[c]);
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

AugmentDraw TileTransform::draw(std::uint64_t epoch, std::uint64_t sample) const {
  AugmentDraw draw;
  if (augment_ == Augment::kNone) return draw;
  KeyedRandom random({seed_, kStreamAugment, epoch, sample});
  if (augment_ == Augment::kDihedral) {
    draw.symmetry = static_cast<std::uint32_t>(random.below(8));
    return draw;
  }
  const auto side = static_cast<float>(side_);
  const float crop = side * static_cast<float>(augment::kCropSide);
  draw.crops = true;
  draw.left_px = static_cast<float>(random.uniform(0, side - crop));
  draw.top_px = static_cast<float>(random.uniform(0, side - crop));
  // The crop transform of the sample's reader mirrors as well.
  draw.mirrors = random.below(2) == 1;
  draw.brightness = static_cast<float>(random.uniform(1 - kJitter, 1 + kJitter));
  draw.contrast = static_cast<float>(random.uniform(1 - kJitter, 1 + kJitter));
  draw.saturation = static_cast<float>(random.uniform(1 - kJitter, 1 + kJitter));
  return draw;
}

void TileTransform::train(const std::uint8_t* rgb, std::uint64_t epoch, std::uint64_t sample,
                          float* out) const {
  apply(draw(epoch, sample), rgb, out);
}

void TileTransform::apply(const AugmentDraw& draw, const std::uint8_t* rgb, float* out) const {
  if (draw.crops) {
    crop_and_jitter(draw, rgb, out);
  } else if (draw.symmetry != 0) {
    dihedral(draw.symmetry, rgb, out);
  } else {
    plain(rgb, out);
  }
}

void TileTransform::dihedral(std::uint32_t symmetry, const std::uint8_t* rgb, float* out) const {
  const auto side = static_cast<std::ptrdiff_t>(side_);
  const augment::Walk walk = augment::walk_of(symmetry, side);
  const float* lookup = lookup_.data();
  for (std::ptrdiff_t y = 0; y < side; ++y) {
    const std::uint8_t* pixel = rgb + 3 * (walk.start + y * walk.row_step);
    for (std::ptrdiff_t x = 0; x < side; ++x, pixel += 3 * walk.column_step, out += 3) {
      out[0] = lookup[pixel[0] * 3];
      out[1] = lookup[pixel[1] * 3 + 1];
      out[2] = lookup[pixel[2] * 3 + 2];
    }
  }
}

void TileTransform::crop_and_jitter(const AugmentDraw& draw, const std::uint8_t* rgb,
                                    float* out) const {
  const float scale = augment::crop_scale(static_cast<float>(side_));
  // The columns are the same in every row.
  thread_local std::vector<augment::Tap> columns;
  columns.resize(side_);
  for (std::uint32_t x = 0; x < side_; ++x) {
    columns[draw.mirrors ? side_ - 1 - x : x] = augment::tap_of(draw.left_px, scale, x, side_);
  }

  const double pixels = static_cast<double>(side_) * side_;
  const double grey = crop(draw, side_, rgb, columns.data(), out);
  jitter(augment::jitter_of(draw, static_cast<float>(grey / pixels)), normal_, side_, out);
}

}  // namespace quadrat
