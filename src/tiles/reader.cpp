#include "quadrat/tiles/reader.h"

namespace quadrat {

TileReader::TileReader(const Catalog& catalog)
    : catalog_(catalog), shards_(catalog.root, catalog.shards) {}

void TileReader::read(std::size_t index, Bytes& buffer) {
  constexpr std::uint64_t kMaxTileBytes = std::uint64_t{1} << 28;
  const Tile& tile = catalog_.tiles.at(index);
  if (tile.shard == Tile::kOwnFile) {
    read_file_into(catalog_.root / tile.name, buffer, kMaxTileBytes);
  } else {
    shards_.read(static_cast<std::uint32_t>(tile.shard), tile.offset, tile.size_bytes, tile.crc32,
                 buffer);
  }
}

}  // namespace quadrat
