#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quadrat::score {

/// The first step of a cascade: the network is shown the middle of a tile, at the resolution it was
/// trained on, and what it is sure of there is settled; the other tiles are computed whole. A tile
/// is of one land cover by the rule it was labelled by, so that its middle often says as much as
/// all of it.
struct QuickLook {
  std::uint32_t side_px = 0;  ///< of the middle; 0: tiles are computed whole at once
  float threshold = 0;        ///< the likeliest class's probability from which a tile is settled

  explicit operator bool() const { return side_px > 0; }
};

/// Whether the look, as a file has it, can be given to tiles of that size.
bool is_possible(const QuickLook& look, std::uint32_t tile_px);

/// Copies the middle [side, side, 3] of a tile [tile_px, tile_px, 3]; side <= tile_px.
void copy_middle(const std::uint8_t* tile, std::uint32_t tile_px, std::uint32_t side_px,
                 std::uint8_t* middle);

/// What a look and the whole network said of a tile whose class is known.
struct Compared {
  float confidence = 0;  ///< the look's likeliest class's probability
  bool look_is_right = false;
  bool whole_is_right = false;
};

struct Settlement {
  float threshold = 0;
  std::size_t settled = 0;  ///< tiles with at least that confidence; 0: not one may be settled
  /// Of them, those the look alone has wrong less those the whole network alone has wrong.
  std::int64_t more_wrong = 0;
};

/// The lowest threshold at which settling tiles, and at every higher threshold too, adds at most
/// `most_more_wrong` wrong ones: a threshold that is good by a stroke of luck beyond bad ones is
/// not taken.
Settlement lowest_threshold(std::vector<Compared> tiles, std::int64_t most_more_wrong);

}  // namespace quadrat::score
