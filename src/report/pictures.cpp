#include "pictures.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "html.h"
#include "quadrat/base/error.h"
#include "quadrat/image/png.h"
#include "quadrat/tiles/shard.h"

namespace quadrat::report {

namespace {

/// A name from a record, which must not lead out of the folder.
bool stays_inside(const std::string& name) {
  const Path path(name);
  return !name.empty() && path.is_relative() &&
         std::none_of(path.begin(), path.end(), [](const Path& part) { return part == ".."; });
}

std::string thumbnail_uri(const Image& image) {
  const std::uint32_t width = std::min(image.width_px, TilePictures::kSide);
  const std::uint32_t height = std::min(image.height_px, TilePictures::kSide);
  std::vector<std::uint8_t> small;
  small.reserve(std::size_t{3} * width * height);
  const auto part = [](std::uint64_t i, std::uint64_t from, std::uint64_t to) {
    return i * from / to;
  };
  for (std::uint32_t y = 0; y < height; ++y) {
    for (std::uint32_t x = 0; x < width; ++x) {
      std::uint64_t sums[3] = {0, 0, 0};
      std::uint64_t count = 0;
      for (std::uint64_t v = part(y, image.height_px, height);
           v < part(y + 1, image.height_px, height); ++v) {
        for (std::uint64_t u = part(x, image.width_px, width);
             u < part(x + 1, image.width_px, width); ++u) {
          for (std::size_t c = 0; c < 3; ++c)
            sums[c] += image.rgb[3 * (v * image.width_px + u) + c];
          ++count;
        }
      }
      for (const std::uint64_t sum : sums)
        small.push_back(static_cast<std::uint8_t>((sum + count / 2) / count));
    }
  }
  return png_uri(small, width, height);
}

}  // namespace

TilePictures::TilePictures(Path tiles) : folder_(std::move(tiles)) {
  if (folder_.empty() || !has_shard_index(folder_)) return;
  try {
    catalog_ = list_tiles(folder_);
    shards_ = std::make_unique<TileReader>(catalog_);
  } catch (const Error&) {
    folder_.clear();
  }
}

Bytes TilePictures::read(const std::string& name) {
  if (!shards_) return read_file(folder_ / name, std::uint64_t{64} << 20);
  const auto found = std::lower_bound(
      catalog_.tiles.begin(), catalog_.tiles.end(), name,
      [](const Tile& tile, const std::string& wanted) { return tile.name < wanted; });
  if (found == catalog_.tiles.end() || found->name != name) return {};
  Bytes png;
  shards_->read(static_cast<std::size_t>(found - catalog_.tiles.begin()), png);
  return png;
}

std::string TilePictures::uri(const std::string& name) {
  if (folder_.empty() || !stays_inside(name)) return {};
  try {
    return thumbnail_uri(decode_png(read(name)));
  } catch (const Error&) {
    return {};
  }
}

}  // namespace quadrat::report
