#include "quadrat/geo/synth.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <thread>
#include <vector>

#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"

namespace quadrat::geo {

namespace {

/// NLCD's own colours, so that the map looks familiar in QGIS.
std::vector<std::array<std::uint8_t, 4>> land_cover_palette() {
  std::vector<std::array<std::uint8_t, 4>> palette(256, {0, 0, 0, 255});
  const auto set = [&](std::size_t code, std::uint8_t r, std::uint8_t g, std::uint8_t b) {
    palette[code] = {r, g, b, 255};
  };
  set(11, 70, 107, 159);
  set(21, 222, 197, 197);
  set(22, 217, 146, 130);
  set(23, 235, 0, 0);
  set(24, 171, 0, 0);
  set(31, 179, 172, 159);
  set(41, 104, 171, 95);
  set(42, 28, 95, 44);
  set(43, 181, 197, 143);
  set(52, 204, 184, 121);
  set(71, 223, 223, 194);
  set(81, 220, 217, 57);
  set(82, 171, 108, 40);
  set(90, 184, 217, 235);
  set(95, 108, 159, 184);
  return palette;
}

/// @return false where a stop signal came
bool write_land_cover(const SynthCounty& county, const Path& path) {
  constexpr double kPixel = 30;
  const PixelToMap image = county.pixel_to_map();
  const Projector to_albers(SynthCounty::crs(), SynthCounty::land_cover_crs());
  const Projector to_county(SynthCounty::land_cover_crs(), SynthCounty::crs());
  const auto side = static_cast<double>(county.side_px());
  std::vector<Point> border;
  for (int i = 0; i <= 16; ++i) {
    const double t = side * i / 16;
    for (const Point at : {image.at(t, 0), image.at(t, side), image.at(0, t), image.at(side, t)})
      border.push_back(at);
  }
  to_albers.transform(border);
  double west = 1e300, east = -1e300, south = 1e300, north = -1e300;
  for (const Point& point : border) {
    west = std::min(west, point.x);
    east = std::max(east, point.x);
    south = std::min(south, point.y);
    north = std::max(north, point.y);
  }
  RasterLayout layout;
  // On the national raster's grid, a pixel beyond the county on all sides.
  west = (std::floor(west / kPixel) - 1) * kPixel;
  north = (std::ceil(north / kPixel) + 1) * kPixel;
  layout.width_px = static_cast<std::int64_t>(std::ceil((east - west) / kPixel)) + 1;
  layout.height_px = static_cast<std::int64_t>(std::ceil((north - south) / kPixel)) + 1;
  layout.pixel_to_map = {{west, kPixel, 0, north, 0, -kPixel}};
  layout.crs = SynthCounty::land_cover_crs();
  layout.compression = "lzw";
  layout.nodata = 0;
  layout.palette = land_cover_palette();
  RasterWriter writer(path, layout);
  constexpr std::int64_t kBand = 256;  // rows of GeoTIFF blocks
  std::vector<std::uint8_t> codes;
  std::vector<Point> centres(static_cast<std::size_t>(layout.width_px));
  for (std::int64_t first = 0; first < layout.height_px; first += kBand) {
    if (stop_signal() != 0) return false;
    const std::int64_t rows = std::min(kBand, layout.height_px - first);
    codes.resize(static_cast<std::size_t>(rows * layout.width_px));
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::size_t c = 0; c < centres.size(); ++c) {
        centres[c] = layout.pixel_to_map.at(static_cast<double>(c) + 0.5,
                                            static_cast<double>(first + row) + 0.5);
      }
      to_county.transform(centres);
      for (std::size_t c = 0; c < centres.size(); ++c) {
        const Point at = image.inverse(centres[c]);
        codes[static_cast<std::size_t>(row * layout.width_px) + c] = county.code_at(at.x, at.y);
      }
    }
    writer.write_rows(rows, codes);
  }
  writer.close();
  return true;
}

}  // namespace

bool write_synth_county(const SynthOptions& options, const Path& image, const Path& land_cover,
                        const std::string& compression, bool progress) {
  const SynthCounty county(options);
  if (!write_land_cover(county, land_cover)) return false;

  RasterLayout layout;
  layout.width_px = county.side_px();
  layout.height_px = county.side_px();
  layout.bands = 3;
  layout.pixel_to_map = county.pixel_to_map();
  layout.crs = SynthCounty::crs();
  layout.compression = compression;
  RasterWriter writer(image, layout);
  const int threads = options.threads > 0
                          ? options.threads
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  constexpr std::int64_t kBand = 256;  // rows of GeoTIFF blocks
  const std::int64_t side = county.side_px();
  std::vector<std::uint8_t> rgb(static_cast<std::size_t>(3 * side * std::min(kBand, side)));
  Progress bar("painting", "rows", static_cast<std::uint64_t>(side), progress);
  for (std::int64_t first = 0; first < side; first += kBand) {
    if (stop_signal() != 0) return false;
    const std::int64_t rows = std::min(kBand, side - first);
    std::vector<std::jthread> workers;
    std::vector<std::exception_ptr> failures(static_cast<std::size_t>(threads));
    // Pieces begin on the lattice, so that each looks its patches up once.
    const std::int64_t piece = (rows / threads / SynthCounty::kLattice + 1) * SynthCounty::kLattice;
    for (int i = 0; i < threads; ++i) {
      const std::int64_t begin = std::min(rows, i * piece);
      const std::int64_t end = std::min(rows, begin + piece);
      if (begin == end) break;
      workers.emplace_back([&, i, begin, end] {
        try {
          county.paint(first + begin, end - begin,
                       std::span(rgb).subspan(static_cast<std::size_t>(3 * begin * side),
                                              static_cast<std::size_t>(3 * (end - begin) * side)));
        } catch (...) {
          failures[static_cast<std::size_t>(i)] = std::current_exception();
        }
      });
    }
    workers.clear();
    for (const std::exception_ptr& failure : failures) {
      if (failure) std::rethrow_exception(failure);
    }
    writer.write_rows(rows, std::span(rgb).first(static_cast<std::size_t>(3 * rows * side)));
    bar.update(static_cast<std::uint64_t>(first + rows));
  }
  bar.finish();
  writer.close();
  return true;
}

}  // namespace quadrat::geo
