#include "quadrat/geo/synth.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

#include "quadrat/base/error.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/random.h"
#include "quadrat/base/signals.h"

namespace quadrat::geo {

namespace {

constexpr double kTileMetres = 224;
constexpr double kPatchMetres = 750;
constexpr std::int64_t kMaxTilesAcross =
    1024;                      // 229 km: no county is larger, and GeoTIFF coordinates are ints
constexpr int kSwatch = 1024;  // side of a texture that repeats, in metres
constexpr int kSwatchMask = kSwatch - 1;
constexpr int kLattice = 4;      // metres between places where the patch is looked up
constexpr int kWarp = 512;       // side of the table that bends patch edges
constexpr double kWarpStep = 8;  // metres between its entries

enum Kind : std::uint8_t { kBarren, kCultivated, kDeveloped, kForest, kHerbaceous, kShrub, kWater };

/// What patches are dealt from, so that even a small county has all kinds in even shares.
constexpr std::array<Kind, 19> kDeck{kBarren, kCultivated, kDeveloped, kForest, kHerbaceous, kShrub,
                                     kBarren, kCultivated, kDeveloped, kForest, kHerbaceous, kShrub,
                                     kBarren, kCultivated, kDeveloped, kForest, kHerbaceous, kShrub,
                                     kWater};

enum Salt : std::uint64_t {
  kSaltPatch = 1,
  kSaltDeck,
  kSaltSwatch,
  kSaltWarp,
  kSaltParcel,
  kSaltLot,
  kSaltRiver,
  kSaltCounty,
  kSaltGrowth,
  kSaltInclusion
};

struct Colour {
  int r = 0;
  int g = 0;
  int b = 0;
};

Colour mix(Colour a, Colour b, double t) {
  const auto one = [t](int x, int y) { return static_cast<int>(std::lround(x + (y - x) * t)); };
  return {one(a.r, b.r), one(a.g, b.g), one(a.b, b.b)};
}

Colour scaled(Colour c, double by) { return mix({0, 0, 0}, c, by); }

std::uint8_t clamp_byte(int value) { return static_cast<std::uint8_t>(std::clamp(value, 1, 255)); }

/// Smooth noise that repeats at `size`, one octave for each wavelength, with amplitude as the
/// wavelength's square root; scaled to a standard deviation of 1.
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

/// Noise as signed bytes with a standard deviation of 32.
std::vector<std::int8_t> noise_bytes(int size, std::initializer_list<int> wavelengths,
                                     KeyedRandom& random) {
  const std::vector<float> field = fractal_noise(size, wavelengths, random);
  std::vector<std::int8_t> bytes(field.size());
  std::transform(field.begin(), field.end(), bytes.begin(), [](float value) {
    return static_cast<std::int8_t>(std::clamp(std::lround(value * 32), -127L, 127L));
  });
  return bytes;
}

/// Crowns seen from above, in a texture that repeats. A crown is there where the density asked for
/// exceeds its rank, so one texture serves all densities.
struct Crowns {
  std::vector<std::uint8_t> rank;   // of the lowest-ranked crown over this metre; 255 for none
  std::vector<std::uint8_t> light;  // of that crown, 128 is its own colour
  std::vector<std::uint8_t> shadow_rank;  // of the lowest-ranked crown whose shadow falls here

  Crowns(double min_radius_m, double max_radius_m, double cover, KeyedRandom& random)
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
          const auto sx =
              static_cast<std::size_t>(static_cast<int>(cx - offset) + dx) & kSwatchMask;
          const auto sy =
              static_cast<std::size_t>(static_cast<int>(cy - offset) + dy) & kSwatchMask;
          if (distance < 1) shadow_rank[sy * kSwatch + sx] = this_rank;
        }
      }
    }
  }
};

/// A patch of one kind of land with a look of its own.
struct Patch {
  Kind kind = kHerbaceous;
  std::uint8_t code = 71;
  double x = 0;  // its Voronoi seed, metres
  double y = 0;
  double reach = 0;  // added to its claim on land, square metres
  std::uint64_t key = 0;
  Colour ground;
  Colour crown;
  int mottle =
      0;  // strength of the noise at 8 to 128 m, 32nds of a grey level per standard deviation
  int grain = 0;       // the same at 1 to 4 m
  int density = 0;     // of crowns, 0..254
  int patchiness = 0;  // how much that varies with the mottle
  bool trees = false;  // crowns of trees rather than shrubs
  int gullies = 0;     // strength of dark lines along the mottle's zero
  int offset_x = 0;    // into the textures
  int offset_y = 0;
  double angle = 0;   // of fields and streets
  double size_u = 0;  // of parcels and blocks, metres
  double size_v = 0;
  const Patch* minor = nullptr;  // what its inclusions look like
};

struct Road {
  double x0, y0, x1, y1;
  double half_width_m;
  Colour colour;
};

}  // namespace

struct SynthCounty::State {
  SynthOptions options;
  std::int64_t side = 0;
  int cells = 0;  // patches across, with one more around the county on each side
  std::vector<Patch> patches;
  Patch river;
  double river_x = 0, river_bend = 0, river_phase = 0, river_half_width = 0;
  std::vector<Road> roads;
  std::vector<float> warp_x, warp_y, inclusions;
  std::vector<std::int8_t> mottle, grain;
  std::unique_ptr<Crowns> trees, shrubs;
  std::array<std::int8_t, 256> wave{};  // one period of a sine

