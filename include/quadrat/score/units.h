#pragma once

#include <cstddef>

#include "quadrat/mpi/unit_dealer.h"

namespace quadrat::score {

using mpi::UnitDealer;

/// Tiles are scored in units of consecutive tiles, the grain of dealing out work and of what a killed run repeats.
/// The size depends on the number of tiles alone, so that a run can go on with another number of ranks: 1,024, or
/// less where that would leave ranks idle; always a multiple of `batch`, so that every tile is computed in the same
/// company whatever the ranks do.
std::size_t unit_size(std::size_t tiles, std::size_t batch);

}  // namespace quadrat::score
