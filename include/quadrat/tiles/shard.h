#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "quadrat/base/files.h"

namespace quadrat {

/// Packed shards: plain .tar files in WebDataset layout (KEY.png, and KEY.cls where the class is
/// known), so that tar and Python's webdataset read them too, with an index beside them,
/// shards.tsv:
///
///     shard<TAB>key<TAB>label<TAB>offset<TAB>size<TAB>crc32
///
/// one line a tile, header first, crc32 in hex.
///
/// The index says where each PNG is, so that a tile costs one pread and nobody walks the tars.
inline constexpr const char* kShardIndexName = "shards.tsv";

struct ShardEntry {
  std::uint32_t shard = 0;   ///< index into ShardSet::shards
  std::string key;           ///< tile name without ".png"; may hold '/'
  std::string label;         ///< class name, empty where unknown
  std::uint64_t offset = 0;  ///< of the PNG's first byte in the .tar
  std::uint32_t size_bytes = 0;
  std::uint32_t crc32 = 0;  ///< of the PNG's bytes (zlib's CRC-32)
};

struct ShardSet {
  std::vector<std::string> shards;  ///< file names below the folder
  std::vector<ShardEntry> entries;  ///< in the index's order
};

bool has_shard_index(const Path& folder);

/// @throws InputError naming the index's line that is wrong, a shard that is missing or shorter
/// than its index says
ShardSet read_shard_index(const Path& folder);

/// Reads tiles out of shards by pread; the kMostOpen shards opened last stay open. Where tiles are
/// asked for in the order that they lie in, what follows is fetched meanwhile: a file server's
/// latency is then no longer paid for each tile. Not thread-safe.
class ShardReader {
 public:
  /// Few, since each of a rank's decoding threads has a reader, and a process often may open 1024.
  static constexpr std::size_t kMostOpen = 32;

  ShardReader(Path folder, std::vector<std::string> shards);
  ~ShardReader();
  ShardReader(const ShardReader&) = delete;
  ShardReader& operator=(const ShardReader&) = delete;

  /// @throws IoError, or InputError naming the shard where it ends early or the checksum differs
  void read(std::uint32_t shard, std::uint64_t offset, std::uint32_t size_bytes,
            std::uint32_t crc32, Bytes& buffer);

  /// The next read opens the shard anew.
  void close(std::uint32_t shard);

 private:
  struct Open {
    std::uint32_t shard;
    int descriptor;
  };

  Path path_of(std::uint32_t shard) const { return folder_ / shards_.at(shard); }
  int open(std::uint32_t shard);
  void read_ahead(int descriptor, std::uint32_t shard, std::uint64_t begin, std::uint64_t end);

  Path folder_;
  std::vector<std::string> shards_;
  std::deque<Open> open_;  ///< the oldest first
  std::uint32_t last_shard_ = 0;
  std::uint64_t last_end_ = 0;  ///< of the tile read last
  std::uint64_t ahead_ = 0;     ///< up to where that shard has been asked for
};

}  // namespace quadrat