  void deal_patches();
  void make_look(Patch& patch) const;
  void grow();
  void lay_roads();
  void choose_inclusions();
  const Patch& patch_at(double x, double y, bool with_inclusions) const;
  std::uint8_t code(const Patch& patch, double x, double y) const;
  void paint_row(std::int64_t y, const Patch* const* blocks, std::uint8_t* rgb) const;
  void paint_cover(const Patch& p, std::int64_t y, std::int64_t x0, std::int64_t x1,
                   std::uint8_t* rgb) const;
  void paint_fields(const Patch& p, std::int64_t y, std::int64_t x0, std::int64_t x1,
                    std::uint8_t* rgb) const;
  void paint_town(const Patch& p, std::int64_t y, std::int64_t x0, std::int64_t x1,
                  std::uint8_t* rgb) const;
  void paint_roads(std::int64_t first, std::int64_t rows, std::uint8_t* rgb) const;
};

void SynthCounty::State::deal_patches() {
  cells = static_cast<int>(std::ceil(static_cast<double>(side) / kPatchMetres)) + 2;
  patches.resize(static_cast<std::size_t>(cells) * cells);
  std::vector<std::size_t> order;
  std::vector<std::size_t> margin;
  for (int row = 0; row < cells; ++row) {
    for (int column = 0; column < cells; ++column) {
      const bool outside = row == 0 || column == 0 || row == cells - 1 || column == cells - 1;
      (outside ? margin : order).push_back(static_cast<std::size_t>(row) * cells + column);
    }
  }
  KeyedRandom random{options.seed, kStreamSynth, kSaltDeck};
  shuffle(order, random);
  order.insert(order.end(), margin.begin(), margin.end());
  for (std::size_t i = 0; i < order.size(); ++i) {
    Patch& patch = patches[order[i]];
    const auto column = static_cast<double>(order[i] % static_cast<std::size_t>(cells));
    const auto row = static_cast<double>(order[i] / static_cast<std::size_t>(cells));
    patch.kind = kDeck[i % kDeck.size()];
    patch.key = random.next();
    patch.x = (column - 1 + random.uniform(0.2, 0.8)) * kPatchMetres;
    patch.y = (row - 1 + random.uniform(0.2, 0.8)) * kPatchMetres;
  }
}

/// The bare or grassy ground that open land shares, by how common each is: two of these, mixed.
/// Kinds differ in the weights only, so that colour alone tells them apart badly.
Colour draw_ground(KeyedRandom& random, const std::array<double, 6>& weights) {
  constexpr std::array<Colour, 6> kGrounds{Colour{166, 158, 148}, Colour{152, 130, 106},
                                           Colour{176, 164, 118}, Colour{118, 132, 84},
                                           Colour{122, 104, 86},  Colour{96, 122, 68}};
  const auto draw = [&] {
    double sum = 0;
    for (const double weight : weights) sum += weight;
    double at = random.uniform(0, sum);
    std::size_t i = 0;
    while (i + 1 < weights.size() && at >= weights[i]) at -= weights[i++];
    return kGrounds[i];
  };
  const Colour a = draw();
  const Colour b = draw();
  return scaled(mix(a, b, random.uniform(0, 0.5)), random.uniform(0.82, 1.15));
}

/// A whole number from low to high.
int draw_int(KeyedRandom& random, int low, int high) {
  return low + static_cast<int>(random.below(static_cast<std::uint64_t>(high - low + 1)));
}

/// Colours and densities, drawn from ranges that overlap between kinds.
void SynthCounty::State::make_look(Patch& p) const {
  KeyedRandom random{p.key, kSaltPatch};
  p.offset_x = static_cast<int>(random.below(kSwatch));
  p.offset_y = static_cast<int>(random.below(kSwatch));
  p.angle = random.uniform(-0.6, 0.6);
  const Colour leaf{74, 92, 58};
  const Colour needle{54, 72, 54};
  const Colour olive{98, 104, 70};
  // Crowns of shrubs and of trees have their colours from one range.
  const Colour crown =
      scaled(mix(mix(leaf, needle, random.uniform()), olive, random.uniform(0, 0.7)),
             random.uniform(0.85, 1.2));
  p.crown = crown;
  switch (p.kind) {
    case kBarren:
      p.code = 31;
      p.ground = draw_ground(random, {4, 3, 3, 0.4, 2, 0.1});
      if (random.uniform() < 0.85) p.crown = scaled(p.ground, random.uniform(0.6, 0.85));  // rocks
      p.mottle = draw_int(random, 10, 24);
      p.grain = draw_int(random, 9, 16);
      p.density = draw_int(random, 0, 28);
      p.patchiness = 1;
      p.gullies = draw_int(random, 16, 40);
      break;
    case kHerbaceous:
      p.code = random.uniform() < 0.85 ? 71 : 95;
      p.ground = draw_ground(random, {1, 2, 4, 4, 1.5, 2});
      p.mottle = draw_int(random, 8, 20);
      p.grain = draw_int(random, 4, 10);
      p.density = draw_int(random, 0, 22);
      p.patchiness = 1;
      p.gullies = draw_int(random, 0, 8);
      break;
    case kShrub:
      p.code = 52;
      p.ground = draw_ground(random, {1, 3, 3, 3, 2, 1.5});
      p.mottle = draw_int(random, 8, 20);
      p.grain = draw_int(random, 5, 12);
      p.density = draw_int(random, 28, 180);
      p.patchiness = 2;
      p.gullies = draw_int(random, 0, 10);
      break;
    case kForest: {
      constexpr std::array<std::uint8_t, 4> kCodes{41, 42, 43, 90};
      p.code = kCodes[random.below(4)];
      p.ground = scaled(draw_ground(random, {0, 1, 1, 3, 2, 3}), 0.85);
      p.mottle = draw_int(random, 6, 14);
      p.grain = draw_int(random, 5, 13);
      p.density = draw_int(random, 80, 250);
      p.patchiness = 2;
      p.trees = true;
      break;
    }
    case kCultivated:
      p.code = random.uniform() < 0.7 ? 82 : 81;
      p.mottle = draw_int(random, 5, 15);
      p.grain = draw_int(random, 4, 10);
      p.density = draw_int(random, 0, 8);
      p.size_u = random.uniform(170, 420) * (p.code == 81 ? 1.5 : 1);
      p.size_v = random.uniform(120, 300) * (p.code == 81 ? 1.5 : 1);
      break;
    case kDeveloped:
      p.code = 22;
      p.ground = draw_ground(random, {0.5, 2, 2, 4, 1, 2});
      p.mottle = draw_int(random, 6, 14);
      p.grain = draw_int(random, 5, 12);
      p.density = draw_int(random, 6, 170);
      p.patchiness = 2;
      p.trees = true;
      p.size_u = random.uniform(90, 240);
      p.size_v = random.uniform(64, 120);
      break;
    case kWater:
      p.code = 11;
      p.ground =
          scaled(mix({44, 62, 70}, {70, 84, 72}, random.uniform()), random.uniform(0.85, 1.15));
      p.crown = p.ground;
      p.mottle = 4;
      p.grain = 3;
      break;
  }
}

