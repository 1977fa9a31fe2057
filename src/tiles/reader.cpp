#include "quadrat/tiles/reader.h"

#include <array>
#include <chrono>
#include <thread>

#include "quadrat/base/error.h"

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
    shards_.read(static_cast<std::uint32_t>(tile.shard), tile.offset, tile.size_bytes, tile.crc32,
                 buffer);
  }
}

}  // namespace quadrat
