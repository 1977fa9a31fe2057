#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "quadrat/mpi/unit_dealer.h"

namespace quadrat::score {

using mpi::UnitDealer;

/// How a set of tiles is cut into units of consecutive tiles, the grain of dealing out work and of
/// what a killed run repeats: 1,024 each, towards the end fewer and fewer, so that ranks of uneven
/// speed end at about the same time.
///
/// Depends on the numbers of tiles and of tiles in a batch alone, so that a run can go on with
/// another number of ranks. Sizes are multiples of `batch` but for the last: every tile is computed
/// in the same company whatever the ranks do.
class Units {
 public:
  Units() = default;
  Units(std::size_t tiles, std::size_t batch);

  std::size_t count() const { return firsts_.empty() ? 0 : firsts_.size() - 1; }
  std::size_t first(std::uint64_t unit) const {
    return firsts_[unit];
  }  ///< tile, of unit < count()
  std::size_t size(std::uint64_t unit) const { return firsts_[unit + 1] - firsts_[unit]; }

 private:
  std::vector<std::size_t> firsts_;  // and the number of tiles
};

}  // namespace quadrat::score
