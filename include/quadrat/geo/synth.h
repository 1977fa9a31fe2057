#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "quadrat/base/files.h"
#include "quadrat/geo/raster.h"

namespace quadrat::geo {

struct SynthOptions {
  std::uint64_t seed = 0;
  std::int64_t tiles_across = 24;  ///< the county is a square of this many 224 m tiles
  std::int64_t year = 0;  ///< 1: towns have grown, other crops stand in the fields, another light
  int threads = 0;        ///< 0: one for each core
};

/// A make-believe county. What lies where is a pure function of (seed, year, place): patches of
/// about 900 m (a jittered Voronoi grid with warped edges), dealt to the six classes and water in
/// equal shares, and a river. Every patch draws its own colours and its own density of shrubs,
/// trees, houses, so that classes overlap.
class SynthCounty {
 public:
  /// Metres between places where the patch is looked up: rows from a multiple of it on are painted
  /// quickest.
  static constexpr int kLattice = 4;

  /// @throws UsageError for a county that cannot be
  explicit SynthCounty(const SynthOptions& options);
  ~SynthCounty();
  SynthCounty(const SynthCounty&) = delete;
  SynthCounty& operator=(const SynthCounty&) = delete;

  std::int64_t side_px() const;         ///< = metres
  PixelToMap pixel_to_map() const;      ///< in crs(), 1 m pixels
  static const char* crs();             ///< NAD83 / UTM 18N, as NAIP has it there
  static const char* land_cover_crs();  ///< CONUS Albers, as NLCD has it

  /// NLCD code at metres east and south of the county's north-west corner; 0 outside the county.
  std::uint8_t code_at(double east_m, double south_m) const;

  /// Rows [first, first + rows) of the 1 m image. @param rgb [rows, side_px, 3]
  void paint(std::int64_t first, std::int64_t rows, std::span<std::uint8_t> rgb) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The county's 1 m RGB image and its 30 m land cover (codes as NLCD's, its colours, its
/// projection), as GeoTIFFs.
/// @param compression of the image: none, lzw, deflate, jpeg @param progress shown on stderr
/// @return false where a stop signal came (see base/signals.h): what was not finished is not there
bool write_synth_county(const SynthOptions& options, const Path& image, const Path& land_cover,
                        const std::string& compression, bool progress);

}  // namespace quadrat::geo
