// Reads the PNG bytes of a folder's tiles one after the other, as a rank does, from single files or
// from packed shards.
//
//   bench_read_tiles FOLDER [TILES]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/reader.h"

namespace {

using namespace quadrat;

void measure(const Path& folder, std::size_t most) {
  auto begin = Clock::now();
  const Catalog catalog = list_tiles(folder);
  const double listing = seconds_since(begin);
  const std::size_t tiles = std::min(most, catalog.tiles.size());
  begin = Clock::now();
  TileReader reader(catalog);
  Bytes buffer;
  double bytes = 0;
  for (std::size_t i = 0; i < tiles; ++i) {
    reader.read(i, buffer);
    bytes += static_cast<double>(buffer.size());
  }
  const double reading = seconds_since(begin);
  fmt::print(
      "{} of {} tiles from {}: listed in {:.1f} s, read in {:.1f} s, {:.0f} tiles/s, {:.0f} MB/s\n",
      tiles, catalog.tiles.size(), catalog.shards.empty() ? "single files" : "shards", listing,
      reading, static_cast<double>(tiles) / reading, bytes / 1e6 / reading);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    fmt::print(stderr, "usage: bench_read_tiles FOLDER [TILES]\n");
    return kExitUsage;
  }
  try {
    measure(argv[1], argc == 3 ? std::strtoull(argv[2], nullptr, 10)
                               : std::numeric_limits<std::size_t>::max());
  } catch (const Error& error) {
    fmt::print(stderr, "bench_read_tiles: {}\n", error.what());
    return kExitFailed;
  }
}
