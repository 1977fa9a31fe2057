#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/reader.h"

namespace quadrat {

struct StoreLimits {
  std::uint64_t memory_bytes = std::uint64_t{8} << 30;  ///< decoded tiles kept in memory
  Path scratch;  ///< folder on a local disk for those beyond; empty: they are decoded again each
                 ///< time
};

/// Decodes each tile once and keeps its pixels: in memory up to the limit, beyond it in an unlinked
/// file on the scratch disk. That is read, not mapped: mapped pages count as the process's memory,
/// which whoever enforces a limit does not forgive. One thread at a time.
class TileStore {
 public:
  /// @param tiles which of the catalog's tiles will be asked for, ascending; the catalog must
  /// outlive the store
  /// @throws IoError where the scratch file cannot be made
  TileStore(const Catalog& catalog, std::vector<std::uint32_t> tiles, std::uint32_t side_px,
            const StoreLimits& limits);
  ~TileStore();
  TileStore(const TileStore&) = delete;
  TileStore& operator=(const TileStore&) = delete;

  /// [side, side, 3]; valid until the next call. Decodes on first use.
  /// @throws as TileReader::read; InputError naming the tile: not a PNG, another size; IoError of
  /// the scratch file
  const std::uint8_t* pixels(std::uint32_t tile);

  /// Copies the pixels of these tiles, one after the other, decoding those that are not kept yet on
  /// several threads at once. @param tiles each at most once @param out [tiles, side, side, 3]
  /// @throws as pixels, for the first of the tiles that cannot be used
  void copy(std::span<const std::uint32_t> tiles, std::uint8_t* out, int threads);

  /// How many of the tiles are kept decoded, now.
  std::size_t decoded() const { return decoded_count_; }

 private:
  /// Each thread has its own.
  struct Decoder {
    explicit Decoder(const Catalog& catalog) : reader(catalog) {}
    TileReader reader;
    Bytes file;
  };

  bool is_kept(std::size_t position) const { return position < in_memory_ + in_scratch_; }
  void keep(std::size_t position, const std::uint8_t* pixels) const;
  void fetch(std::size_t position, std::uint8_t* target) const;
  std::size_t position_of(std::uint32_t tile) const;
  void decode(std::uint32_t tile, Decoder& decoder, std::uint8_t* target) const;

  const Catalog& catalog_;
  std::vector<std::unique_ptr<Decoder>> decoders_;  ///< one at least
  std::vector<std::uint32_t> tiles_;
  std::uint32_t side_px_;
  std::size_t tile_bytes_;
  std::size_t in_memory_ = 0;   ///< positions below this are in memory_
  std::size_t in_scratch_ = 0;  ///< the next so many are in scratch_
  std::uint8_t* memory_ = nullptr;
  int scratch_ = -1;  ///< the file's descriptor
  std::vector<bool> decoded_;
  std::size_t decoded_count_ = 0;
  std::vector<std::uint8_t> spare_;
};

}  // namespace quadrat
