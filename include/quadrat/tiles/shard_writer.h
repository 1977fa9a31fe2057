#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/tiles/shard.h"

namespace quadrat {

/// Writes one packed shard (see shard.h): a POSIX tar with KEY.png for each tile, and KEY.cls, the
/// class's index as text, where it has one. The same tiles give the same bytes: no times, no
/// owners. The file appears under its name when close() has put all of it on the disk; a writer
/// destroyed before leaves nothing. Not thread-safe.
class ShardWriter {
 public:
  /// @throws IoError
  explicit ShardWriter(const Path& path);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /// @param key tile name without ".png"; may hold '/', but no dot in its last part: webdataset
  /// splits names there
  /// @param class_index written to KEY.cls; negative for none
  /// @return where the PNG went; its shard and label are for the caller to fill in
  /// @throws InputError for a key that cannot be one, IoError
  ShardEntry add(const std::string& key, std::int32_t class_index, std::span<const std::byte> png);

  /// The last step. @throws IoError
  void close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Writes shards.tsv, the last step: a folder with an index is a whole set. @throws IoError
void write_shard_index(const Path& folder, const ShardSet& set);

/// What is wrong with one shard of a set.
struct ShardFault {
  std::string shard;
  std::string finding;
};

/// Reads every tile of the shards `first`, `first + step`, ... and compares checksums, until a
/// stop signal comes (see base/signals.h). @return the faulty shards, each once
std::vector<ShardFault> verify_shards(const Path& folder, const ShardSet& set,
                                      std::size_t first = 0, std::size_t step = 1);

}  // namespace quadrat
