#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "quadrat/base/files.h"
#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/shard.h"

namespace quadrat {

/// Brings tiles' PNG bytes from single files or packed shards. Shards are opened on first use and
/// stay open. Not thread-safe: one reader a thread. The catalog must outlive it.
class TileReader {
 public:
  explicit TileReader(const Catalog& catalog);
  TileReader(const TileReader&) = delete;
  TileReader& operator=(const TileReader&) = delete;

  /// The PNG of catalog.tiles[index] into `buffer`, which is reused between calls. Where a disk or
  /// a file server fails, three more times within 2.6 s, each with the file opened anew.
  /// @throws InputError naming the tile, and the shard that is cut short or was changed since it
  /// was indexed; IoError naming the file that cannot be read, which may be the shard
  void read(std::size_t index, Bytes& buffer);

 private:
  void read_once(const Tile& tile, Bytes& buffer);

  const Catalog& catalog_;
  ShardReader shards_;
};

/// Whether a set is of another size: of a few of its tiles none is `side_px` wide and high, and one
/// is told. Tiles that cannot be read say nothing.
/// @return that tile's name and size, such as "'a.png' is 96x96 px"; empty where there is none
std::string tile_of_other_size(const Catalog& catalog, std::uint32_t side_px);

}  // namespace quadrat
