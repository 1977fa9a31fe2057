#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "quadrat/base/error.h"
#include "quadrat/geo/raster.h"

namespace quadrat::geo::test {

/// A folder of this process's own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "quadrat_geo_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw IoError::from_errno("create folder", name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const Path& path() const { return path_; }

 private:
  Path path_;
};

/// An image in UTM 18N whose pixel at (x, y) is colour(x, y).
inline void write_image(
    const Path& path, std::int64_t width, std::int64_t height,
    const std::function<std::array<std::uint8_t, 3>(std::int64_t, std::int64_t)>& colour,
    const PixelToMap& place = {{300000, 1, 0, 4500000, 0, -1}}, int nodata = -1) {
  RasterLayout layout;
  layout.width_px = width;
  layout.height_px = height;
  layout.bands = 3;
  layout.pixel_to_map = place;
  layout.crs = "EPSG:26918";
  layout.nodata = nodata;
  std::vector<std::uint8_t> rgb;
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      const auto c = colour(x, y);
      rgb.insert(rgb.end(), c.begin(), c.end());
    }
  }
  RasterWriter writer(path, layout);
  writer.write_rows(height, rgb);
  writer.close();
}

/// Land cover at 32 m over the same place; 224 m are seven of its pixels.
inline void write_codes(const Path& path, std::int64_t width, std::int64_t height,
                        const std::function<std::uint8_t(std::int64_t, std::int64_t)>& code,
                        const PixelToMap& place = {{300000, 32, 0, 4500000, 0, -32}}) {
  RasterLayout layout;
  layout.width_px = width;
  layout.height_px = height;
  layout.pixel_to_map = place;
  layout.crs = "EPSG:26918";
  layout.nodata = 0;
  std::vector<std::uint8_t> codes;
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) codes.push_back(code(x, y));
  }
  RasterWriter writer(path, layout);
  writer.write_rows(height, codes);
  writer.close();
}

inline std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline std::string text_of(const Path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace quadrat::geo::test
