#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "quadrat/geo/cut.h"
#include "quadrat/geo/raster.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat::geo {

/// One image and the grid of whole tiles on it, from its north-west corner.
struct SurveyedImage {
  std::string path;
  std::string name;         ///< what its tiles are called after
  std::string folder;       ///< that it is in, absolute
  std::string fingerprint;  ///< its size and time: another file under its name is another image
  std::int64_t width_px = 0;
  std::int64_t height_px = 0;
  std::int64_t columns = 0;
  std::int64_t rows = 0;
  bool resampled = false;
  bool outgrows_cache = false;  ///< as Raster::outgrows_cache()
  PixelToMap pixel_to_map;
  std::string crs_wkt;

  std::int64_t tiles() const { return columns * rows; }
  /// Tiles that would need pixels beyond the image's edge.
  std::int64_t past_edge() const;
};

/// An image's name as its tiles carry it: what is not plain becomes '_'.
std::string tile_prefix(const Path& path);

/// A file's size and time of change; "-" for what is no file: /vsizip/..., /vsicurl/...
std::string file_fingerprint(const std::string& path);

/// Opens all images, each on one rank; sorted by name, the same on all ranks.
/// @throws InputError for two images of one name, one smaller than a tile, or what
/// Raster::open_imagery refuses
std::vector<SurveyedImage> survey_images(const std::vector<std::string>& paths,
                                         const mpi::Communicator& ranks);

/// What each rank has to say, on all of them. Collective.
std::vector<nlohmann::json> share(const nlohmann::json& mine, const mpi::Communicator& ranks);

}  // namespace quadrat::geo