/// A clearing in a wood, a copse in the fields, a park in a town: smaller than what land cover maps
/// resolve, and so not in the codes. It makes some labels wrong, as NLCD's are.
void SynthCounty::State::choose_inclusions() {
  const auto plausible = [](Kind in, Kind what) {
    if (what == in || what == kWater) return false;
    if (in == kBarren) return what == kHerbaceous || what == kShrub;
    if (in == kForest) return what == kShrub || what == kHerbaceous || what == kDeveloped;
    if (in == kDeveloped) return what == kForest || what == kHerbaceous || what == kBarren;
    if (in == kCultivated) return what == kForest || what == kHerbaceous || what == kDeveloped;
    return true;
  };
  for (Patch& patch : patches) {
    if (patch.kind == kWater) continue;
    KeyedRandom random{patch.key, kSaltInclusion};
    for (int attempt = 0; attempt < 100 && patch.minor == nullptr; ++attempt) {
      const Patch& other = patches[random.below(patches.size())];
      if (plausible(patch.kind, other.kind)) patch.minor = &other;
    }
  }
}

/// What ten years do: towns reach further, and some of their neighbours have become town.
void SynthCounty::State::grow() {
  constexpr double kReachMetres = 130;
  const std::vector<Patch> before = patches;
  for (int row = 1; row < cells - 1; ++row) {
    for (int column = 1; column < cells - 1; ++column) {
      const std::size_t at = static_cast<std::size_t>(row) * cells + column;
      Patch& patch = patches[at];
      if (before[at].kind == kWater || before[at].kind == kDeveloped) continue;
      bool beside_town = false;
      for (const std::size_t next : {at - 1, at + 1, at - cells, at + cells}) {
        beside_town = beside_town || before[next].kind == kDeveloped;
      }
      KeyedRandom random{patch.key, kSaltGrowth};
      if (beside_town && random.uniform() < 0.12) patch.kind = kDeveloped;
    }
  }
  for (Patch& patch : patches) {
    if (patch.kind == kDeveloped) patch.reach = 2 * kReachMetres * kPatchMetres / 2;
  }
}

/// From every town to the two nearest ones.
void SynthCounty::State::lay_roads() {
  std::vector<const Patch*> towns;
  for (const Patch& patch : patches) {
    if (patch.kind == kDeveloped) towns.push_back(&patch);
  }
  for (const Patch* town : towns) {
    std::vector<const Patch*> others;
    for (const Patch* other : towns) {
      if (other != town && std::abs(other->x - town->x) < 6 * kPatchMetres &&
          std::abs(other->y - town->y) < 6 * kPatchMetres) {
        others.push_back(other);
      }
    }
    const auto distance = [&](const Patch* other) {
      return std::hypot(other->x - town->x, other->y - town->y);
    };
    std::sort(others.begin(), others.end(),
              [&](const Patch* a, const Patch* b) { return distance(a) < distance(b); });
    KeyedRandom random{town->key, kSaltLot};
    for (std::size_t i = 0; i < std::min<std::size_t>(2, others.size()); ++i) {
      const Colour colour = mix({132, 130, 126}, {182, 172, 152}, random.uniform());
      roads.push_back(
          {town->x, town->y, others[i]->x, others[i]->y, random.uniform(2.5, 5), colour});
    }
  }
}

const Patch& SynthCounty::State::patch_at(double x, double y, bool with_inclusions) const {
  const auto wrapped = [](double metres) {
    return static_cast<std::size_t>(static_cast<std::int64_t>(std::floor(metres / kWarpStep)) &
                                    (kWarp - 1));
  };
  const std::size_t wx = wrapped(x);
  const std::size_t wy = wrapped(y);
  const auto fx = static_cast<float>(x / kWarpStep - std::floor(x / kWarpStep));
  const auto fy = static_cast<float>(y / kWarpStep - std::floor(y / kWarpStep));
  const std::size_t nx = (wx + 1) & (kWarp - 1);
  const std::size_t ny = (wy + 1) & (kWarp - 1);
  const auto look = [&](const std::vector<float>& table) {
    const float top =
        table[wy * kWarp + wx] + (table[wy * kWarp + nx] - table[wy * kWarp + wx]) * fx;
    const float bottom =
        table[ny * kWarp + wx] + (table[ny * kWarp + nx] - table[ny * kWarp + wx]) * fx;
    return static_cast<double>(top + (bottom - top) * fy);
  };
  const double bx = x + look(warp_x);
  const double by = y + look(warp_y);

  const double centre = river_x + river_bend * std::sin(y / 1900 + river_phase) +
                        0.3 * river_bend * std::sin(y / 640);
  if (std::abs(bx - centre) < river_half_width) return river;

  const int column = std::clamp(static_cast<int>(std::floor(bx / kPatchMetres)) + 1, 1, cells - 2);
  const int row = std::clamp(static_cast<int>(std::floor(by / kPatchMetres)) + 1, 1, cells - 2);
  const Patch* best = nullptr;
  double least = 1e300;
  for (int r = row - 1; r <= row + 1; ++r) {
    const Patch* candidates = patches.data() + static_cast<std::ptrdiff_t>(r) * cells + column - 1;
    for (int c = 0; c < 3; ++c) {
      const double dx = candidates[c].x - bx;
      const double dy = candidates[c].y - by;
      const double distance = dx * dx + dy * dy - candidates[c].reach;
      if (distance < least) {
        least = distance;
        best = candidates + c;
      }
    }
  }
  constexpr double kInclusionLevel = 1.75;  // standard deviations: 4 % of the land
  if (with_inclusions && best->minor != nullptr && look(inclusions) > kInclusionLevel)
    return *best->minor;
  return *best;
}

