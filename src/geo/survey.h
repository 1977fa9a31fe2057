#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "quadrat/geo/cut.h"
#include "quadrat/geo/land_cover.h"
#include "quadrat/geo/raster.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat::geo {

/// One image and the grid of whole tiles on it, from its north-west corner.
struct SurveyedImage {
  std::string path;
  std::string name;         ///< what its tiles are called after
  std::string folder;       ///< the name of the folder it is in
  std::string fingerprint;  ///< its size and time: another file under its name is another image
  std::int64_t width_px = 0;
  std::int64_t height_px = 0;
  std::int64_t columns = 0;
  std::int64_t rows = 0;
  bool resampled = false;
  PixelToMap pixel_to_map;
  std::string crs_wkt;

  std::int64_t tiles() const { return columns * rows; }
  /// Tiles that would need pixels beyond the image's edge.
  std::int64_t past_edge() const;
};

/// Opens all images, each on one rank; sorted by name, the same on all ranks.
/// @throws InputError for two images of one name, one smaller than a tile, or what
/// Raster::open_imagery refuses
std::vector<SurveyedImage> survey_images(const std::vector<std::string>& paths,
                                         const mpi::Communicator& ranks);

/// A tile's place in the plan.
struct PlannedTile {
  Fate fate = Fate::kWanted;
  std::int8_t label = ClassTable::kNoClass;
};

/// What becomes of every tile of the grid.
struct CutPlan {
  std::vector<std::string> classes;              ///< empty without labels
  std::vector<std::vector<PlannedTile>> images;  ///< [image][row * columns + column]
  std::vector<std::uint8_t> set_of_image;  ///< 0 train, 1 validation; all 0 where there are no sets
  std::map<std::int32_t, std::uint64_t>
      codes_without_class;  ///< land cover code: tiles it discarded

  Bytes serialize() const;
  static CutPlan deserialize(std::span<const std::byte> bytes);
};

inline constexpr std::array<const char*, 2> kSetNames{"train", "validation"};

/// Labels, splits and balances. Collective; the same on all ranks.
CutPlan make_plan(const CutOptions& options, const std::vector<SurveyedImage>& images,
                  const mpi::Communicator& ranks);

/// Copies a tile out of a row of tiles. @return how many of its pixels are black
std::int64_t copy_tile(std::span<const std::uint8_t> strip, std::int64_t strip_width_px,
                       std::int64_t column_px, std::span<std::uint8_t> tile);

/// Calls `use(column, tile)` for each wanted tile of a row of the grid, reading as few strips as it
/// can.
/// @param wanted per column
void for_tiles_in_row(
    Raster& raster, std::int64_t row, const std::vector<bool>& wanted,
    const std::function<void(std::int64_t column, std::span<const std::uint8_t> tile,
                             std::int64_t black_px)>& use);

}  // namespace quadrat::geo
