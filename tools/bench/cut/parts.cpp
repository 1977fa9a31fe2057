// What a tile's time goes into on one core: reading its pixels, encoding the PNG, writing the file.
// The same calls as quadrat-cut's, one kind at a time over some rows of the image.
//
//   bench_cut_parts IMAGE FOLDER
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <vector>

#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/geo/cut.h"
#include "quadrat/geo/raster.h"
#include "quadrat/image/png.h"

namespace {

using namespace quadrat;
using geo::kTilePx;

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

void measure(const Path& path, const Path& folder) {
  geo::Raster raster = geo::Raster::open_imagery(path);
  const std::int64_t columns = raster.width_px() / kTilePx;
  const std::int64_t rows = std::min<std::int64_t>(raster.height_px() / kTilePx, 16);
  const std::int64_t width = columns * kTilePx;
  std::vector<std::uint8_t> strip(static_cast<std::size_t>(3 * width * kTilePx));
  std::vector<std::uint8_t> tile(static_cast<std::size_t>(3 * kTilePx * kTilePx));
  const geo::CutOptions defaults;
  double reading = 0;
  double encoding = 0;
  double writing = 0;
  std::uint64_t bytes = 0;
  std::int64_t tiles = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    auto begin = Clock::now();
    raster.read_rgb({0, row * kTilePx, width, kTilePx}, strip);
    reading += ms_since(begin);
    for (std::int64_t column = 0; column < columns; ++column, ++tiles) {
      begin = Clock::now();
      for (std::int64_t y = 0; y < kTilePx; ++y) {
        std::copy_n(strip.data() + 3 * (y * width + column * kTilePx), 3 * kTilePx,
                    tile.data() + 3 * y * kTilePx);
      }
      reading += ms_since(begin);
      begin = Clock::now();
      const Bytes png = encode_png(tile, kTilePx, kTilePx, static_cast<int>(defaults.png_level));
      encoding += ms_since(begin);
      begin = Clock::now();
      const Path file = folder / fmt::format("part_{}.png", tiles);
      std::ofstream(file, std::ios::binary)
          .write(reinterpret_cast<const char*>(png.data()), std::ssize(png));
      writing += ms_since(begin);
      ::unlink(file.c_str());
      bytes += png.size();
    }
  }
  const auto n = static_cast<double>(tiles);
  fmt::print(
      "of a tile's time on one core ({} tiles): reading {:.2f} ms, PNG {:.2f} ms ({:.0f} MB/s of "
      "pixels), writing {:.2f} ms\n",
      tiles, reading / n, encoding / n, n * 3 * kTilePx * kTilePx / 1e3 / encoding, writing / n);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: bench_cut_parts IMAGE FOLDER\n");
    return kExitUsage;
  }
  try {
    measure(argv[1], argv[2]);
  } catch (const Error& error) {
    fmt::print(stderr, "bench_cut_parts: {}\n", error.what());
    return kExitFailed;
  }
}