std::uint8_t SynthCounty::State::code(const Patch& patch, double x, double y) const {
  if (patch.kind != kDeveloped) return patch.code;
  const double distance = std::hypot(x - patch.x, y - patch.y);
  if (distance < 140) return 24;
  if (distance < 270) return 23;
  return distance < 440 ? 22 : 21;
}

/// Open ground with crowns on it: all kinds but fields and towns.
void SynthCounty::State::paint_cover(const Patch& p, std::int64_t y, std::int64_t x0,
                                     std::int64_t x1, std::uint8_t* rgb) const {
  const Crowns& crowns = p.trees ? *trees : *shrubs;
  const std::size_t row = static_cast<std::size_t>((y + p.offset_y) & kSwatchMask) * kSwatch;
  // The grain is read with another offset, so that no two patches share mottle and grain.
  const std::size_t grain_row =
      static_cast<std::size_t>((y + 3 * p.offset_y) & kSwatchMask) * kSwatch;
  const Colour ground = p.ground;
  const Colour crown = p.crown;
  const int mottle_strength = p.mottle;
  const int grain_strength = p.grain;
  const int gullies = p.gullies;
  for (std::int64_t x = x0; x < x1;) {
    const auto at = static_cast<std::size_t>((x + p.offset_x) & kSwatchMask);
    const auto grain_at = static_cast<std::size_t>((x + 5 * p.offset_x) & kSwatchMask);
    const auto length =
        std::min<std::int64_t>(x1 - x, kSwatch - static_cast<std::int64_t>(std::max(at, grain_at)));
    const std::int8_t* m = mottle.data() + row + at;
    const std::int8_t* g = grain.data() + grain_row + grain_at;
    const std::uint8_t* rank = crowns.rank.data() + row + at;
    const std::uint8_t* light = crowns.light.data() + row + at;
    const std::uint8_t* shadow = crowns.shadow_rank.data() + row + at;
    std::uint8_t* out = rgb + 3 * x;
    for (std::int64_t i = 0; i < length; ++i) {
      const int fine = (g[i] * grain_strength) / 32;
      int level = 128 + (m[i] * mottle_strength) / 32 + fine;
      level -= std::abs(m[i]) < 5 ? gullies : 0;
      const int dense = p.density == 0 ? -1 : p.density + m[i] * p.patchiness / 4;
      const bool in_crown = rank[i] < dense;
      level = !in_crown && shadow[i] < dense ? level * 5 / 8 : level;
      level = in_crown ? light[i] + fine : level;
      const Colour c = in_crown ? crown : ground;
      out[3 * i] = clamp_byte((c.r * level) >> 7);
      out[3 * i + 1] = clamp_byte((c.g * level) >> 7);
      out[3 * i + 2] = clamp_byte((c.b * level) >> 7);
    }
    x += length;
  }
}

namespace {

/// Walks along a row in a frame turned by the patch's angle: which cell of a grid, and where in it.
class TurnedGrid {
 public:
  TurnedGrid(const Patch& p, double x, double y)
      : du_(std::cos(p.angle)), dv_(-std::sin(p.angle)), size_u_(p.size_u), size_v_(p.size_v) {
    const double dx = x - p.x;
    const double dy = y - p.y;
    u_ = dx * du_ - dy * dv_;
    v_ = dx * dv_ + dy * du_;
    cell_u = static_cast<std::int64_t>(std::floor(u_ / size_u_));
    cell_v = static_cast<std::int64_t>(std::floor(v_ / size_v_));
    u_ -= static_cast<double>(cell_u) * size_u_;
    v_ -= static_cast<double>(cell_v) * size_v_;
  }

  /// One metre east. @return whether that is another cell
  bool step() {
    u_ += du_;
    v_ += dv_;
    bool crossed = false;
    if (u_ >= size_u_) u_ -= size_u_, ++cell_u, crossed = true;
    if (v_ >= size_v_) v_ -= size_v_, ++cell_v, crossed = true;
    if (v_ < 0) v_ += size_v_, --cell_v, crossed = true;
    return crossed;  // u only grows: the angle is well below a quarter turn
  }

  double u() const { return u_; }
  double v() const { return v_; }

  std::int64_t cell_u = 0;
  std::int64_t cell_v = 0;

 private:
  double du_, dv_, size_u_, size_v_;
  double u_ = 0, v_ = 0;
};

}  // namespace

