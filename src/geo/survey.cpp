#include "survey.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat::geo {

using nlohmann::json;

namespace {

SurveyedImage survey(const std::string& path) {
  const Raster raster = Raster::open_imagery(path);
  SurveyedImage image;
  image.path = path;
  image.name = tile_prefix(path);
  image.folder = std::filesystem::absolute(path).lexically_normal().parent_path().string();
  image.fingerprint = file_fingerprint(path);
  image.width_px = raster.width_px();
  image.height_px = raster.height_px();
  image.columns = image.width_px / kTilePx;
  image.rows = image.height_px / kTilePx;
  image.resampled = raster.is_resampled();
  image.outgrows_cache = raster.outgrows_cache();
  image.pixel_to_map = raster.pixel_to_map();
  image.crs_wkt = raster.crs_wkt();
  if (image.tiles() == 0) {
    throw InputError("cut image", path,
                     fmt::format("it covers {} x {} m, a tile is {} x {} m", image.width_px,
                                 image.height_px, kTilePx, kTilePx),
                     "leave it out, or use a larger one");
  }
  return image;
}

}  // namespace

std::string tile_prefix(const Path& path) {
  std::string name = path.stem().string();
  for (char& c : name) {
    if (!is_plain_name(std::string_view(&c, 1))) c = '_';
  }
  return name;
}

std::string file_fingerprint(const std::string& path) {
  struct stat status {};
  // What GDAL opens need not be a file: /vsizip/..., /vsicurl/...
  if (::stat(path.c_str(), &status) != 0) return "-";
  return fmt::format("{}.{}.{}", status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

std::vector<json> share(const json& mine, const mpi::Communicator& ranks) {
  const std::vector<std::uint8_t> bytes = json::to_cbor(mine);
  const std::vector<Bytes> all = ranks.gather(std::as_bytes(std::span(bytes)));
  json list = json::array();
  for (const Bytes& part : all) {
    list.push_back(
        json::from_cbor(reinterpret_cast<const std::uint8_t*>(part.data()),
                        reinterpret_cast<const std::uint8_t*>(part.data() + part.size())));
  }
  const std::vector<std::uint8_t> packed =
      ranks.is_root() ? json::to_cbor(list) : std::vector<std::uint8_t>{};
  const auto view = std::as_bytes(std::span(packed));
  const Bytes sent = ranks.broadcast(Bytes(view.begin(), view.end()));
  const json result =
      json::from_cbor(reinterpret_cast<const std::uint8_t*>(sent.data()),
                      reinterpret_cast<const std::uint8_t*>(sent.data() + sent.size()));
  return {result.begin(), result.end()};
}

std::int64_t SurveyedImage::past_edge() const {
  const auto whole_and_part = [](std::int64_t px) { return (px + kTilePx - 1) / kTilePx; };
  return whole_and_part(width_px) * whole_and_part(height_px) - tiles();
}

std::vector<SurveyedImage> survey_images(const std::vector<std::string>& paths,
                                         const mpi::Communicator& ranks) {
  json mine = json::array();
  mpi::together(ranks, [&] {
    const auto size = static_cast<std::size_t>(ranks.size());
    for (std::size_t i = static_cast<std::size_t>(ranks.rank()); i < paths.size(); i += size) {
      const SurveyedImage image = survey(paths[i]);
      mine.push_back({image.path, image.name, image.folder, image.fingerprint, image.width_px,
                      image.height_px, image.resampled, image.outgrows_cache, image.pixel_to_map.k,
                      image.crs_wkt});
    }
  });
  std::vector<SurveyedImage> images;
  for (const json& part : share(mine, ranks)) {
    for (const json& fields : part) {
      SurveyedImage image;
      image.path = fields[0];
      image.name = fields[1];
      image.folder = fields[2];
      image.fingerprint = fields[3];
      image.width_px = fields[4];
      image.height_px = fields[5];
      image.resampled = fields[6];
      image.outgrows_cache = fields[7];
      image.pixel_to_map.k = fields[8];
      image.crs_wkt = fields[9];
      image.columns = image.width_px / kTilePx;
      image.rows = image.height_px / kTilePx;
      images.push_back(std::move(image));
    }
  }
  std::sort(images.begin(), images.end(),
            [](const SurveyedImage& a, const SurveyedImage& b) { return a.name < b.name; });
  mpi::together(ranks, [&] {
    for (std::size_t i = 1; i < images.size(); ++i) {
      if (images[i].name != images[i - 1].name) continue;
      throw UsageError(fmt::format(
          "--image has '{}' and '{}', whose tiles would both be called {}_0.png: rename one",
          images[i - 1].path, images[i].path, images[i].name));
    }
  });
  return images;
}

}  // namespace quadrat::geo
