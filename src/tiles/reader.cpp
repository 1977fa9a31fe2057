#include "quadrat/tiles/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"
#include "quadrat/image/png.h"

namespace quadrat {

TileReader::TileReader(const Catalog& catalog)
    : catalog_(catalog), shards_(catalog.root, catalog.shards) {}

void TileReader::read(std::size_t index, Bytes& buffer) {
  using std::chrono_literals::operator""ms;
  constexpr std::array kPauses{100ms, 500ms, 2000ms};
  const Tile& tile = catalog_.tiles.at(index);
  for (const auto pause : kPauses) {
    try {
      read_once(tile, buffer);
      return;
    } catch (const IoError& error) {
      if (!error.is_of_storage()) throw;
    }
    if (tile.shard != Tile::kOwnFile) shards_.close(static_cast<std::uint32_t>(tile.shard));
    std::this_thread::sleep_for(pause);
  }
  read_once(tile, buffer);
}

void TileReader::read_once(const Tile& tile, Bytes& buffer) {
  constexpr std::uint64_t kMaxTileBytes = std::uint64_t{1} << 28;
  if (tile.shard == Tile::kOwnFile) {
    read_file_into(catalog_.root / tile.name, buffer, kMaxTileBytes);
  } else {
    try {
      shards_.read(static_cast<std::uint32_t>(tile.shard), tile.offset, tile.size_bytes, tile.crc32,
                   buffer);
    } catch (const InputError& error) {
      throw InputError("use tile", (catalog_.root / tile.name).native(), error.what());
    }
  }
}

std::string tile_of_other_size(const Catalog& catalog, std::uint32_t side_px) {
  constexpr std::size_t kTried = 8;
  TileReader reader(catalog);
  Bytes png;
  std::string odd;
  for (std::size_t i = 0; i < std::min(kTried, catalog.tiles.size()); ++i) {
    PngSize size{};
    try {
      reader.read(i, png);
      size = read_png_size(png);
    } catch (const IoError& error) {
      if (error.is_of_storage()) return {};  // whoever uses the tile says so
      continue;
    } catch (const Error&) {
      continue;
    }
    if (size.width_px == side_px && size.height_px == side_px) return {};
    if (odd.empty()) {
      odd = fmt::format("'{}' is {}x{} px", printable(catalog.tiles[i].name), size.width_px,
                        size.height_px);
    }
  }
  return odd;
}

}  // namespace quadrat