/// Parcels with crops in rows. Some are pasture or fallow with hardly a row to be seen.
void SynthCounty::State::paint_fields(const Patch& p, std::int64_t y, std::int64_t x0,
                                      std::int64_t x1, std::uint8_t* rgb) const {
  TurnedGrid grid(p, static_cast<double>(x0), static_cast<double>(y));
  const std::size_t row = static_cast<std::size_t>((y + p.offset_y) & kSwatchMask) * kSwatch;
  const std::size_t grain_row =
      static_cast<std::size_t>((y + 3 * p.offset_y) & kSwatchMask) * kSwatch;
  Colour ground;
  double phase_per_m = 0;
  bool along_u = false;
  int stripes = 0;
  int grain_strength = 0;
  bool orchard = false;
  double spacing = 1;
  double crown_radius = 0;
  bool fresh = true;
  const double edge_m = 2 + static_cast<double>(p.key % 4);
  const bool hedges = (p.key >> 8) % 3 == 0;
  const Colour track = hedges ? Colour{66, 84, 56} : Colour{164, 150, 122};
  for (std::int64_t x = x0; x < x1; ++x) {
    if (fresh) {
      KeyedRandom random{p.key, kSaltParcel, static_cast<std::uint64_t>(grid.cell_u),
                         static_cast<std::uint64_t>(grid.cell_v)};
      // Rows lie as they lay; what grows in them changes with the year.
      along_u = random.uniform() < 0.5;
      phase_per_m = 256 / random.uniform(3.2, 9);
      const double strength = random.uniform();
      KeyedRandom crop{p.key, kSaltParcel, static_cast<std::uint64_t>(grid.cell_u),
                       static_cast<std::uint64_t>(grid.cell_v),
                       static_cast<std::uint64_t>(options.year)};
      ground = draw_ground(crop, {1, 3, 3, 3, 2, 3});
      orchard = p.code == 82 && random.uniform() < 0.15;
      spacing = random.uniform(6, 9);
      crown_radius = spacing * random.uniform(0.25, 0.42);
      stripes = orchard        ? 0
                : p.code == 81 ? static_cast<int>(strength * 6)
                               : 2 + static_cast<int>(strength * 16);
      grain_strength = p.grain + static_cast<int>(crop.below(4));
    }
    const auto at = static_cast<std::size_t>((x + p.offset_x) & kSwatchMask);
    const auto grain_at = static_cast<std::size_t>((x + 5 * p.offset_x) & kSwatchMask);
    const double u = grid.u();
    const double v = grid.v();
    const auto phase = static_cast<std::size_t>((along_u ? u : v) * phase_per_m) & 255;
    int level = 128 + (mottle[row + at] * p.mottle) / 32 +
                (grain[grain_row + grain_at] * grain_strength) / 32 + (wave[phase] * stripes) / 128;
    Colour c = ground;
    const bool at_edge = u < edge_m || v < edge_m;
    if (at_edge) {
      c = track;
    } else if (orchard) {
      const double du = u - (std::floor(u / spacing) + 0.5) * spacing;
      const double dv = v - (std::floor(v / spacing) + 0.5) * spacing;
      if (du * du + dv * dv < crown_radius * crown_radius) {
        c = p.crown;
        level += static_cast<int>(8 * (du + dv));
      }
    }
    if (shrubs->rank[row + at] < p.density) c = p.crown, level = shrubs->light[row + at];
    std::uint8_t* out = rgb + 3 * x;
    out[0] = clamp_byte((c.r * level) >> 7);
    out[1] = clamp_byte((c.g * level) >> 7);
    out[2] = clamp_byte((c.b * level) >> 7);
    fresh = grid.step();
  }
}

/// Blocks between streets, lots with a roof each in two rows, yards with grass and trees; large
/// roofs and paving in the middle, ever fewer houses towards the edge.
void SynthCounty::State::paint_town(const Patch& p, std::int64_t y, std::int64_t x0,
                                    std::int64_t x1, std::uint8_t* rgb) const {
  constexpr double kStreet = 8;
  TurnedGrid grid(p, static_cast<double>(x0), static_cast<double>(y));
  const std::size_t row = static_cast<std::size_t>((y + p.offset_y) & kSwatchMask) * kSwatch;
  const std::size_t grain_row =
      static_cast<std::size_t>((y + 3 * p.offset_y) & kSwatchMask) * kSwatch;
  const double lot = 18 + static_cast<double>(p.key % 12);
  const double half = (p.size_v - kStreet) / 2;
  const double least_share = 0.25 + 0.5 * static_cast<double>((p.key >> 16) % 256) / 256;
  const Colour street =
      mix({120, 120, 120}, {160, 156, 150}, static_cast<double>((p.key >> 24) % 256) / 256);
  std::int64_t lot_now = -1;
  bool fresh = true;
  bool centre = false;
  double block_share = 1;
  int block_density = 0;
  bool has_house = false;
  double roof_u0 = 0, roof_u1 = 0, roof_v0 = 0, roof_v1 = 0;
  Colour roof;
  for (std::int64_t x = x0; x < x1; ++x) {
    const double u = grid.u();
    const double v = grid.v();
    if (fresh) {
      lot_now = -1;
      const double distance =
          std::hypot(static_cast<double>(x) - p.x, static_cast<double>(y) - p.y);
      KeyedRandom random{p.key, kSaltLot, static_cast<std::uint64_t>(grid.cell_u),
                         static_cast<std::uint64_t>(grid.cell_v)};
      centre = random.uniform(60, 200) > distance;
      // Further out, more blocks have no house: woods or meadow between streets.
      const bool built = random.uniform() > std::min(0.6, (distance - 150) / 900);
      block_share = built ? 1 : 0;
      block_density = built ? p.density : draw_int(random, 0, 240);
    }
    const auto at = static_cast<std::size_t>((x + p.offset_x) & kSwatchMask);
    const auto grain_at = static_cast<std::size_t>((x + 5 * p.offset_x) & kSwatchMask);
    const int fine = (grain[grain_row + grain_at] * p.grain) / 32;
    int level = 128 + fine;
    Colour c;
    if (u < kStreet || v < kStreet) {
      c = street;
      level = 128 + fine / 2;
    } else {
      const bool second = v - kStreet >= half;
      const double width = centre ? 2.5 * lot : lot;
      const auto index = static_cast<std::int64_t>((u - kStreet) / width) * 2 + (second ? 1 : 0);
      if (index != lot_now) {
        lot_now = index;
        KeyedRandom random{p.key, kSaltLot, static_cast<std::uint64_t>(grid.cell_u),
                           static_cast<std::uint64_t>(grid.cell_v),
                           static_cast<std::uint64_t>(index)};
        const double distance =
            std::hypot(static_cast<double>(x) - p.x, static_cast<double>(y) - p.y);
        const double share =
            std::max(least_share * 0.7, 1.05 - distance / 620 * (1.2 - least_share));
        has_house = random.uniform() < share * block_share;
        const double left = kStreet + static_cast<double>(index / 2) * width;
        const double top = kStreet + (second ? half : 0);
        const double size_u = centre ? width * random.uniform(0.6, 0.9)
                                     : random.uniform(8, std::min(16.0, width - 3));
        const double size_v = centre ? half * random.uniform(0.6, 0.9) : random.uniform(8, 14);
        roof_u0 = left + random.uniform(1, std::max(1.5, width - size_u - 1));
        roof_u1 = roof_u0 + size_u;
        roof_v0 = top + random.uniform(2, std::max(2.5, half - size_v - 2));
        roof_v1 = roof_v0 + size_v;
        constexpr std::array<Colour, 5> kRoofs{Colour{150, 146, 142}, Colour{112, 106, 102},
                                               Colour{132, 100, 84}, Colour{196, 194, 190},
                                               Colour{92, 88, 88}};
        roof = scaled(kRoofs[random.below(kRoofs.size())], random.uniform(0.85, 1.15));
      }
      const bool in_roof = has_house && u >= roof_u0 && u < roof_u1 && v >= roof_v0 && v < roof_v1;
      const bool in_shadow =
          has_house && u >= roof_u0 - 4 && u < roof_u1 - 4 && v >= roof_v0 - 3 && v < roof_v1 - 3;
      const int dense =
          (centre ? p.density / 6 : block_density) + mottle[row + at] * p.patchiness / 4;
      if (in_roof) {
        c = roof;
        // A gable: one side of the ridge is in the light.
        level = !centre && v < (roof_v0 + roof_v1) / 2 ? 104 + fine / 2 : 128 + fine / 2;
      } else if (trees->rank[row + at] < dense) {
        c = p.crown;
        level = trees->light[row + at] + fine;
      } else {
        c = centre ? street : p.ground;
        level += (mottle[row + at] * p.mottle) / 32;
        if (in_shadow || trees->shadow_rank[row + at] < dense) level = level * 5 / 8;
      }
    }
    std::uint8_t* out = rgb + 3 * x;
    out[0] = clamp_byte((c.r * level) >> 7);
    out[1] = clamp_byte((c.g * level) >> 7);
    out[2] = clamp_byte((c.b * level) >> 7);
    fresh = grid.step();
  }
}

