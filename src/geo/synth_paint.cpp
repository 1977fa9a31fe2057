#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "synth_county.h"

namespace quadrat::geo {

using namespace synth;

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

}  // namespace quadrat::geo
