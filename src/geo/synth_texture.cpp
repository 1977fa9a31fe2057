#include "synth_texture.h"

namespace quadrat::geo::synth {

Colour mix(Colour a, Colour b, double t) {
  const auto one = [t](int x, int y) { return static_cast<int>(std::lround(x + (y - x) * t)); };
  return {one(a.r, b.r), one(a.g, b.g), one(a.b, b.b)};
}

std::vector<float> fractal_noise(int size, std::initializer_list<int> wavelengths,
                                 KeyedRandom& random) {
  std::vector<float> field(static_cast<std::size_t>(size) * size, 0.0F);
  for (const int wavelength : wavelengths) {
    const int cells = size / wavelength;
    std::vector<float> lattice(static_cast<std::size_t>(cells) * cells);
    for (float& value : lattice) value = static_cast<float>(random.uniform(-1, 1));
    const float amplitude = std::sqrt(static_cast<float>(wavelength));
    for (int y = 0; y < size; ++y) {
      const int cy = y / wavelength;
      const float fy = static_cast<float>(y % wavelength) / static_cast<float>(wavelength);
      const float sy = fy * fy * (3 - 2 * fy);
      const float* upper = lattice.data() + static_cast<std::ptrdiff_t>(cy) * cells;
      const float* lower = lattice.data() + static_cast<std::ptrdiff_t>((cy + 1) % cells) * cells;
      for (int x = 0; x < size; ++x) {
        const int cx = x / wavelength;
        const int nx = (cx + 1) % cells;
        const float fx = static_cast<float>(x % wavelength) / static_cast<float>(wavelength);
        const float sx = fx * fx * (3 - 2 * fx);
        const float top = upper[cx] + (upper[nx] - upper[cx]) * sx;
        const float bottom = lower[cx] + (lower[nx] - lower[cx]) * sx;
        field[static_cast<std::size_t>(y) * size + x] += amplitude * (top + (bottom - top) * sy);
      }
    }
  }
  double square = 0;
  for (const float value : field) square += static_cast<double>(value) * value;
  const auto scale = static_cast<float>(1 / std::sqrt(square / static_cast<double>(field.size())));
  for (float& value : field) value *= scale;
  return field;
}

std::vector<std::int8_t> noise_bytes(int size, std::initializer_list<int> wavelengths,
                                     KeyedRandom& random) {
  const std::vector<float> field = fractal_noise(size, wavelengths, random);
  std::vector<std::int8_t> bytes(field.size());
  std::transform(field.begin(), field.end(), bytes.begin(), [](float value) {
    return static_cast<std::int8_t>(std::clamp(std::lround(value * 32), -127L, 127L));
  });
  return bytes;
}

Crowns::Crowns(double min_radius_m, double max_radius_m, double cover, KeyedRandom& random)
    : rank(kSwatch * kSwatch, 255),
      light(kSwatch * kSwatch, 128),
      shadow_rank(kSwatch * kSwatch, 255) {
  const double mean_radius = (min_radius_m + max_radius_m) / 2;
  const auto count =
      static_cast<int>(cover * kSwatch * kSwatch / (3.14159 * mean_radius * mean_radius));
  for (int i = count - 1; i >= 0;
       --i) {  // from the highest rank down, so that lower ones lie on top
    const auto this_rank = static_cast<std::uint8_t>(i * 254LL / count);
    const double radius = random.uniform(min_radius_m, max_radius_m);
    const double cx = random.uniform(0, kSwatch);
    const double cy = random.uniform(0, kSwatch);
    const double tone = random.uniform(-14, 14);
    const int reach = static_cast<int>(radius) + 2;
    const double offset =
        0.8 * radius;  // the sun stands in the south-east: shadows fall north-west
    for (int dy = -reach; dy <= reach; ++dy) {
      for (int dx = -reach; dx <= reach; ++dx) {
        const auto px = static_cast<std::size_t>(static_cast<int>(cx) + dx) & kSwatchMask;
        const auto py = static_cast<std::size_t>(static_cast<int>(cy) + dy) & kSwatchMask;
        const double distance = std::hypot(dx, dy) / radius;
        if (distance < 1) {
          rank[py * kSwatch + px] = this_rank;
          const double lit = (dx + dy) / (2 * radius) * 50 - distance * distance * 18 + tone;
          light[py * kSwatch + px] = clamp_byte(128 + static_cast<int>(lit));
        }
        const auto sx = static_cast<std::size_t>(static_cast<int>(cx - offset) + dx) & kSwatchMask;
        const auto sy = static_cast<std::size_t>(static_cast<int>(cy - offset) + dy) & kSwatchMask;
        if (distance < 1) shadow_rank[sy * kSwatch + sx] = this_rank;
      }
    }
  }
}

}  // namespace quadrat::geo::synth
