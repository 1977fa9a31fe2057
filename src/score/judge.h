#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quadrat/mpi/communicator.h"
#include "quadrat/score/plan.h"
#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/reader.h"

namespace quadrat::score {

/// Decodes tiles into buffers, leaving out those that cannot be.
class TileLoader {
 public:
  TileLoader(const Catalog& catalog, std::uint32_t tile_px);

  /// @param pixels [tile_px, tile_px, 3]
  bool load(std::size_t tile, std::span<std::uint8_t> pixels);
  std::size_t bytes() const { return bytes_; }

 private:
  TileReader reader_;
  std::uint32_t side_px_;
  std::size_t bytes_;
  Bytes png_;
};

/// What a plan says of labelled tiles.
struct Verdicts {
  struct Verdict {
    float confidence = 0;  ///< the likeliest class's probability
    bool is_right = false;
    bool was_seen = false;  ///< false of a tile that could not be read
  };
  std::vector<Verdict> tiles;  ///< in the catalog's order
  double tiles_per_s = 0;      ///< of one rank, computing alone

  std::uint64_t seen() const;
  std::uint64_t wrong() const;
};

/// Collective: the tiles are dealt over the ranks. Whole on rank 0.
/// A plan of smaller tiles than `tile_px` is shown their middles. A rank that was asked to stop
/// leaves out the rest of its tiles.
Verdicts judge(Plan& plan, const Catalog& tiles, std::uint32_t tile_px,
               const mpi::Communicator& ranks);

}  // namespace quadrat::score
