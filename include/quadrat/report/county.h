#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quadrat/geo/raster.h"
#include "quadrat/record/score_record.h"

namespace quadrat::report {

/// Tiles of a county on the grid they were cut by, found from their corners.
struct TileGrid {
  static constexpr std::int32_t kNoTile = -1;

  std::string crs;    ///< the projection in which tiles stand upright: "EPSG:26919" and the like
  double side_m = 0;  ///< of a tile
  double left = 0;    ///< easting of the west edge
  double top = 0;     ///< northing of the north edge
  std::uint32_t width = 0;  ///< in tiles
  std::uint32_t height = 0;
  std::vector<std::int32_t>
      tile_at;  ///< [height, width] from the north west: index of the tile, or kNoTile
  std::vector<std::uint32_t> cell_of;  ///< the cell of each tile
  std::size_t covered = 0;             ///< tiles whose cell another one took (images that overlap)

  /// Whether the tile has its cell, and not another one.
  bool shows(std::size_t tile) const {
    return tile_at[cell_of[tile]] == static_cast<std::int32_t>(tile);
  }
  std::size_t shown() const { return cell_of.size() - covered; }
  double tile_area_km2() const { return side_m * side_m * 1e-6; }
  geo::PixelToMap pixel_to_map() const { return {{left, side_m, 0, top, 0, -side_m}}; }
};

/// The projection is the one of UTM zones nearby (NAD 83, as NAIP) and Albers in which tiles stand
/// straightest. Where images have grids of their own, tiles go to the nearest cell of the common
/// one: half a tile off at most.
/// @throws InputError where corners are none of a tile's, or lie too far apart for a map
TileGrid find_grid(const std::vector<TileCorners>& corners);

/// The class most of the 3x3 cells around have, for each tile; where several have as many, the
/// tile's own if it is one of them, else the first of them in index order. Cells without a tile
/// have no say.
std::vector<std::uint16_t> smooth(const TileGrid& grid,
                                  const std::vector<std::uint16_t>& classes_of_tiles,
                                  std::size_t classes);

/// A tile that an earlier and a later map both have.
struct Pair {
  std::size_t before = 0;
  std::size_t after = 0;
};
/// Tiles of the two records at the same place: by grid cell where both have corners, else by name.
/// With a grid, none that it does not show.
/// @throws InputError where they have other classes or no tile in common
std::vector<Pair> match(const ScoreRecord& before, const ScoreRecord& after, const TileGrid* grid);

/// counts[from * classes + to]
std::vector<std::int64_t> transitions(const std::vector<Pair>& pairs,
                                      const std::vector<std::uint16_t>& before,
                                      const std::vector<std::uint16_t>& after, std::size_t classes);

/// Sets the record's corners from quadrat-cut's tile_summaries.csv, by tile name.
/// @throws InputError naming the line, or the first tile that is not in it
void add_corners(ScoreRecord& record, const Path& tile_summaries);

}  // namespace quadrat::report
