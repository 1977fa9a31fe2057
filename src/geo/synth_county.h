#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "quadrat/base/random.h"
#include "quadrat/geo/synth.h"
#include "synth_texture.h"

namespace quadrat::geo {

namespace synth {

enum Kind : std::uint8_t { kBarren, kCultivated, kDeveloped, kForest, kHerbaceous, kShrub, kWater };

/// What is random for each purpose follows from the county's seed and one of these.
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

/// The bare or grassy ground that open land shares, by how common each is: two of these, mixed.
/// Kinds differ in the weights only, so that colour alone tells them apart badly.
Colour draw_ground(KeyedRandom& random, const std::array<double, 6>& weights);

/// A whole number from low to high.
int draw_int(KeyedRandom& random, int low, int high);

}  // namespace synth

/// What lies where (synth_county.cpp), and what it looks like from above (synth_paint.cpp).
struct SynthCounty::State {
  SynthOptions options;
  std::int64_t side = 0;
  int cells = 0;  // patches across, with one more around the county on each side
  std::vector<synth::Patch> patches;
  synth::Patch river;
  double river_x = 0, river_bend = 0, river_phase = 0, river_half_width = 0;
  std::vector<synth::Road> roads;
  std::vector<float> warp_x, warp_y, inclusions;
  std::vector<std::int8_t> mottle, grain;
  std::unique_ptr<synth::Crowns> trees, shrubs;
  std::array<std::int8_t, 256> wave{};  // one period of a sine

  void deal_patches();
  void make_look(synth::Patch& patch) const;
  void grow();
  void lay_roads();
  void choose_inclusions();
  const synth::Patch& patch_at(double x, double y, bool with_inclusions) const;
  std::uint8_t code(const synth::Patch& patch, double x, double y) const;
  void paint_row(std::int64_t y, const synth::Patch* const* blocks, std::uint8_t* rgb) const;
  void paint_cover(const synth::Patch& p, std::int64_t y, std::int64_t x0, std::int64_t x1,
                   std::uint8_t* rgb) const;
  void paint_fields(const synth::Patch& p, std::int64_t y, std::int64_t x0, std::int64_t x1,
                    std::uint8_t* rgb) const;
  void paint_town(const synth::Patch& p, std::int64_t y, std::int64_t x0, std::int64_t x1,
                  std::uint8_t* rgb) const;
  void paint_roads(std::int64_t first, std::int64_t rows, std::uint8_t* rgb) const;
};

}  // namespace quadrat::geo
