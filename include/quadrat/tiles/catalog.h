#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quadrat/base/files.h"

namespace quadrat {

/// One tile: where its PNG is and what it shows.
struct Tile {
  static constexpr std::int32_t kNoLabel = -1;
  static constexpr std::int32_t kOwnFile = -1;

  std::string name;  ///< path below the root: "Forest/m_37_12.png"; in a shard, its key with ".png"
  std::int32_t label = kNoLabel;  ///< index into Catalog::classes
  std::int32_t shard = kOwnFile;  ///< index into Catalog::shards, or a file of its own
  std::uint64_t offset = 0;       ///< of the PNG's first byte in the shard
  std::uint32_t size_bytes = 0;   ///< of the PNG in the shard
  std::uint32_t crc32 = 0;        ///< of the PNG in the shard, from its index
};

/// What a folder of tiles holds, sorted by name. Made once on rank 0 and broadcast: nobody else
/// lists folders.
struct Catalog {
  Path root;
  std::vector<std::string> classes;  ///< sorted; empty for a set without labels
  std::vector<std::string>
      shards;  ///< packed shards below the root; empty where every tile is a file
  std::vector<Tile> tiles;

  Bytes serialize() const;
  static Catalog deserialize(std::span<const std::byte> bytes);

  /// Of all of it but the root: the same list somewhere else has the same.
  std::uint32_t checksum() const;
};

/// Lists class folders of PNGs: ROOT/<class>/<name>.png, or packed shards made by quadrat-pack.
/// @throws InputError: no such folder, no class folder, an empty class, a class name that is not
/// plain, a set that quadrat-cut has not finished
Catalog list_labelled_tiles(const Path& root);

/// Lists a set to score: PNGs directly in ROOT, in folders below it, or in packed shards. A first
/// level of folders gives labels where every tile is in one.
/// @throws InputError: no such folder, no tile, a set that quadrat-cut has not finished
Catalog list_tiles(const Path& root);

/// Keeps a seeded, class-balanced fraction of the tiles, at least one of each class. @throws
/// UsageError unless 0 < fraction <= 1
void sample_tiles(Catalog& catalog, double fraction, std::uint64_t seed);

}  // namespace quadrat