void SynthCounty::State::paint_row(std::int64_t y, const Patch* const* blocks,
                                   std::uint8_t* rgb) const {
  const std::int64_t count = (side + kLattice - 1) / kLattice;
  std::int64_t begin_px = 0;
  for (std::int64_t begin = 0; begin < count;) {
    std::int64_t end = begin + 1;
    while (end < count && blocks[end] == blocks[begin]) ++end;
    // Edges are ragged by a metre or two rather than in steps of the lattice.
    const std::int64_t ragged =
        end < count
            ? static_cast<std::int64_t>((static_cast<std::uint64_t>(y) * 2654435761U >> 13) % 4)
            : 0;
    const std::int64_t end_px = std::min(side, end * kLattice + ragged);
    const Patch& patch = *blocks[begin];
    if (end_px > begin_px) {
      switch (patch.kind) {
        case kCultivated:
          paint_fields(patch, y, begin_px, end_px, rgb);
          break;
        case kDeveloped:
          paint_town(patch, y, begin_px, end_px, rgb);
          break;
        default:
          paint_cover(patch, y, begin_px, end_px, rgb);
          break;
      }
    }
    begin_px = std::max(begin_px, end_px);
    begin = end;
  }
}

void SynthCounty::State::paint_roads(std::int64_t first, std::int64_t rows,
                                     std::uint8_t* rgb) const {
  for (const Road& road : roads) {
    const double dx = road.x1 - road.x0;
    const double dy = road.y1 - road.y0;
    const double length = std::hypot(dx, dy);
    const double top = std::min(road.y0, road.y1) - road.half_width_m;
    const double bottom = std::max(road.y0, road.y1) + road.half_width_m;
    if (bottom < static_cast<double>(first) || top > static_cast<double>(first + rows)) continue;
    for (std::int64_t y = first; y < first + rows; ++y) {
      const double ry = static_cast<double>(y) - road.y0;
      // Within half a width of the line: |dx ry - dy rx| <= w length, and between its ends: 0 <= dx
      // rx + dy ry <= length^2.
      const double w = road.half_width_m * length;
      double low = -1e9;
      double high = 1e9;
      if (std::abs(dy) > 1e-9) {
        const double a = (dx * ry - w) / dy;
        const double b = (dx * ry + w) / dy;
        low = std::min(a, b);
        high = std::max(a, b);
      } else if (std::abs(dx * ry) > w) {
        continue;
      }
      if (std::abs(dx) > 1e-9) {
        const double a = -dy * ry / dx;
        const double b = (length * length - dy * ry) / dx;
        low = std::max(low, std::min(a, b));
        high = std::min(high, std::max(a, b));
      } else if (dy * ry < 0 || dy * ry > length * length) {
        continue;
      }
      const auto x0 =
          std::max<std::int64_t>(0, static_cast<std::int64_t>(std::ceil(road.x0 + low)));
      const auto x1 =
          std::min<std::int64_t>(side - 1, static_cast<std::int64_t>(std::floor(road.x0 + high)));
      const std::size_t row = static_cast<std::size_t>(y & kSwatchMask) * kSwatch;
      std::uint8_t* line = rgb + 3 * (y - first) * side;
      for (std::int64_t x = x0; x <= x1; ++x) {
        const int level = 128 + grain[row + static_cast<std::size_t>(x & kSwatchMask)] / 6;
        line[3 * x] = clamp_byte((road.colour.r * level) >> 7);
        line[3 * x + 1] = clamp_byte((road.colour.g * level) >> 7);
        line[3 * x + 2] = clamp_byte((road.colour.b * level) >> 7);
      }
    }
  }
}

