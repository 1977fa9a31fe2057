#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quadrat/base/files.h"

namespace quadrat::geo {

/// Map coordinates: easting and northing, or longitude and latitude (x first, always).
struct Point {
  double x = 0;
  double y = 0;
};

/// Where pixels lie on the map, in GDAL's order of coefficients: at column c and row r (pixel
/// edges, not centres) x = k[0] + c k[1] + r k[2], y = k[3] + c k[4] + r k[5].
struct PixelToMap {
  std::array<double, 6> k{0, 1, 0, 0, 0, 1};

  Point at(double column, double row) const;
  /// The other way round: {column, row}. The raster's constructor has checked that there is one.
  Point inverse(Point map) const;
};

struct Window {
  std::int64_t column = 0;
  std::int64_t row = 0;
  std::int64_t width_px = 0;
  std::int64_t height_px = 0;
};

/// WGS 84 longitude and latitude, in degrees, as a Projector takes it.
inline constexpr const char* kLonLat = "EPSG:4326";

/// Takes points from one coordinate system to another. Not thread-safe.
class Projector {
 public:
  /// @param from, to WKT or "EPSG:26918" @throws InputError where PROJ knows no way between the two
  Projector(const std::string& from, const std::string& to);
  ~Projector();
  Projector(Projector&&) noexcept;
  Projector& operator=(Projector&&) noexcept;

  /// In place; a point that has no place in the other system becomes NaN.
  void transform(std::span<Point> points) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A georeferenced raster file of any format GDAL reads, open for reading. Not thread-safe.
class Raster {
 public:
  /// @throws InputError: not a raster, without coordinate system or transform
  explicit Raster(const Path& path);
  ~Raster();
  Raster(Raster&&) noexcept;
  Raster& operator=(Raster&&) noexcept;

  /// The same ground at one metre a pixel, north up, for cutting tiles: this raster itself where it
  /// is so already, else resampled as it is read (bilinear, averaging where it is finer): in its
  /// own projection where that has metres, else in the UTM zone of its centre. Web Mercator's are
  /// none: what counts is the ground at the centre, within 1.5 %. Where there is no source pixel,
  /// it is black.
  /// @throws InputError unless it has three or more bands of 8 bits
  static Raster open_imagery(const Path& path);

  const Path& path() const;
  std::int64_t width_px() const;
  std::int64_t height_px() const;
  int bands() const;
  const PixelToMap& pixel_to_map() const;
  const std::string& crs_wkt() const;
  /// Whether pixels are made on the fly rather than as the file has them.
  bool is_resampled() const;
  /// Whether one row of the file's blocks is more than GDAL's cache holds: then reading whole rows
  /// from the top down decodes blocks again and again, and parts of the width do not.
  bool outgrows_cache() const;

  /// Red, green and blue by colour interpretation, else bands 1, 2 and 3. Pixels that the file
  /// marks as missing (alpha, mask, nodata) are black. @param rgb [height, width, 3], within the
  /// raster
  /// @throws InputError naming the file and the rows where it cannot be read: cut short, damaged
  void read_rgb(const Window& window, std::span<std::uint8_t> rgb);

  /// One band (from 1), of any type that holds whole numbers. @param values [height, width]; what
  /// int32 does not hold is clamped
  /// @throws as read_rgb
  void read_band(int band, const Window& window, std::span<std::int32_t> values);

  /// The band's nodata value, clamped as read_band does, or `otherwise`.
  std::int32_t nodata(int band, std::int32_t otherwise) const;

 private:
  struct State;
  explicit Raster(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct RasterLayout {
  std::int64_t width_px = 0;
  std::int64_t height_px = 0;
  int bands = 1;
  PixelToMap pixel_to_map;
  std::string crs;                   ///< WKT or "EPSG:26918"
  std::string compression = "none";  ///< none, lzw, deflate, jpeg
  int nodata = -1;                   ///< declared in the file; -1 for none
  /// Colour of each pixel value, {r, g, b, a}, for maps of classes; empty for none.
  std::vector<std::array<std::uint8_t, 4>> palette;
};

/// Writes an 8-bit tiled GeoTIFF from the top down, a band of rows at a time. The file appears
/// under its name when close() has put all of it on the disk; a writer destroyed before leaves
/// nothing.
class RasterWriter {
 public:
  /// @throws IoError
  RasterWriter(const Path& path, const RasterLayout& layout);
  ~RasterWriter();
  RasterWriter(const RasterWriter&) = delete;
  RasterWriter& operator=(const RasterWriter&) = delete;

  /// The next `rows` rows. @param pixels [rows, width, bands] @throws IoError
  void write_rows(std::int64_t rows, std::span<const std::uint8_t> pixels);

  /// After the last row. @throws IoError
  void close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quadrat::geo
