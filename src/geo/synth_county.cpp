#include "synth_county.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quadrat/base/error.h"

namespace quadrat::geo {

namespace synth {

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

int draw_int(KeyedRandom& random, int low, int high) {
  return low + static_cast<int>(random.below(static_cast<std::uint64_t>(high - low + 1)));
}

}  // namespace synth

using namespace synth;

namespace {

constexpr double kTileMetres = 224;
constexpr double kPatchMetres = 750;
constexpr std::int64_t kMaxTilesAcross =
    1024;                        // 229 km: no county is larger, and GeoTIFF coordinates are ints
constexpr int kWarp = 512;       // side of the table that bends patch edges
constexpr double kWarpStep = 8;  // metres between its entries

/// What patches are dealt from, so that even a small county has all kinds in even shares.
constexpr std::array<Kind, 19> kDeck{kBarren, kCultivated, kDeveloped, kForest, kHerbaceous, kShrub,
                                     kBarren, kCultivated, kDeveloped, kForest, kHerbaceous, kShrub,
                                     kBarren, kCultivated, kDeveloped, kForest, kHerbaceous, kShrub,
                                     kWater};

}  // namespace

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
  struct Range {
    int low, high;
  };
  const auto draw_cover = [&](Range mottles, Range grains, Range densities) {
    p.mottle = draw_int(random, mottles.low, mottles.high);
    p.grain = draw_int(random, grains.low, grains.high);
    p.density = draw_int(random, densities.low, densities.high);
  };
  switch (p.kind) {
    case kBarren:
      p.code = 31;
      p.ground = draw_ground(random, {4, 3, 3, 0.4, 2, 0.1});
      if (random.uniform() < 0.85) p.crown = scaled(p.ground, random.uniform(0.6, 0.85));  // rocks
      draw_cover({10, 24}, {9, 16}, {0, 28});
      p.patchiness = 1;
      p.gullies = draw_int(random, 16, 40);
      break;
    case kHerbaceous:
      p.code = random.uniform() < 0.85 ? 71 : 95;
      p.ground = draw_ground(random, {1, 2, 4, 4, 1.5, 2});
      draw_cover({8, 20}, {4, 10}, {0, 22});
      p.patchiness = 1;
      p.gullies = draw_int(random, 0, 8);
      break;
    case kShrub:
      p.code = 52;
      p.ground = draw_ground(random, {1, 3, 3, 3, 2, 1.5});
      draw_cover({8, 20}, {5, 12}, {28, 180});
      p.patchiness = 2;
      p.gullies = draw_int(random, 0, 10);
      break;
    case kForest: {
      constexpr std::array<std::uint8_t, 4> kCodes{41, 42, 43, 90};
      p.code = kCodes[random.below(4)];
      p.ground = scaled(draw_ground(random, {0, 1, 1, 3, 2, 3}), 0.85);
      draw_cover({6, 14}, {5, 13}, {80, 250});
      p.patchiness = 2;
      p.trees = true;
      break;
    }
    case kCultivated:
      p.code = random.uniform() < 0.7 ? 82 : 81;
      draw_cover({5, 15}, {4, 10}, {0, 8});
      p.size_u = random.uniform(170, 420) * (p.code == 81 ? 1.5 : 1);
      p.size_v = random.uniform(120, 300) * (p.code == 81 ? 1.5 : 1);
      break;
    case kDeveloped:
      p.code = 22;
      p.ground = draw_ground(random, {0.5, 2, 2, 4, 1, 2});
      draw_cover({6, 14}, {5, 12}, {6, 170});
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

}  // namespace quadrat::geo