SynthCounty::SynthCounty(const SynthOptions& options) : state_(std::make_unique<State>()) {
  if (options.tiles_across < 1 || options.tiles_across > kMaxTilesAcross) {
    throw UsageError(fmt::format("--tiles_across is {}, but must be from 1 to {}",
                                 options.tiles_across, kMaxTilesAcross));
  }
  if (options.year != 0 && options.year != 1) {
    throw UsageError(fmt::format("--year is {}, but must be 0 or 1", options.year));
  }
  State& state = *state_;
  state.options = options;
  state.side = static_cast<std::int64_t>(kTileMetres) * options.tiles_across;
  KeyedRandom textures{options.seed, kStreamSynth, kSaltSwatch};
  state.mottle = noise_bytes(kSwatch, {128, 64, 32, 16, 8}, textures);
  state.grain = noise_bytes(kSwatch, {4, 2, 1}, textures);
  state.trees = std::make_unique<Crowns>(2.2, 5.0, 3.2, textures);
  state.shrubs = std::make_unique<Crowns>(1.0, 2.6, 1.6, textures);
  for (std::size_t i = 0; i < state.wave.size(); ++i) {
    state.wave[i] = static_cast<std::int8_t>(
        std::lround(127 * std::sin(static_cast<double>(i) / 256 * 2 * 3.14159265358979)));
  }
  KeyedRandom bends{options.seed, kStreamSynth, kSaltWarp};
  state.warp_x = fractal_noise(kWarp, {64, 32, 16, 8, 4}, bends);
  state.warp_y = fractal_noise(kWarp, {64, 32, 16, 8, 4}, bends);
  state.inclusions = fractal_noise(kWarp, {32, 16, 8}, bends);
  for (auto* table : {&state.warp_x, &state.warp_y}) {
    for (float& value : *table) value *= 48;  // metres
  }
  state.deal_patches();
  state.lay_roads();
  if (options.year == 1) state.grow();
  state.choose_inclusions();

  KeyedRandom water{options.seed, kStreamSynth, kSaltRiver};
  const auto side = static_cast<double>(state.side);
  state.river_x = side * water.uniform(0.25, 0.75);
  state.river_bend = std::min(side * 0.1, 700.0) * water.uniform(0.5, 1);
  state.river_phase = water.uniform(0, 6.28);
  state.river_half_width = std::min(60.0, 12 + side / 600);
  state.river.kind = kWater;
  state.river.key = water.next();

  // Another day, another light: colours do not carry over from one county or year to the next as
  // they are.
  KeyedRandom light{options.seed, kStreamSynth, kSaltCounty,
                    static_cast<std::uint64_t>(options.year)};
  const double gain = light.uniform(0.93, 1.07);
  const double red = gain * light.uniform(0.97, 1.03);
  const double blue = gain * light.uniform(0.97, 1.03);
  const auto lit = [&](Colour c) {
    return Colour{static_cast<int>(c.r * red), static_cast<int>(c.g * gain),
                  static_cast<int>(c.b * blue)};
  };
  for (Patch& patch : state.patches) {
    state.make_look(patch);
    patch.ground = lit(patch.ground);
    patch.crown = lit(patch.crown);
  }
  state.make_look(state.river);
}

SynthCounty::~SynthCounty() = default;

std::int64_t SynthCounty::side_px() const { return state_->side; }
const char* SynthCounty::crs() { return "EPSG:26918"; }
const char* SynthCounty::land_cover_crs() { return "EPSG:5070"; }

PixelToMap SynthCounty::pixel_to_map() const {
  // Counties of neighbouring seeds lie apart, so that a map shows them side by side.
  const auto place = static_cast<double>(state_->options.seed % 8);
  return {
      {300000 + 60000 * std::fmod(place, 4), 1, 0, 4500000 - 60000 * std::floor(place / 4), 0, -1}};
}

std::uint8_t SynthCounty::code_at(double east_m, double south_m) const {
  const auto side = static_cast<double>(state_->side);
  if (!(east_m >= 0 && south_m >= 0 && east_m < side && south_m < side)) return 0;
  return state_->code(state_->patch_at(east_m, south_m, false), east_m, south_m);
}

void SynthCounty::paint(std::int64_t first, std::int64_t rows, std::span<std::uint8_t> rgb) const {
  const State& state = *state_;
  const std::int64_t count = (state.side + kLattice - 1) / kLattice;
  std::vector<const Patch*> blocks(static_cast<std::size_t>(count));
  std::int64_t lattice_row = -1;
  for (std::int64_t y = first; y < first + rows; ++y) {
    if (y / kLattice != lattice_row) {
      lattice_row = y / kLattice;
      const double at = (static_cast<double>(lattice_row) + 0.5) * kLattice;
      for (std::int64_t i = 0; i < count; ++i) {
        blocks[static_cast<std::size_t>(i)] =
            &state.patch_at((static_cast<double>(i) + 0.5) * kLattice, at, true);
      }
    }
    state.paint_row(y, blocks.data(), rgb.data() + 3 * (y - first) * state.side);
  }
  state.paint_roads(first, rows, rgb.data());
}

namespace {

/// NLCD's own colours, so that the map looks familiar in QGIS.
std::vector<std::array<std::uint8_t, 4>> land_cover_palette() {
  std::vector<std::array<std::uint8_t, 4>> palette(256, {0, 0, 0, 255});
  const auto set = [&](std::size_t code, std::uint8_t r, std::uint8_t g, std::uint8_t b) {
    palette[code] = {r, g, b, 255};
  };
  set(11, 70, 107, 159);
  set(21, 222, 197, 197);
  set(22, 217, 146, 130);
  set(23, 235, 0, 0);
  set(24, 171, 0, 0);
  set(31, 179, 172, 159);
  set(41, 104, 171, 95);
  set(42, 28, 95, 44);
  set(43, 181, 197, 143);
  set(52, 204, 184, 121);
  set(71, 223, 223, 194);
  set(81, 220, 217, 57);
  set(82, 171, 108, 40);
  set(90, 184, 217, 235);
  set(95, 108, 159, 184);
  return palette;
}

/// @return false where a stop signal came
bool write_land_cover(const SynthCounty& county, const Path& path) {
  constexpr double kPixel = 30;
  const PixelToMap image = county.pixel_to_map();
  const Projector to_albers(SynthCounty::crs(), SynthCounty::land_cover_crs());
  const Projector to_county(SynthCounty::land_cover_crs(), SynthCounty::crs());
  const auto side = static_cast<double>(county.side_px());
  std::vector<Point> border;
  for (int i = 0; i <= 16; ++i) {
    const double t = side * i / 16;
    for (const Point at : {image.at(t, 0), image.at(t, side), image.at(0, t), image.at(side, t)})
      border.push_back(at);
  }
  to_albers.transform(border);
  double west = 1e300, east = -1e300, south = 1e300, north = -1e300;
  for (const Point& point : border) {
    west = std::min(west, point.x);
    east = std::max(east, point.x);
    south = std::min(south, point.y);
    north = std::max(north, point.y);
  }
  RasterLayout layout;
  // On the national raster's grid, a pixel beyond the county on all sides.
  west = (std::floor(west / kPixel) - 1) * kPixel;
  north = (std::ceil(north / kPixel) + 1) * kPixel;
  layout.width_px = static_cast<std::int64_t>(std::ceil((east - west) / kPixel)) + 1;
  layout.height_px = static_cast<std::int64_t>(std::ceil((north - south) / kPixel)) + 1;
  layout.pixel_to_map = {{west, kPixel, 0, north, 0, -kPixel}};
  layout.crs = SynthCounty::land_cover_crs();
  layout.compression = "lzw";
  layout.nodata = 0;
  layout.palette = land_cover_palette();
  RasterWriter writer(path, layout);
  constexpr std::int64_t kBand = 256;  // rows of GeoTIFF blocks
  std::vector<std::uint8_t> codes;
  std::vector<Point> centres(static_cast<std::size_t>(layout.width_px));
  for (std::int64_t first = 0; first < layout.height_px; first += kBand) {
    if (stop_signal() != 0) return false;
    const std::int64_t rows = std::min(kBand, layout.height_px - first);
    codes.resize(static_cast<std::size_t>(rows * layout.width_px));
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::size_t c = 0; c < centres.size(); ++c) {
        centres[c] = layout.pixel_to_map.at(static_cast<double>(c) + 0.5,
                                            static_cast<double>(first + row) + 0.5);
      }
      to_county.transform(centres);
      for (std::size_t c = 0; c < centres.size(); ++c) {
        const Point at = image.inverse(centres[c]);
        codes[static_cast<std::size_t>(row * layout.width_px) + c] = county.code_at(at.x, at.y);
      }
    }
    writer.write_rows(rows, codes);
  }
  writer.close();
  return true;
}

}  // namespace

bool write_synth_county(const SynthOptions& options, const Path& image, const Path& land_cover,
                        const std::string& compression, bool progress) {
  const SynthCounty county(options);
  if (!write_land_cover(county, land_cover)) return false;

  RasterLayout layout;
  layout.width_px = county.side_px();
  layout.height_px = county.side_px();
  layout.bands = 3;
  layout.pixel_to_map = county.pixel_to_map();
  layout.crs = SynthCounty::crs();
  layout.compression = compression;
  RasterWriter writer(image, layout);
  const int threads = options.threads > 0
                          ? options.threads
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  constexpr std::int64_t kBand = 256;  // rows of GeoTIFF blocks
  const std::int64_t side = county.side_px();
  std::vector<std::uint8_t> rgb(static_cast<std::size_t>(3 * side * std::min(kBand, side)));
  Progress bar("painting", "rows", static_cast<std::uint64_t>(side), progress);
  for (std::int64_t first = 0; first < side; first += kBand) {
    if (stop_signal() != 0) return false;
    const std::int64_t rows = std::min(kBand, side - first);
    std::vector<std::jthread> workers;
    std::vector<std::exception_ptr> failures(static_cast<std::size_t>(threads));
    // Pieces begin on the lattice, so that each looks its patches up once.
    const std::int64_t piece = (rows / threads / kLattice + 1) * kLattice;
    for (int i = 0; i < threads; ++i) {
      const std::int64_t begin = std::min(rows, i * piece);
      const std::int64_t end = std::min(rows, begin + piece);
      if (begin == end) break;
      workers.emplace_back([&, i, begin, end] {
        try {
          county.paint(first + begin, end - begin,
                       std::span(rgb).subspan(static_cast<std::size_t>(3 * begin * side),
                                              static_cast<std::size_t>(3 * (end - begin) * side)));
        } catch (...) {
          failures[static_cast<std::size_t>(i)] = std::current_exception();
        }
      });
    }
    workers.clear();
    for (const std::exception_ptr& failure : failures) {
      if (failure) std::rethrow_exception(failure);
    }
    writer.write_rows(rows, std::span(rgb).first(static_cast<std::size_t>(3 * rows * side)));
    bar.update(static_cast<std::uint64_t>(first + rows));
  }
  bar.finish();
  writer.close();
  return true;
}

}  // namespace quadrat::geo
